// The client of `@modelcontextprotocol/client` 2, which supports 2026-07-28 and earlier versions.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { scenario } from "./scenario.mjs";

const capabilities = { sampling: {}, elicitation: { form: {} }, roots: { listChanged: true } };
const client = new Client(
  { name: "compare", version: "1" },
  { capabilities, versionNegotiation: { mode: process.argv[2] } },
);
const methods = {
  CreateMessageRequest: "sampling/createMessage",
  ElicitRequest: "elicitation/create",
  ListRootsRequest: "roots/list",
};
await scenario(client, { StdioClientTransport, StreamableHTTPClientTransport }, (name, answer) =>
  client.setRequestHandler(methods[name], answer),
);
