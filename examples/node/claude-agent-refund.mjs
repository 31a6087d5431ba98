/**
 * A refund of 250 dollars with the Claude Agent SDK: the first call is pending, a person approves in another process,
 * the same call then runs.
 *
 * Usage: claude-agent-refund.mjs GATEWAY, the path of the program `actpass-gateway`. A script acts as Claude Code.
 */

import { ActPass, UNGUARDED } from '@actpass/sdk';
import { guardTool, preToolUse } from '@actpass/sdk/claude-agent';
import { createSdkMcpServer, query, tool } from '@anthropic-ai/claude-agent-sdk';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';
import { scriptedClaude } from './scripted-claude.mjs';

const call = {
  name: 'mcp__payments__refund',
  id: 'toolu_1',
  args: { charge: 'ch_2', amount: 25_000, currency: 'usd' },
};

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const refund = tool(
    'refund',
    'Refund a charge',
    { charge: z.string(), amount: z.number(), currency: z.string() },
    async ({ charge, amount }) => {
      console.log(`refunding ${charge}: ${amount}`);
      return { content: [{ type: 'text', text: `refunded ${amount}` }] };
    },
  );
  const action = { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' };
  const guarded = guardTool(actpass, refund, action);
  /** Lets the agent make the call; returns the tool's answer. */
  const ask = async () => {
    const texts = [];
    const options = {
      mcpServers: { payments: createSdkMcpServer({ name: 'payments', version: '1.0.0', tools: [guarded] }) },
      // The guarded tool decides itself. The hook denies all other tools.
      hooks: { PreToolUse: [preToolUse(actpass, { mcp__payments__refund: UNGUARDED })] },
      // Without these two, the SDK starts Claude Code.
      pathToClaudeCodeExecutable: 'claude',
      spawnClaudeCodeProcess: scriptedClaude({ calls: [call], texts }),
    };
    async function* prompts() {
      const message = { role: 'user', content: 'Please refund my order.' };
      yield { type: 'user', message, parent_tool_use_id: null, session_id: '' };
    }
    for await (const _ of query({ prompt: prompts(), options }));
    return texts[0];
  };

  console.log(`paused: ${await ask()}`);

  await approveElsewhere(baseUrl);

  console.log(await ask());
});
