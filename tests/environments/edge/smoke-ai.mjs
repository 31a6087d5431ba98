/** The adapter of the AI SDK: a model calls an allowed tool and a denied one. */

import { generateText, stepCountIs, tool } from 'ai';
import { MockLanguageModelV4 } from 'ai/test';
import { z } from 'zod';
import { guardTools } from '@actpass/sdk/ai';

const USAGE = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };

/** Returns the refunded amounts, and whether the model got the result of the allowed call and the denial of the other. */
export async function smokeAi(actpass) {
  const refunded = [];
  const refund = tool({
    description: 'Refund a charge',
    inputSchema: z.object({ amount: z.number(), currency: z.string() }),
    execute: async ({ amount }) => {
      refunded.push(amount);
      return `refunded ${amount}`;
    },
  });
  const calls = [4900, 90_000].map((amount) => ({
    type: 'tool-call',
    toolCallId: `call_${amount}`,
    toolName: 'refund',
    input: JSON.stringify({ amount, currency: 'usd' }),
  }));
  const turns = [calls, [{ type: 'text', text: 'done' }]];
  const prompts = [];
  const model = new MockLanguageModelV4({
    doGenerate: async ({ prompt }) => {
      prompts.push(prompt);
      const content = turns.shift();
      const unified = content === calls ? 'tool-calls' : 'stop';
      return { content, finishReason: { unified, raw: unified }, usage: USAGE, warnings: [] };
    },
  });
  const action = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' };
  const tools = guardTools(actpass, { refund }, { refund: action });
  const { text } = await generateText({ model, tools, prompt: 'refund', maxRetries: 0, stopWhen: stepCountIs(3) });
  const read = prompts
    .at(-1)
    .filter(({ role }) => role === 'tool')
    .flatMap(({ content }) => content)
    .map(({ output }) => JSON.stringify(output));
  const denied = read.find((one) => one.includes('refund.over_limit')) !== undefined;
  return { refunded, allowed: read.some((one) => one.includes('refunded 4900')), denied, text };
}
