/**
 * A refund of 250 dollars with LangChain.js: the graph is interrupted, a person approves in another process, the graph goes on.
 *
 * Usage: langchain-refund.mjs GATEWAY, the path of the program `actpass-gateway`. The model is scripted.
 */

import { ActPass } from '@actpass/sdk';
import { actpassMiddleware } from '@actpass/sdk/langchain';
import { AIMessage } from '@langchain/core/messages';
import { fakeModel } from '@langchain/core/testing';
import { Command, MemorySaver } from '@langchain/langgraph';
import { createAgent, tool } from 'langchain';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';

const call = { name: 'refund', id: 'call_1', args: { charge: 'ch_2', amount: 25_000, currency: 'usd' } };

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const refund = tool(
    async ({ charge, amount }) => {
      console.log(`refunding ${charge}: ${amount}`);
      return `refunded ${amount}`;
    },
    {
      name: 'refund',
      description: 'Refund a charge',
      schema: z.object({ charge: z.string(), amount: z.number(), currency: z.string() }),
    },
  );
  const guard = actpassMiddleware(
    actpass,
    { refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' } },
    { approvals: 'interrupt' },
  );
  const model = fakeModel().respondWithTools([call]).respond(new AIMessage('The customer has the money.'));
  // With the checkpointer of a database, another process can resume the graph.
  const agent = createAgent({ model, tools: [refund], middleware: [guard], checkpointer: new MemorySaver() });
  const config = { configurable: { thread_id: 'conversation_1' } };

  const paused = await agent.invoke({ messages: [{ role: 'user', content: 'Please refund my order.' }] }, config);
  const [interrupt] = paused.__interrupt__;
  console.log(`paused: ${interrupt.value.tool} waits for a person`);

  await approveElsewhere(baseUrl);

  const { messages } = await agent.invoke(new Command({ resume: { [interrupt.id]: interrupt.value } }), config);
  console.log(messages.at(-1).content);
});
