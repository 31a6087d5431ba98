import { ActPass } from '@actpass/sdk';
import { guardClient, guardServer } from '@actpass/sdk/mcp';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { z } from 'zod';

const actions = { refund: { tool: 'stripe.refund.create', goal: 'g' } };
const server: McpServer = guardServer(new ActPass(), new McpServer({ name: 'payments', version: '1.0.0' }), actions);
server.registerTool('refund', { inputSchema: { amount: z.number() } }, async ({ amount }) => ({
  content: [{ type: 'text', text: `${amount.toFixed(2)}` }],
}));
const client: Client = guardClient(new ActPass(), new Client({ name: 'agent', version: '1.0.0' }), actions, {
  approvals: 'hold',
  holdMs: 1000,
});
void client.callTool({ name: 'refund' });
