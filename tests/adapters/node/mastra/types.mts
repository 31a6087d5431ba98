import { ActPass } from '@actpass/sdk';
import { guardTool } from '@actpass/sdk/mastra';
import { createTool } from '@mastra/core/tools';
import { z } from 'zod';

const inputSchema = z.object({ charge: z.string(), amount: z.number() });
const refund = createTool(
  guardTool(
    new ActPass(),
    {
      id: 'refund',
      description: 'Refund',
      inputSchema,
      execute: async ({ amount }: z.infer<typeof inputSchema>) => ({ refunded: amount }),
    },
    { tool: 'stripe.refund.create', goal: 'g' },
    { approvals: 'interrupt' },
  ),
);
export const id: 'refund' | string = refund.id;
