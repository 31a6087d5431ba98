/**
 * A refund of 250 dollars with the AI SDK: the call pauses, a person approves in another process, the call goes on.
 *
 * Usage: ai-sdk-refund.mjs GATEWAY, the path of the program `actpass-gateway`. The model is scripted.
 */

import { ActPass } from '@actpass/sdk';
import { guardTools } from '@actpass/sdk/ai';
import { generateText, stepCountIs, tool } from 'ai';
import { MockLanguageModelV3 } from 'ai/test';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';

const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };
const refundCall = {
  type: 'tool-call',
  toolCallId: 'call_1',
  toolName: 'refund',
  input: JSON.stringify({ charge: 'ch_2', amount: 25_000, currency: 'usd' }),
};

/** Calls the tool in its first turn and then reports. */
function scriptedModel() {
  const answers = [
    { content: [refundCall], finishReason: { unified: 'tool-calls' } },
    { content: [{ type: 'text', text: 'The customer has the money.' }], finishReason: { unified: 'stop' } },
  ];
  return new MockLanguageModelV3({ doGenerate: async () => ({ ...answers.shift(), usage, warnings: [] }) });
}

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const refund = tool({
    description: 'Refund a charge',
    inputSchema: z.object({ charge: z.string(), amount: z.number(), currency: z.string() }),
    execute: async ({ charge, amount }) => {
      console.log(`refunding ${charge}: ${amount}`);
      return `refunded ${amount}`;
    },
  });
  const tools = guardTools(
    actpass,
    { refund },
    { refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' } },
    { approvals: 'interrupt' },
  );
  const settings = { model: scriptedModel(), tools, stopWhen: stepCountIs(3) };
  const messages = [{ role: 'user', content: 'Please refund my order.' }];

  const paused = await generateText({ ...settings, messages });
  const requests = paused.content.filter(({ type }) => type === 'tool-approval-request');
  console.log(`paused: ${requests.length} call waits for a person`);
  messages.push(...paused.response.messages);

  await approveElsewhere(baseUrl);

  const content = requests.map(({ approvalId }) => ({ type: 'tool-approval-response', approvalId, approved: true }));
  messages.push({ role: 'tool', content });
  const { text } = await generateText({ ...settings, messages });
  console.log(text);
});
