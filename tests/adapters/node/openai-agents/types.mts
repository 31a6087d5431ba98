import { ActPass, UNGUARDED } from '@actpass/sdk';
import { guardTool, guardTools, pendingApprovals, requireGuarded, settle } from '@actpass/sdk/openai-agents';
import { Agent, Runner, RunState, tool } from '@openai/agents';
import { z } from 'zod';

const client = new ActPass();
const parameters = z.object({ charge: z.string(), amount: z.number() });
const action = { tool: 'stripe.refund.create', goal: 'g' };
const refund = tool(
  guardTool(
    client,
    {
      name: 'refund',
      description: 'Refund',
      parameters,
      execute: async ({ amount }: z.infer<typeof parameters>) => `${amount}`,
    },
    action,
    { approvals: 'interrupt' },
  ),
);
const clock = tool({ name: 'clock', description: 'Time', parameters: z.object({}), execute: async () => 'noon' });
const agent = new Agent({ name: 'support', tools: [refund, ...guardTools(client, [clock], { clock: UNGUARDED })] });

export async function typed(saved: string): Promise<string[]> {
  const runner: Runner = requireGuarded(new Runner());
  const result = await runner.run(agent, 'refund');
  await settle(client, result.state, pendingApprovals([refund]));
  const { approved } = await settle(client, await RunState.fromString(agent, saved), {});
  return approved;
}
