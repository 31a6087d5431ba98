import { ActPass, UNGUARDED } from '@actpass/sdk';
import { guardTools, toolApproval } from '@actpass/sdk/ai';
import { generateText, type LanguageModel, streamText, tool, ToolLoopAgent } from 'ai';
import { z } from 'zod';

const refund = tool({
  inputSchema: z.object({ charge: z.string(), amount: z.number() }),
  execute: async ({ amount }) => ({ refunded: amount }),
});
const clock = tool({ inputSchema: z.object({}), execute: async () => 'noon' });
const action = { tool: 'stripe.refund.create', goal: 'g', resource: 'stripe:charge:{charge}' };
const tools = guardTools(
  new ActPass(),
  { refund, clock },
  { refund: action, clock: UNGUARDED },
  { approvals: 'interrupt' },
);

export async function typed(model: LanguageModel): Promise<number> {
  new ToolLoopAgent({ model, tools });
  streamText({ model, tools, prompt: '', toolApproval });
  const { toolResults } = await generateText({ model, tools, prompt: '' });
  const [result] = toolResults;
  return result?.toolName === 'refund' && !result.dynamic ? result.output.refunded : 0;
}

// @ts-expect-error: a tool without an action
guardTools(new ActPass(), { refund, clock }, { refund: action });
// @ts-expect-error: not a way to treat approvals
guardTools(new ActPass(), { clock }, { clock: UNGUARDED }, { approvals: 'ask' });
