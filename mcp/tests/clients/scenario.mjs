// The requests of a client. usage: client.mjs MODE URL | client.mjs MODE COMMAND ARGUMENT…

/** Sends each request that the server supports, one after the other; errors are results. */
export async function scenario(client, transports, handle) {
  handle("CreateMessageRequest", async () => ({
    model: "m",
    role: "assistant",
    content: { type: "text", text: "sampled" },
  }));
  handle("ElicitRequest", async () => ({ action: "decline" }));
  handle("ListRootsRequest", async () => ({ roots: [{ uri: "file:///tmp", name: "tmp" }] }));
  const [url, ...args] = process.argv.slice(3);
  const transport = url.startsWith("http://")
    ? new transports.StreamableHTTPClientTransport(new URL(url))
    : new transports.StdioClientTransport({ command: url, args, env: process.env, stderr: "ignore" });
  await client.connect(transport);
  const attempt = async (run) => {
    try {
      return await run();
    } catch (error) {
      return error;
    }
  };
  const has = client.getServerCapabilities() ?? {};
  await attempt(() => client.ping());
  if (has.logging) await attempt(() => client.setLoggingLevel("warning"));
  const { tools } = await client.listTools();
  const names = new Set(tools.map((tool) => tool.name));
  const calls = [
    ["echo", { message: "é\u2028 \\ \" 1.00" }],
    ["get-sum", { a: 1, b: 2.5 }],
    ["get-sum", { a: "no" }],
    ["get-structured-content", { location: "New York" }],
    ["trigger-long-running-operation", { duration: 0.05, steps: 2 }],
    ["trigger-sampling-request", { prompt: "p", maxTokens: 5 }],
    ["trigger-elicitation-request", {}],
    ["get-roots-list", {}],
    ["refunds.create", { amount: 4900, currency: "usd" }],
    ["fails", {}],
    ["progresses", {}],
    ["list_allowed_directories", {}],
    ["read_text_file", { path: process.env.COMPARE_FILE }],
    ["read_text_file", { path: "/nonexistent" }],
  ];
  for (const [name, args] of calls) {
    if (!names.has(name)) continue;
    await attempt(() => client.callTool({ name, arguments: args }, undefined, { onprogress: () => {} }));
  }
  await attempt(() => client.callTool({ name: "no-such-tool", arguments: {} }));
  if (has.resources) {
    const { resources } = await client.listResources();
    await attempt(() => client.listResourceTemplates());
    if (resources.length) await attempt(() => client.readResource({ uri: resources[0].uri }));
    if (has.resources.subscribe && resources.length) {
      await attempt(() => client.subscribeResource({ uri: resources[0].uri }));
      await attempt(() => client.unsubscribeResource({ uri: resources[0].uri }));
    }
  }
  if (has.prompts) {
    const { prompts } = await client.listPrompts();
    const plain = prompts.find((prompt) => !prompt.arguments?.length);
    if (plain) await attempt(() => client.getPrompt({ name: plain.name }));
    const ref = { type: "ref/prompt", name: "completable-prompt" };
    const argument = { name: "department", value: "E" };
    if (has.completions) await attempt(() => client.complete({ ref, argument }));
  }
  await attempt(() => transport.terminateSession?.());
  await client.close();
  process.exit(0);
}
