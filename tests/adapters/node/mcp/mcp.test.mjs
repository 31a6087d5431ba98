import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { CallToolResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { UNGUARDED } from '@actpass/sdk';
import { guardClient, guardServer } from '@actpass/sdk/mcp';
import { z } from 'zod';
import {
  ACTION,
  ALLOW,
  ALLOWED,
  adapterCase,
  assertBlocked,
  commonCases,
  decide,
  exampleCase,
  DENIED,
  NEEDS_APPROVAL,
  newClient,
  pendingIds,
  withGateway,
  typesCase,
  withScript,
} from './support.mjs';

const FRAMEWORK = 'mcp';
const adapter = (name, variant, ran, body) => adapterCase(FRAMEWORK, name, variant, ran, body);
const ACTIONS = { refund: ACTION, clock: UNGUARDED };
const SHAPE = { charge: z.string(), amount: z.number(), currency: z.string().default('usd') };
const content = (text) => ({ content: [{ type: 'text', text }] });
const newServer = () => new McpServer({ name: 'payments', version: '1.0.0' });

/** Registers the tools of `effects`. */
function register(server, effects) {
  const refund = async (args) => content(await effects.refund(args));
  const registered = server.registerTool('refund', { description: 'Refund a charge', inputSchema: SHAPE }, refund);
  server.registerTool('clock', { description: 'The time' }, async () => content(await effects.clock()));
  return registered;
}

/** Connects a client to `server` while `body` runs. */
async function connected(server, body) {
  const client = new Client({ name: 'agent', version: '1.0.0' });
  const [ours, theirs] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(theirs), client.connect(ours)]);
  try {
    return await body(client);
  } finally {
    await client.close();
  }
}

/** Ways to send a call. */
const SEND = {
  callTool: (client, params, signal) => client.callTool(params, undefined, { signal }),
  request: (client, params, signal) =>
    client.request({ method: 'tools/call', params }, CallToolResultSchema, { signal }),
  stream: async (client, params, signal) => {
    for await (const message of client.experimental.tasks.callToolStream(params, undefined, { signal })) {
      if (message.type === 'result') return message.result;
      if (message.type === 'error') throw message.error;
    }
  },
};

for (const [where, sends] of [
  ['server', ['callTool']],
  ['client', ['callTool', 'request', 'stream']],
]) {
  commonCases({
    framework: FRAMEWORK,
    ways: sends.map((send) => `${where}, ${send}`),
    UNGUARDED,
    aborts: true,
    parallel: true,
    evaluatesOutside: where === 'client',
    knowsTools: false,
    constructs: false,
    async run({ client, effects, calls, actions, options, signal, way }) {
      const server = where === 'server' ? guardServer(client, newServer(), actions, options) : newServer();
      register(server, effects);
      return connected(server, async (mcp) => {
        const guarded = where === 'client' ? guardClient(client, mcp, actions, options) : mcp;
        const send = SEND[way.split(', ')[1]];
        const results = await Promise.all(
          calls.map(async ({ name, args }) => send(guarded, { name, arguments: args }, signal)),
        );
        for (const { isError, content } of results) {
          assert.equal(isError === true, /was not run|fire|Invalid/.test(content[0].text));
        }
        return results.map((result) => result.content[0].text);
      });
    },
  });
  adapter('coverage: unmapped', where, 0, (effects) =>
    withScript(
      () => ALLOW,
      async (baseUrl, asked) => {
        const client = newClient(baseUrl);
        const actions = { clock: UNGUARDED };
        const server = where === 'server' ? guardServer(client, newServer(), actions) : newServer();
        register(server, effects);
        await connected(server, async (mcp) => {
          const guarded = where === 'client' ? guardClient(client, mcp, actions) : mcp;
          const { isError, content } = await guarded.callTool({ name: 'refund', arguments: ALLOWED });
          assert.equal(isError, true);
          assertBlocked(content[0].text, 'actpass.unmapped_tool');
        });
        assert.equal(asked.length, 0);
      },
    ),
  );
}

/** Calls `refund` of a guarded server after `change`. */
async function changed(baseUrl, effects, args, change, name = 'refund') {
  const server = guardServer(newClient(baseUrl), newServer(), ACTIONS);
  change(server, register(server, effects));
  return connected(server, async (mcp) => (await mcp.callTool({ name, arguments: args })).content[0].text);
}

adapter('coverage: added later', 'registerTool', 0, async (effects) => {
  const server = newServer();
  register(server, effects);
  assert.throws(
    () => guardServer(newClient('http://127.0.0.1:9'), server, ACTIONS),
    /found refund, clock: register them/,
  );
});
adapter('coverage: added later', 'update of the callback', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const callback = async (args) => content(await effects.refund(args));
    const text = await changed(baseUrl, effects, DENIED, (_server, refund) => refund.update({ callback }));
    assertBlocked(text, 'refund.over_limit');
  }),
);
adapter('coverage: aliased', 'renamed', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const text = await changed(baseUrl, effects, ALLOWED, (_server, refund) => refund.update({ name: 'pay' }), 'pay');
    assertBlocked(text, 'actpass.unmapped_tool');
  }),
);
for (const [variant, rest] of [
  ['with a schema', [SHAPE]],
  ['with a description and a schema', ['Refund', SHAPE]],
]) {
  adapter('deny', `server.tool ${variant}`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const server = guardServer(newClient(baseUrl), newServer(), ACTIONS);
      server.tool('refund', ...rest, async (args) => content(await effects.refund(args)));
      await connected(server, async (mcp) => {
        const result = await mcp.callTool({ name: 'refund', arguments: DENIED });
        assertBlocked(result.content[0].text, 'refund.over_limit');
      });
    }),
  );
}
adapter('unguarded', 'server.tool without a schema', 1, (effects) =>
  withGateway(async (baseUrl) => {
    const server = guardServer(newClient(baseUrl), newServer(), ACTIONS);
    server.tool('clock', async () => content(await effects.clock()));
    await connected(server, async (mcp) => {
      assert.equal((await mcp.callTool({ name: 'clock' })).content[0].text, 'noon');
    });
  }),
);
adapter('coverage: bypass', 'a tool that is a task', 0, async (effects) => {
  const server = guardServer(newClient('http://127.0.0.1:9'), newServer(), ACTIONS);
  const handler = { createTask: effects.refund, getTask: effects.refund, getTaskResult: effects.refund };
  const config = { inputSchema: SHAPE, execution: { taskSupport: 'optional' } };
  assert.throws(() => server.experimental.tasks.registerToolTask('refund', config, handler), /nothing here can guard/);
});
adapter('approval held too long', 'the client gives up', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const server = guardServer(newClient(baseUrl), newServer(), ACTIONS, { approvals: 'hold', holdMs: 30_000 });
    register(server, effects);
    await connected(server, async (mcp) => {
      const params = { name: 'refund', arguments: NEEDS_APPROVAL };
      const controller = new AbortController();
      const call = mcp.callTool(params, undefined, { signal: controller.signal });
      call.catch(() => {});
      while ((await pendingIds(baseUrl)).length === 0);
      controller.abort(new Error('the client gives up'));
      await assert.rejects(call, /gives up/);
      await decide(baseUrl, 'approve');
      assert.equal(effects.ran.length, 0);
    });
  }),
);

const AUDIENCE = 'mcp://payments';

/** Returns a passport for refunds of at most 5000. */
async function issue(baseUrl, more = {}) {
  const passport = {
    agent_id: 'planner',
    audience: AUDIENCE,
    goal: 'resolve_refund_request',
    allowed_tools: [ACTION.tool],
    resource_constraints: { max_amount: 5000, currency: 'usd' },
    ...more,
  };
  const response = await fetch(`${baseUrl}/api/v1/passports/issue`, {
    method: 'POST',
    headers: { authorization: 'Bearer apk_dev', 'content-type': 'application/json' },
    body: JSON.stringify(passport),
  });
  return (await response.json()).token;
}

/** Runs a server over HTTP that requires passports while `body` runs. */
async function withPassports(baseUrl, effects, body) {
  const http = createServer(async (request, response) => {
    const server = guardServer(newClient(baseUrl), newServer(), ACTIONS, { requirePassport: AUDIENCE });
    register(server, effects);
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    response.on('close', () => void server.close());
    await server.connect(transport);
    await transport.handleRequest(request, response);
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  try {
    await body(new URL(`http://127.0.0.1:${http.address().port}/mcp`));
  } finally {
    http.closeAllConnections();
    http.close();
  }
}

/** Calls `refund` over HTTP with the passport in `_meta` or in `Authorization`, and returns the text. */
async function presenting(url, token, carrier, amount = ALLOWED.amount) {
  const headers = token && carrier === 'authorization' ? { authorization: `Bearer ${token}` } : {};
  const meta = token && carrier === 'meta' ? { _meta: { 'actpass/passport': token } } : {};
  const client = new Client({ name: 'agent', version: '1.0.0' });
  await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
  try {
    const result = await client.callTool({ name: 'refund', arguments: { ...ALLOWED, amount }, ...meta });
    return result.content[0].text;
  } finally {
    await client.close();
  }
}

for (const carrier of ['meta', 'authorization']) {
  adapter('passport', carrier, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const valid = await issue(baseUrl);
      const expired = await issue(baseUrl, { ttl_seconds: 1 });
      // Beyond the leeway of an offline verification, which is 10 s.
      const late = sleep(12_000);
      // The claims of a wider passport with the signature of this one.
      const wider = await issue(baseUrl, { resource_constraints: {} });
      const widened = [...wider.split('.').slice(0, 2), valid.split('.')[2]].join('.');
      await withPassports(baseUrl, effects, async (url) => {
        assertBlocked(await presenting(url, undefined, carrier), 'passport.missing');
        const other = await issue(baseUrl, { audience: 'mcp://bank' });
        assertBlocked(await presenting(url, other, carrier), 'passport.audience');
        assertBlocked(await presenting(url, widened, carrier), 'passport.signature');
        assertBlocked(await presenting(url, valid, carrier, 5001), 'passport.constraint');
        assert.equal(effects.ran.length, 0);
        assert.equal(await presenting(url, valid, carrier), `refunded ${ALLOWED.amount}`);
        assertBlocked(await presenting(url, valid, carrier), 'passport.replayed');
        await late;
        assertBlocked(await presenting(url, expired, carrier), 'passport.expired');
      });
    }),
  );
}
exampleCase(FRAMEWORK, 'mcp-refund.mjs');
typesCase(FRAMEWORK, 'mcp-node.md');
