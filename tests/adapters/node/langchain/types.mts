import { ActPass, UNGUARDED } from '@actpass/sdk';
import { actpassMiddleware } from '@actpass/sdk/langchain';
import { fakeModel } from '@langchain/core/testing';
import { createAgent, tool } from 'langchain';
import { z } from 'zod';

const clock = tool(() => 'noon', { name: 'clock', description: 'Time', schema: z.object({}) });
const actpass = actpassMiddleware(new ActPass(), { clock: UNGUARDED }, { approvals: 'interrupt' });
const agent = createAgent({ model: fakeModel(), tools: [clock], middleware: [actpass] });
void agent.invoke({ messages: [] });
