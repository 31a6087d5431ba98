import { createSdkMcpServer, type Options, tool } from '@anthropic-ai/claude-agent-sdk';
import { ActPass, UNGUARDED } from '@actpass/sdk';
import { guardTool, preToolUse } from '@actpass/sdk/claude-agent';
import { z } from 'zod';

const client = new ActPass();
const refund = tool('refund', 'Refund', { amount: z.number() }, async ({ amount }) => ({
  content: [{ type: 'text', text: `${amount}` }],
}));
const guarded = guardTool(client, refund, { tool: 'stripe.refund.create', goal: 'g' });
export const options: Options = {
  mcpServers: { payments: createSdkMcpServer({ name: 'payments', tools: [guarded] }) },
  hooks: { PreToolUse: [preToolUse(client, { mcp__payments__refund: UNGUARDED })] },
};
