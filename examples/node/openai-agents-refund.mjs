/**
 * A refund of 250 dollars with the OpenAI Agents SDK: the run pauses and its state is saved, a person approves in another process,
 * the run goes on.
 *
 * Usage: openai-agents-refund.mjs GATEWAY, the path of the program `actpass-gateway`. The model is scripted.
 */

import { ActPass } from '@actpass/sdk';
import { guardTool, pendingApprovals, settle } from '@actpass/sdk/openai-agents';
import { Agent, run, RunState, setTracingDisabled, tool } from '@openai/agents';
import { assistantMessage, functionCall, ScriptedModel } from '@openai/agents-core/testing';
import { z } from 'zod';
import { approveElsewhere, withGateway } from './gateway.mjs';

setTracingDisabled(true);

await withGateway(process.argv[2], async (baseUrl) => {
  const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
  const refund = tool(
    guardTool(
      actpass,
      {
        name: 'refund',
        description: 'Refund a charge',
        parameters: z.object({ charge: z.string(), amount: z.number(), currency: z.string() }),
        execute: async ({ charge, amount }) => {
          console.log(`refunding ${charge}: ${amount}`);
          return `refunded ${amount}`;
        },
      },
      { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' },
      { approvals: 'interrupt' },
    ),
  );
  const model = new ScriptedModel([
    [functionCall('refund', { charge: 'ch_2', amount: 25_000, currency: 'usd' }, { callId: 'call_1' })],
    [assistantMessage('The customer has the money.')],
  ]);
  const agent = new Agent({ name: 'support', model, tools: [refund] });

  const paused = await run(agent, 'Please refund my order.');
  console.log(`paused: ${paused.interruptions.length} call waits for a person`);
  const saved = JSON.stringify({ state: paused.state.toString(), pending: pendingApprovals([refund]) });

  await approveElsewhere(baseUrl);

  const { state: text, pending } = JSON.parse(saved);
  const state = await RunState.fromString(agent, text);
  const settled = await settle(actpass, state, pending);
  console.log(`approved at the gateway: ${settled.approved}`);
  const { finalOutput } = await run(agent, state);
  console.log(finalOutput);
});
