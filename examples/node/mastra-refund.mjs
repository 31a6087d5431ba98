/**
 * A refund of 250 dollars with Mastra: the run is suspended, a person approves in another process, the run goes on.
 *
 * Usage: mastra-refund.mjs GATEWAY, the path of the program `actpass-gateway`. The model is scripted.
 */

import { ActPass } from '@actpass/sdk';
import { guardTool } from '@actpass/sdk/mastra';
import { Agent } from '@mastra/core/agent';
import { Mastra } from '@mastra/core/mastra';
import { InMemoryStore } from '@mastra/core/storage';
import { createTool } from '@mastra/core/tools';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';

const refundCall = {
  type: 'tool-call',
  toolCallId: 'call_1',
  toolName: 'refund',
  input: JSON.stringify({ charge: 'ch_2', amount: 25_000, currency: 'usd' }),
};

/** Calls the tool in its first turn and then reports. */
function scriptedModel() {
  const answers = [
    { content: [refundCall], finishReason: 'tool-calls' },
    { content: [{ type: 'text', text: 'The customer has the money.' }], finishReason: 'stop' },
  ];
  const usage = { inputTokens: 1, outputTokens: 1, totalTokens: 2 };
  return {
    specificationVersion: 'v2',
    provider: 'scripted',
    modelId: 'scripted',
    supportedUrls: {},
    doGenerate: async () => ({ ...answers.shift(), usage, warnings: [] }),
  };
}

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const refund = createTool(
    guardTool(
      actpass,
      {
        id: 'refund',
        description: 'Refund a charge',
        inputSchema: z.object({ charge: z.string(), amount: z.number(), currency: z.string() }),
        execute: async ({ charge, amount }) => {
          console.log(`refunding ${charge}: ${amount}`);
          return `refunded ${amount}`;
        },
      },
      { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' },
      { approvals: 'interrupt' },
    ),
  );
  const support = new Agent({
    id: 'support',
    name: 'support',
    instructions: 'Resolve refund requests.',
    model: scriptedModel(),
    tools: { refund },
  });
  // With the storage of a database, another process can resume the run.
  const mastra = new Mastra({ agents: { support }, storage: new InMemoryStore(), logger: false });
  const agent = mastra.getAgent('support');

  const paused = await agent.generate('Please refund my order.');
  console.log(`paused: ${paused.suspendPayload.toolName} waits for a person`);

  await approveElsewhere(baseUrl);

  const { text } = await agent.resumeGenerate({ approved: true }, { runId: paused.runId, toolCallId: 'call_1' });
  console.log(text);
});
