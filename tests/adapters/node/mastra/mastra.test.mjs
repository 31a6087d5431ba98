import assert from 'node:assert/strict';
import { Agent } from '@mastra/core/agent';
import { Mastra } from '@mastra/core/mastra';
import { InMemoryStore } from '@mastra/core/storage';
import { createTool } from '@mastra/core/tools';
import { UNGUARDED } from '@actpass/sdk';
import { guardTool } from '@actpass/sdk/mastra';
import { z } from 'zod';
import {
  ACTION,
  ALLOW,
  ALLOWED,
  adapterCase,
  assertBlocked,
  commonCases,
  decide,
  DENIED,
  exampleCase,
  NEEDS_APPROVAL,
  newClient,
  pendingIds,
  withGateway,
  typesCase,
  withScript,
} from './support.mjs';

const FRAMEWORK = 'mastra';
const adapter = (name, variant, ran, body) => adapterCase(FRAMEWORK, name, variant, ran, body);
const SCHEMA = z.object({ charge: z.string(), amount: z.number(), currency: z.string().default('usd') });

/** Returns a model that makes the calls of each turn and then ends; `prompts` has its inputs. */
function scripted(...turns) {
  const prompts = [];
  const next = ({ prompt }) => {
    prompts.push(prompt);
    const calls = turns.shift() ?? [];
    const content = calls.map(({ id, name, args }) => ({
      type: 'tool-call',
      toolCallId: id,
      toolName: name,
      input: typeof args === 'string' ? args : JSON.stringify(args),
    }));
    const usage = { inputTokens: 1, outputTokens: 1, totalTokens: 2 };
    const text = calls.length > 0 ? [] : [{ type: 'text', text: 'done' }];
    return {
      content: [...content, ...text],
      finishReason: calls.length > 0 ? 'tool-calls' : 'stop',
      usage,
      warnings: [],
    };
  };
  const parts = ({ content, finishReason, usage }) => [
    { type: 'stream-start', warnings: [] },
    ...content.flatMap((part) =>
      part.type === 'text'
        ? [
            { type: 'text-start', id: 't' },
            { type: 'text-delta', id: 't', delta: part.text },
            { type: 'text-end', id: 't' },
          ]
        : [part],
    ),
    { type: 'finish', finishReason, usage },
  ];
  const model = {
    specificationVersion: 'v2',
    provider: 'scripted',
    modelId: 'scripted',
    supportedUrls: {},
    doGenerate: async (options) => next(options),
    doStream: async (options) => ({ stream: ReadableStream.from(parts(next(options))) }),
  };
  return { model, prompts };
}

function toolsOf(client, effects, options, actions = { refund: ACTION }) {
  const refund = { id: 'refund', description: 'Refund a charge', inputSchema: SCHEMA, execute: effects.refund };
  const clock = { id: 'clock', description: 'The time', inputSchema: z.object({}), execute: effects.clock };
  return {
    refund: createTool(guardTool(client, refund, actions.refund, options)),
    clock: createTool(clock),
  };
}

const textsOf = (prompt) =>
  prompt
    .filter(({ role }) => role === 'tool')
    .flatMap(({ content }) => content)
    .map(({ output }) => (typeof output.value === 'string' ? output.value : JSON.stringify(output.value)));

/** Runs `agent.generate` or `agent.stream`, or resumes. */
async function run(way, agent, input, options = {}) {
  const resumes = options.runId !== undefined;
  if (way === 'plain') {
    return resumes ? agent.resumeGenerate(input, options) : agent.generate(input, options);
  }
  const output = await (resumes ? agent.resumeStream(input, options) : agent.stream(input, options));
  await output.consumeStream();
  return { runId: output.runId, finishReason: await output.finishReason };
}

const agentOf = (model, tools) => new Agent({ id: 'support', name: 'support', instructions: 'refund', model, tools });

commonCases({
  framework: FRAMEWORK,
  ways: ['plain', 'streaming'],
  UNGUARDED,
  raw: true,
  aborts: true,
  parallel: true,
  constructs: false,
  // The framework runs a repeated id once when it streams.
  ranOn: { sameId: (way) => (way === 'plain' ? 2 : 1) },
  async run({ client, effects, calls, actions, options, signal, way }) {
    const { model, prompts } = scripted(calls);
    await run(way, agentOf(model, toolsOf(client, effects, options, actions)), 'refund', { abortSignal: signal });
    return textsOf(prompts.at(-1));
  },
});
for (const way of ['plain', 'streaming']) {
  /** Starts a run that is suspended; `goOn` resumes it with a new agent on the same storage, as another process would. */
  const suspended = async (baseUrl, effects, args = [NEEDS_APPROVAL]) => {
    const storage = new InMemoryStore();
    const newAgent = (turns, change = (tools) => tools) => {
      const { model, prompts } = scripted(...turns);
      const tools = change(toolsOf(newClient(baseUrl), effects, { approvals: 'interrupt' }));
      const mastra = new Mastra({ agents: { support: agentOf(model, tools) }, storage, logger: false });
      return { agent: mastra.getAgent('support'), prompts };
    };
    const calls = args.map((one, index) => ({ id: `call_${index}`, name: 'refund', args: one }));
    const { runId, finishReason } = await run(way, newAgent([calls]).agent, 'refund');
    assert.equal(finishReason, 'suspended');
    const goOn = async (data = { answered: true }, toolCallId = 'call_0', change = undefined) => {
      const { agent, prompts } = newAgent([], change);
      const resumed = await run(way, agent, data, { runId, toolCallId });
      return { ...resumed, texts: prompts.length > 0 ? textsOf(prompts.at(-1)) : [] };
    };
    return { goOn };
  };

  adapter('approved in another process', `${way}, suspended`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      assert.equal(effects.ran.length, 0);
      await decide(baseUrl, 'approve');
      assert.match((await goOn()).texts[0], /refunded 25000/);
    }),
  );
  adapter('resumed too early', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      assert.equal((await goOn()).finishReason, 'suspended');
      assert.equal((await pendingIds(baseUrl)).length, 1);
    }),
  );
  adapter('approved in another process', `${way}, after it was resumed too early`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      await goOn();
      await decide(baseUrl, 'approve');
      assert.match((await goOn()).texts[0], /refunded 25000/);
    }),
  );
  adapter('approved only in the framework', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      assert.equal((await goOn({ approved: true })).finishReason, 'suspended');
    }),
  );
  adapter('approval rejected', `${way}, suspended`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      await decide(baseUrl, 'reject');
      assertBlocked((await goOn()).texts[0], 'approval.rejected');
    }),
  );
  adapter('saved state resumed twice', way, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      await decide(baseUrl, 'approve');
      await goOn();
      await goOn().catch(() => {});
    }),
  );
  adapter('two runs of one saved state', way, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects);
      await decide(baseUrl, 'approve');
      await Promise.allSettled([goOn(), goOn()]);
    }),
  );
  for (const [name, payload] of [
    ['metadata lost', undefined],
    ['arguments edited at approval', 'edited'],
  ]) {
    adapter(name, way, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const { goOn } = await suspended(baseUrl, effects);
        if (payload === 'edited') await decide(baseUrl, 'approve');
        const change = ({ refund, ...others }) => {
          const { execute } = refund;
          refund.execute = (input, context) => {
            const { suspendPayload, ...agent } = context.agent;
            return payload === 'edited'
              ? execute.call(refund, { ...input, amount: 30_000 }, context)
              : execute.call(refund, input, { ...context, agent });
          };
          return { refund, ...others };
        };
        const { finishReason, texts } = await goOn(undefined, undefined, change);
        payload === 'edited'
          ? assertBlocked(texts[0], 'approval.action_mismatch')
          : assert.equal(finishReason, 'suspended');
      }),
    );
  }
  adapter('parallel: allow and approval', `${way}, suspended`, 2, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await suspended(baseUrl, effects, [ALLOWED, NEEDS_APPROVAL]);
      assert.deepEqual(effects.ran, [ALLOWED]);
      await decide(baseUrl, 'approve');
      await goOn(undefined, 'call_1');
      assert.deepEqual(effects.ran, [ALLOWED, NEEDS_APPROVAL]);
    }),
  );
  adapter('parallel: two approvals', `${way}, suspended`, 2, (effects) =>
    withGateway(async (baseUrl) => {
      const other = { ...NEEDS_APPROVAL, charge: 'ch_4', amount: 30_000 };
      const { goOn } = await suspended(baseUrl, effects, [NEEDS_APPROVAL, other]);
      await decide(baseUrl, 'approve', 25_000);
      // `resumeGenerate` may reject while another call is suspended.
      await goOn(undefined, 'call_0').catch((error) => assert.match(String(error), /suspendPayload/));
      assert.deepEqual(effects.ran, [NEEDS_APPROVAL]);
      await decide(baseUrl, 'approve', 30_000);
      await goOn(undefined, 'call_1');
      assert.deepEqual(effects.ran, [NEEDS_APPROVAL, other]);
    }),
  );
  for (const [name, beforeToolCall, ran] of [
    ['hook before changes arguments in place', ({ input }) => void (input.amount = 90_000), undefined],
    ['hook raises', () => Promise.reject(new Error('a hook failed')), 0],
  ]) {
    adapter(name, way, ran ?? 0, (effects) =>
      withGateway(async (baseUrl) => {
        const { model, prompts } = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
        const agent = agentOf(model, toolsOf(newClient(baseUrl), effects));
        await run(way, agent, 'refund', { hooks: { beforeToolCall } }).catch(() => {});
        if (ran === undefined) assertBlocked(textsOf(prompts.at(-1))[0], 'refund.over_limit');
      }),
    );
  }
  adapter('hook clears the verdict', `${way}, an agent's approval of the tool`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { model, prompts } = scripted([{ id: 'call_0', name: 'refund', args: DENIED }]);
      const agent = agentOf(model, toolsOf(newClient(baseUrl), effects));
      await run(way, agent, 'refund', { requireToolApproval: () => false });
      assertBlocked(textsOf(prompts.at(-1))[0], 'refund.over_limit');
    }),
  );
  adapter('coverage: sub-agent', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const inner = scripted([{ id: 'call_i', name: 'refund', args: DENIED }]);
      const payments = new Agent({
        id: 'payments',
        name: 'payments',
        description: 'Pays',
        instructions: 'refund',
        model: inner.model,
        tools: toolsOf(newClient(baseUrl), effects),
      });
      const outer = scripted([{ id: 'call_o', name: 'agent-payments', args: { prompt: 'refund' } }]);
      const agents = { payments };
      const agent = new Agent({ id: 's', name: 's', instructions: 'x', model: outer.model, agents });
      await run(way, agent, 'refund');
      assertBlocked(textsOf(inner.prompts.at(-1))[0], 'refund.over_limit');
    }),
  );
}
adapter('tool raises', 'the same error', 1, (effects) =>
  withScript(
    () => ALLOW,
    async (baseUrl) => {
      const refund = { id: 'refund', description: 'Refund', inputSchema: SCHEMA, execute: effects.refund };
      const guarded = guardTool(newClient(baseUrl), refund, ACTION);
      await assert.rejects(
        guarded.execute({ ...ALLOWED, charge: 'ch_fails' }, {}),
        (error) => error === effects.failure,
      );
    },
  ),
);
adapter('coverage: client-side', 'a tool without execute', 0, async () => {
  const client = newClient('http://127.0.0.1:9');
  assert.throws(() => guardTool(client, { id: 'refund', inputSchema: SCHEMA }, ACTION), /with id and execute/);
  assert.throws(() => guardTool(client, { id: 'refund', execute: () => 1 }, { tool: '' }), /tool/);
});
exampleCase(FRAMEWORK, 'mastra-refund.mjs');
typesCase(FRAMEWORK, 'mastra.md');
