/**
 * A refund of 250 dollars with an MCP server: the first call is pending, a person approves in another process, the same call
 * then runs.
 *
 * Usage: mcp-refund.mjs GATEWAY, the path of the program `actpass-gateway`. The calls of the model are scripted.
 */

import { ActPass } from '@actpass/sdk';
import { guardServer } from '@actpass/sdk/mcp';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const server = guardServer(actpass, new McpServer({ name: 'payments', version: '1.0.0' }), {
    refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' },
  });
  server.registerTool(
    'refund',
    {
      description: 'Refund a charge',
      inputSchema: { charge: z.string(), amount: z.number(), currency: z.string() },
    },
    async ({ charge, amount }) => {
      console.log(`refunding ${charge}: ${amount}`);
      return { content: [{ type: 'text', text: `refunded ${amount}` }] };
    },
  );

  const client = new Client({ name: 'support_agent', version: '1.0.0' });
  const [ours, theirs] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(theirs), client.connect(ours)]);
  const call = { name: 'refund', arguments: { charge: 'ch_2', amount: 25_000, currency: 'usd' } };

  const { isError, content } = await client.callTool(call);
  console.log(`paused: ${isError} ${content[0].text}`);

  await approveElsewhere(baseUrl);

  const again = await client.callTool(call);
  console.log(again.content[0].text);
  await client.close();
});
