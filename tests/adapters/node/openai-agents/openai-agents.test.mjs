import assert from 'node:assert/strict';
import { Agent, Runner, RunState, tool, setTracingDisabled } from '@openai/agents';
import { assistantMessage, functionCall, ScriptedModel } from '@openai/agents-core/testing';
import { UNGUARDED } from '@actpass/sdk';
import { guardTool, guardTools, pendingApprovals, requireGuarded, settle } from '@actpass/sdk/openai-agents';
import { z } from 'zod';
import {
  ACTION,
  ALLOW,
  ALLOWED,
  adapterCase,
  approvedAfterTheQuestion,
  assertBlocked,
  commonCases,
  decide,
  exampleCase,
  DENIED,
  NEEDS_APPROVAL,
  newClient,
  pendingIds,
  withGateway,
  typesCase,
  withScript,
} from './support.mjs';

setTracingDisabled(true);
const FRAMEWORK = 'openai-agents';
const adapter = (name, variant, ran, body) => adapterCase(FRAMEWORK, name, variant, ran, body);
const ACTIONS = { refund: ACTION, clock: UNGUARDED };
const SCHEMA = z.object({ charge: z.string(), amount: z.number(), currency: z.string().default('usd') });

/** The options of the tools. */
function optionsOf(effects) {
  return {
    refund: {
      name: 'refund',
      description: 'Refund a charge',
      parameters: SCHEMA,
      execute: effects.refund,
      errorFunction: (_context, error) => `failed: ${error.message}`,
    },
    clock: { name: 'clock', description: 'The time', parameters: z.object({}), execute: effects.clock },
  };
}

/** The tools, guarded inside their schemas (`tool`) or outside. */
function guardedTools(kind, client, effects, options, actions = ACTIONS) {
  const { refund, clock } = optionsOf(effects);
  return kind === 'options'
    ? [tool(guardTool(client, refund, actions.refund, options)), tool(clock)]
    : guardTools(client, [tool(refund), tool(clock)], actions, options);
}

function scripted(calls) {
  const items = calls.map(({ id, name, args }) => functionCall(name, args, { callId: id }));
  return new ScriptedModel([items, ...Array.from({ length: 4 }, () => [assistantMessage('done')])]);
}

async function run(way, agent, input, settings = {}, runner = new Runner({ tracingDisabled: true })) {
  const stream = way.includes('streaming');
  const result = await runner.run(agent, input, { stream, ...settings });
  if (stream) {
    for await (const _ of result);
    await result.completed;
  }
  return result;
}

/** Returns the outputs of tools that the model got last. */
function textsOf(model) {
  const { input } = model.lastCall.request;
  return [input]
    .flat()
    .filter(({ type }) => type === 'function_call_result')
    .map(({ output }) => (typeof output === 'string' ? output : output.text));
}

for (const kind of ['options', 'tools']) {
  commonCases({
    framework: FRAMEWORK,
    ways: [`${kind}, plain`, `${kind}, streaming`],
    constructs: kind === 'tools',
    UNGUARDED,
    raw: true,
    aborts: true,
    parallel: true,
    interrupts: true,
    // The framework runs a repeated id once.
    ranOn: { sameId: () => 1 },
    evaluatesOutside: kind === 'tools',
    async run({ client, effects, calls, actions, options, signal, way }) {
      const model = scripted(calls);
      const agent = new Agent({ name: 'support', model, tools: guardedTools(kind, client, effects, options, actions) });
      await run(way, agent, 'refund', { signal });
      return textsOf(model);
    },
    async construct(client, effects, names, actions) {
      const options = optionsOf(effects);
      guardTools(
        client,
        names.map((name) => tool(options[name])),
        actions,
      );
    },
  });

  for (const stream of ['plain', 'streaming']) {
    const way = `${kind}, ${stream}`;
    const agentOf = (client, effects, model) => {
      const tools = guardedTools(kind, client, effects, { approvals: 'interrupt' });
      return { tools, agent: new Agent({ name: 'support', model, tools }) };
    };
    /** Runs until the interruption; returns the state to save. */
    const pause = async (client, effects, args = [NEEDS_APPROVAL]) => {
      const model = scripted(args.map((one, index) => ({ id: `call_${index}`, name: 'refund', args: one })));
      const { agent, tools } = agentOf(client, effects, model);
      const { interruptions, state } = await run(way, agent, 'refund');
      return { interruptions, state: state.toString(), pending: pendingApprovals(tools) };
    };
    /** Goes on in a new client, as another process would. */
    const goOn = async (baseUrl, effects, saved, answer = settle) => {
      const client = newClient(baseUrl);
      const model = new ScriptedModel(Array.from({ length: 4 }, () => [assistantMessage('done')]));
      const { agent } = agentOf(client, effects, model);
      const state = await RunState.fromString(agent, saved.state);
      const settled = await answer(client, state, saved.pending);
      const result = settled?.pending?.length > 0 ? undefined : await run(way, agent, state);
      return { settled, texts: result === undefined ? [] : textsOf(model) };
    };
    const approveLocally = async (_client, state) => state.getInterruptions().forEach((item) => state.approve(item));

    adapter('approved in another process', way, 1, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        assert.equal(saved.interruptions.length, 1);
        assert.equal(Object.keys(saved.pending).length, 1);
        await decide(baseUrl, 'approve');
        const { settled, texts } = await goOn(baseUrl, effects, saved);
        assert.deepEqual(settled, { approved: ['call_0'], rejected: [], pending: [] });
        assert.match(texts[0], /refunded 25000/);
      }),
    );
    adapter('approved in another process', `${way}, after the question`, 1, (effects) =>
      withGateway(async (baseUrl) => {
        await pause(newClient(baseUrl), effects);
        const saved = await pause(approvedAfterTheQuestion(baseUrl), effects);
        const { settled, texts } = await goOn(baseUrl, effects, saved);
        assert.deepEqual(settled.approved, ['call_0']);
        assert.match(texts[0], /refunded 25000/);
      }),
    );
    adapter('resumed too early', way, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        const { settled } = await goOn(baseUrl, effects, saved);
        assert.deepEqual(settled, { approved: [], rejected: [], pending: ['call_0'] });
        assert.equal((await pendingIds(baseUrl)).length, 1);
      }),
    );
    adapter('approved only in the framework', way, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const { texts } = await goOn(baseUrl, effects, await pause(newClient(baseUrl), effects), approveLocally);
        assertBlocked(texts[0], 'require_approval');
        assert.equal((await pendingIds(baseUrl)).length, 1);
      }),
    );
    adapter('approval rejected', `${way}, at the gateway`, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        await decide(baseUrl, 'reject');
        const { settled, texts } = await goOn(baseUrl, effects, saved);
        assert.deepEqual(settled.rejected, ['call_0']);
        assert.match(texts[0], /not run: the approval is rejected/);
      }),
    );
    adapter('saved state resumed twice', way, 1, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        await decide(baseUrl, 'approve');
        await goOn(baseUrl, effects, saved);
        await goOn(baseUrl, effects, saved);
      }),
    );
    adapter('two runs of one saved state', way, 1, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        await decide(baseUrl, 'approve');
        await Promise.all([goOn(baseUrl, effects, saved), goOn(baseUrl, effects, saved)]);
      }),
    );
    adapter('arguments edited at approval', way, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        await decide(baseUrl, 'approve');
        const state = saved.state.replaceAll('25000', '30000');
        await goOn(baseUrl, effects, { ...saved, state }, approveLocally).catch(() => {});
      }),
    );
    adapter('metadata lost', way, 0, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects);
        const { settled } = await goOn(baseUrl, effects, { ...saved, pending: {} });
        assert.deepEqual(settled.pending, ['call_0']);
      }),
    );
    adapter('parallel: two approvals', `${way}, interrupted`, 2, (effects) =>
      withGateway(async (baseUrl) => {
        const other = { ...NEEDS_APPROVAL, charge: 'ch_4', amount: 30_000 };
        const saved = await pause(newClient(baseUrl), effects, [NEEDS_APPROVAL, other]);
        assert.equal(saved.interruptions.length, 2);
        await decide(baseUrl, 'approve', 30_000);
        const { settled } = await goOn(baseUrl, effects, saved);
        assert.deepEqual(settled, { approved: ['call_1'], rejected: [], pending: ['call_0'] });
        await decide(baseUrl, 'approve', 25_000);
        await goOn(baseUrl, effects, saved);
        assert.deepEqual(effects.ran.map(({ amount }) => amount).sort(), [25_000, 30_000]);
      }),
    );
    adapter('parallel: allow and approval', `${way}, interrupted`, 2, (effects) =>
      withGateway(async (baseUrl) => {
        const saved = await pause(newClient(baseUrl), effects, [ALLOWED, NEEDS_APPROVAL]);
        assert.deepEqual(effects.ran, [ALLOWED]);
        await decide(baseUrl, 'approve');
        await goOn(baseUrl, effects, saved);
        assert.deepEqual(effects.ran, [ALLOWED, NEEDS_APPROVAL]);
      }),
    );
    for (const [name, failing] of [
      ['needsApproval', { needsApproval: async () => Promise.reject(new Error('failed')) }],
      [
        'guardrail',
        { inputGuardrails: [{ type: 'tool_input', name: 'g', run: async () => Promise.reject(new Error('failed')) }] },
      ],
    ]) {
      adapter('hook raises', `${way}, ${name}`, 0, (effects) =>
        withScript(
          () => ALLOW,
          async (baseUrl) => {
            const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
            const { refund } = optionsOf(effects);
            const options = { approvals: 'interrupt' };
            const client = newClient(baseUrl);
            const made =
              kind === 'options'
                ? tool(guardTool(client, { ...refund, ...failing }, ACTION, options))
                : guardTools(client, [tool({ ...refund, ...failing })], { refund: ACTION }, options)[0];
            await run(way, new Agent({ name: 'support', model, tools: [made] }), 'refund').catch(() => {});
          },
        ),
      );
    }
    adapter('hook raises', `${way}, agent_tool_start`, 0, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl) => {
          const runner = new Runner({ tracingDisabled: true });
          runner.on('agent_tool_start', () => {
            throw new Error('failed');
          });
          const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
          const tools = guardedTools(kind, newClient(baseUrl), effects);
          await run(way, new Agent({ name: 'support', model, tools }), 'refund', {}, runner).catch(() => {});
        },
      ),
    );
  }
  adapter('tool raises', `${kind}, the same error`, 1, (effects) =>
    withScript(
      () => ALLOW,
      async (baseUrl) => {
        const options = { ...optionsOf(effects).refund, errorFunction: null };
        const client = newClient(baseUrl);
        const made =
          kind === 'options'
            ? tool(guardTool(client, options, ACTION))
            : guardTools(client, [tool(options)], { refund: ACTION })[0];
        const args = JSON.stringify({ ...ALLOWED, charge: 'ch_fails' });
        await assert.rejects(made.invoke({}, args), (error) => error === effects.failure);
      },
    ),
  );
}

for (const way of ['plain', 'streaming']) {
  for (const kind of ['options', 'tools']) {
    adapter('allow', `${kind}, ${way}, requireGuarded`, 1, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl) => {
          const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
          const tools = guardedTools(kind, newClient(baseUrl), effects).slice(0, 1);
          const runner = requireGuarded(new Runner({ tracingDisabled: true }));
          await run(way, new Agent({ name: 'support', model, tools }), 'refund', {}, runner);
        },
      ),
    );
  }
  adapter('coverage: added later', way, 0, async (effects) => {
    const client = newClient('http://127.0.0.1:9');
    const tools = guardTools(client, [tool(optionsOf(effects).clock)], { clock: UNGUARDED });
    assert.throws(() => tools.push(tool(optionsOf(effects).refund)), TypeError);
    const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
    const agent = new Agent({ name: 'support', model, tools: [...tools, tool(optionsOf(effects).refund)] });
    const runner = requireGuarded(new Runner({ tracingDisabled: true }));
    await assert.rejects(run(way, agent, 'refund', {}, runner), /expected tools of guardTools, found refund/);
  });
  adapter('coverage: handoff', way, 0, async (effects) => {
    const model = new ScriptedModel([
      [functionCall('transfer_to_payments', {}, { callId: 'call_0' })],
      [functionCall('refund', ALLOWED, { callId: 'call_1' })],
      [assistantMessage('done')],
    ]);
    const payments = new Agent({ name: 'payments', model, tools: [tool(optionsOf(effects).refund)] });
    const agent = new Agent({ name: 'support', model, handoffs: [payments] });
    const runner = requireGuarded(new Runner({ tracingDisabled: true }));
    await assert.rejects(run(way, agent, 'refund', {}, runner), /expected tools of guardTools, found refund/);
  });
  adapter('coverage: agent as tool', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const client = newClient(baseUrl);
      const inner = scripted([{ id: 'call_0', name: 'refund', args: DENIED }]);
      const payments = new Agent({ name: 'payments', model: inner, tools: guardedTools('tools', client, effects) });
      const asTool = payments.asTool({ toolName: 'payments', toolDescription: 'Pays' });
      assert.throws(() => guardTools(client, [asTool], {}), /payments/);
      const model = scripted([{ id: 'call_1', name: 'payments', args: { input: 'refund' } }]);
      const agent = new Agent({ name: 'support', model, tools: guardTools(client, [asTool], { payments: UNGUARDED }) });
      await run(way, agent, 'refund', {}, requireGuarded(new Runner({ tracingDisabled: true })));
      assertBlocked(textsOf(inner)[0], 'refund.over_limit');
    }),
  );
}
adapter('coverage: provider-executed', 'construction', 0, async () => {
  const hosted = { type: 'hosted_tool', name: 'web_search', providerData: {} };
  const client = newClient('http://127.0.0.1:9');
  assert.throws(() => guardTools(client, [hosted], { web_search: ACTION }), /expected a function tool.*hosted_tool/);
  assert.equal(guardTools(client, [hosted], { web_search: UNGUARDED }).length, 1);
});
exampleCase(FRAMEWORK, 'openai-agents-refund.mjs');
typesCase(FRAMEWORK, 'openai-agents-node.md');
