import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { AIMessage } from '@langchain/core/messages';
import { fakeModel } from '@langchain/core/testing';
import { Command, MemorySaver } from '@langchain/langgraph';
import { createAgent, createMiddleware, tool, toolRetryMiddleware } from 'langchain';
import { UNGUARDED } from '@actpass/sdk';
import { actpassMiddleware } from '@actpass/sdk/langchain';
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

const FRAMEWORK = 'langchain';
const adapter = (name, variant, ran, body) => adapterCase(FRAMEWORK, name, variant, ran, body);
const ACTIONS = { refund: ACTION, clock: UNGUARDED };
const SCHEMA = z.object({ charge: z.string(), amount: z.number(), currency: z.string().default('usd') });

function toolsOf(effects) {
  return [
    tool(effects.refund, { name: 'refund', description: 'Refund a charge', schema: SCHEMA }),
    tool(effects.clock, { name: 'clock', description: 'The time', schema: z.object({}) }),
  ];
}

/** Returns a model that makes the calls of each turn and then ends. */
function scripted(...turns) {
  const model = fakeModel();
  for (const calls of turns) model.respondWithTools(calls);
  for (const _ of [1, 2, 3]) model.respond(new AIMessage('done'));
  return model;
}

/** Runs an agent, plain or streaming; returns its state. */
async function run(way, agent, input, config = {}) {
  if (way === 'plain') {
    return agent.invoke(input, config);
  }
  let last;
  for await (const value of await agent.stream(input, { ...config, streamMode: 'values' })) last = value;
  return last;
}

const user = { messages: [{ role: 'user', content: 'refund' }] };
const messagesOf = ({ messages }) => messages.filter((message) => message.getType() === 'tool');
const textsOf = (state) => messagesOf(state).map(({ content }) => content);

commonCases({
  framework: FRAMEWORK,
  ways: ['plain', 'streaming'],
  UNGUARDED,
  aborts: true,
  parallel: true,
  constructs: false,
  async run({ client, effects, calls, actions, options, signal, way }) {
    const middleware = [actpassMiddleware(client, actions, options)];
    const agent = createAgent({ model: scripted(calls), tools: toolsOf(effects), middleware });
    const state = await run(way, agent, user, { signal });
    for (const { status, content } of messagesOf(state)) {
      assert.equal(status === 'error', /was not run|Error/.test(content));
    }
    return textsOf(state);
  },
});

for (const way of ['plain', 'streaming']) {
  /** Starts a thread that pauses; `goOn` resumes it in a new agent on the same saver, as another process would. */
  const paused = async (baseUrl, effects, args = [NEEDS_APPROVAL]) => {
    const checkpointer = new MemorySaver();
    const config = { configurable: { thread_id: '1' } };
    const agentOf = (...turns) =>
      createAgent({
        model: scripted(...turns),
        tools: toolsOf(effects),
        checkpointer,
        middleware: [actpassMiddleware(newClient(baseUrl), ACTIONS, { approvals: 'interrupt' })],
      });
    const calls = args.map((one, index) => ({ id: `call_${index}`, name: 'refund', args: one }));
    await run(way, agentOf(calls), user, config);
    const interrupts = async () => (await agentOf().graph.getState(config)).tasks.flatMap((task) => task.interrupts);
    const goOn = async (change = (value) => value, only = () => true, agent = agentOf()) => {
      const open = (await interrupts()).filter(({ value }) => only(value));
      const resume = Object.fromEntries(open.map(({ id, value }) => [id, change(value)]));
      return run(way, agent, new Command({ resume }), config);
    };
    return { interrupts, goOn, config, agentOf };
  };

  adapter('approved in another process', `${way}, interrupted`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { interrupts, goOn } = await paused(baseUrl, effects);
      const [{ value }] = await interrupts();
      assert.deepEqual({ tool: value.tool, args: value.args }, { tool: 'refund', args: NEEDS_APPROVAL });
      await decide(baseUrl, 'approve');
      assert.match(textsOf(await goOn())[0], /refunded 25000/);
    }),
  );
  adapter('resumed too early', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { interrupts, goOn } = await paused(baseUrl, effects);
      await goOn();
      await goOn();
      assert.equal((await interrupts()).length, 1);
      assert.equal((await pendingIds(baseUrl)).length, 1);
    }),
  );
  adapter('approved in another process', `${way}, after it was resumed too early`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await paused(baseUrl, effects);
      await goOn();
      await decide(baseUrl, 'approve');
      assert.match(textsOf(await goOn())[0], /refunded 25000/);
    }),
  );
  adapter('approved only in the framework', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { interrupts, goOn } = await paused(baseUrl, effects);
      await goOn(() => ({ decisions: [{ type: 'approve' }] }));
      assert.equal((await interrupts()).length, 1);
    }),
  );
  adapter('approval rejected', `${way}, interrupted`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await paused(baseUrl, effects);
      await decide(baseUrl, 'reject');
      assertBlocked(textsOf(await goOn())[0], 'approval.rejected');
      assert.equal((await pendingIds(baseUrl)).length, 0);
    }),
  );
  adapter('metadata lost', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { interrupts, goOn } = await paused(baseUrl, effects);
      await goOn(() => true);
      assert.equal((await interrupts()).length, 1);
    }),
  );
  adapter('approved in another process', `${way}, resumed with another value`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await paused(baseUrl, effects);
      await decide(baseUrl, 'approve');
      assert.match(textsOf(await goOn(() => true))[0], /refunded/);
    }),
  );
  adapter('saved state resumed twice', way, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn, agentOf, config } = await paused(baseUrl, effects);
      const before = (await agentOf().graph.getState(config)).config;
      await decide(baseUrl, 'approve');
      await goOn();
      await run(way, agentOf(), new Command({ resume: true }), before).catch(() => {});
    }),
  );
  adapter('two runs of one saved state', way, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await paused(baseUrl, effects);
      await decide(baseUrl, 'approve');
      await Promise.allSettled([goOn(), goOn()]);
    }),
  );
  adapter('arguments edited at approval', way, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn, agentOf, config } = await paused(baseUrl, effects);
      await decide(baseUrl, 'approve');
      const edit = createMiddleware({
        name: 'Edit',
        wrapToolCall: (request, handler) =>
          handler({ ...request, toolCall: { ...request.toolCall, args: { ...NEEDS_APPROVAL, amount: 30_000 } } }),
      });
      const { checkpointer } = agentOf().options;
      const middleware = [edit, actpassMiddleware(newClient(baseUrl), ACTIONS, { approvals: 'interrupt' })];
      const agent = createAgent({ model: scripted(), tools: toolsOf(effects), checkpointer, middleware });
      const [text] = textsOf(await goOn(undefined, undefined, agent));
      assertBlocked(text, 'approval.action_mismatch');
      assert.ok(config);
    }),
  );
  adapter('parallel: two approvals', `${way}, interrupted`, 2, (effects) =>
    withGateway(async (baseUrl) => {
      const other = { ...NEEDS_APPROVAL, charge: 'ch_4', amount: 30_000 };
      const { interrupts, goOn } = await paused(baseUrl, effects, [NEEDS_APPROVAL, other]);
      assert.equal((await interrupts()).length, 2);
      await decide(baseUrl, 'approve', 30_000);
      await goOn();
      assert.deepEqual(effects.ran, [other]);
      await decide(baseUrl, 'approve', 25_000);
      const texts = textsOf(await goOn());
      assert.deepEqual(effects.ran, [other, NEEDS_APPROVAL]);
      assert.deepEqual(texts, ['refunded 25000', 'refunded 30000']);
    }),
  );
  adapter('parallel: allow and approval', `${way}, interrupted`, 2, (effects) =>
    withGateway(async (baseUrl) => {
      const { goOn } = await paused(baseUrl, effects, [ALLOWED, NEEDS_APPROVAL]);
      assert.deepEqual(effects.ran, [ALLOWED]);
      await decide(baseUrl, 'approve');
      await goOn();
      assert.deepEqual(effects.ran, [ALLOWED, NEEDS_APPROVAL]);
    }),
  );
  adapter('approval pending', `${way}, interrupt without a checkpointer`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const middleware = [actpassMiddleware(newClient(baseUrl), ACTIONS, { approvals: 'interrupt' })];
      const model = scripted([{ id: 'call_0', name: 'refund', args: NEEDS_APPROVAL }]);
      const state = await run(way, createAgent({ model, tools: toolsOf(effects), middleware }), user);
      assertBlocked(textsOf(state)[0], 'require_approval');
    }),
  );

  const other = (name, wrapToolCall) => createMiddleware({ name, wrapToolCall });
  const copying = other('Copy', (request, handler) =>
    handler({ ...request, toolCall: { ...request.toolCall, args: { ...request.toolCall.args, amount: 90_000 } } }),
  );
  const inPlace = other('InPlace', (request, handler) => {
    request.toolCall.args.amount = 90_000;
    return handler(request);
  });
  const raising = other('Raise', () => {
    throw new Error('a hook failed');
  });
  for (const [middleware, name] of [
    [copying, 'changes arguments'],
    [inPlace, 'changes arguments in place'],
    [raising, 'raises'],
  ]) {
    for (const order of ['before', 'after']) {
      const title = name === 'raises' ? 'hook raises' : `hook ${order} ${name}`;
      adapter(title, `${way}, ${order} in the list`, 0, (effects) =>
        withGateway(async (baseUrl) => {
          const ours = actpassMiddleware(newClient(baseUrl), ACTIONS);
          const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
          const list = order === 'before' ? [middleware, ours] : [ours, middleware];
          const agent = createAgent({ model, tools: toolsOf(effects), middleware: list });
          const state = await run(way, agent, user).catch((error) => assert.match(error.message, /a hook failed/));
          if (name !== 'raises') {
            assertBlocked(textsOf(state)[0], 'refund.over_limit');
          }
        }),
      );
    }
  }
  for (const [name, order, questions] of [
    ['retry outside', 'before', 3],
    ['retry inside', 'after', 3],
  ]) {
    adapter(name, `${way}, each attempt is evaluated`, 3, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl, asked) => {
          const retry = toolRetryMiddleware({ maxRetries: 2, initialDelayMs: 1, jitter: false });
          const ours = actpassMiddleware(newClient(baseUrl), ACTIONS);
          const model = scripted([{ id: 'call_0', name: 'refund', args: { ...ALLOWED, charge: 'ch_fails' } }]);
          const middleware = order === 'before' ? [retry, ours] : [ours, retry];
          await run(way, createAgent({ model, tools: toolsOf(effects), middleware }), user).catch(() => {});
          assert.equal(asked.length, questions);
        },
      ),
    );
  }
  adapter('coverage: unmapped', way, 0, (effects) =>
    withScript(
      () => ALLOW,
      async (baseUrl) => {
        const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
        const middleware = [actpassMiddleware(newClient(baseUrl), { clock: UNGUARDED })];
        const agent = createAgent({ model, tools: toolsOf(effects), middleware });
        await assert.rejects(
          run(way, agent, user),
          /expected an action or UNGUARDED for each tool, found missing for refund/,
        );
      },
    ),
  );
  adapter('coverage: added later', `${way}, by another middleware`, 0, (effects) =>
    withScript(
      () => ALLOW,
      async (baseUrl) => {
        const [late] = toolsOf(effects);
        const adding = createMiddleware({
          name: 'Adding',
          wrapModelCall: (request, handler) => handler({ ...request, tools: [...request.tools, late] }),
          wrapToolCall: (request, handler) => handler({ ...request, tool: request.tool ?? late }),
        });
        const model = scripted([{ id: 'call_0', name: 'refund', args: ALLOWED }]);
        const ours = actpassMiddleware(newClient(baseUrl), { clock: UNGUARDED });
        const tools = toolsOf(effects).slice(1);
        const agent = createAgent({ model, tools, middleware: [ours, adding] });
        const state = await run(way, agent, user);
        assertBlocked(textsOf(state)[0], 'actpass.unmapped_tool');
      },
    ),
  );
  adapter('coverage: provider-executed', way, 0, (effects) =>
    withScript(
      () => ALLOW,
      async (baseUrl) => {
        const tools = [{ type: 'web_search', name: 'web_search' }];
        const agentWith = (action) =>
          createAgent({
            model: scripted(),
            tools,
            middleware: [actpassMiddleware(newClient(baseUrl), { web_search: action })],
          });
        await assert.rejects(run(way, agentWith(ACTION), user), /expected UNGUARDED for tools that the provider runs/);
        await run(way, agentWith(UNGUARDED), user);
        assert.ok(effects);
      },
    ),
  );
}
adapter('tool raises', 'plain, the same error', 1, (effects) =>
  withScript(
    () => ALLOW,
    async (baseUrl) => {
      let caught;
      const catching = createMiddleware({
        name: 'Catching',
        wrapToolCall: async (request, handler) => {
          try {
            return await handler(request);
          } catch (error) {
            for (caught = error; caught?.cause !== undefined; caught = caught.cause);
            throw error;
          }
        },
      });
      const model = scripted([{ id: 'call_0', name: 'refund', args: { ...ALLOWED, charge: 'ch_fails' } }]);
      const middleware = [catching, actpassMiddleware(newClient(baseUrl), ACTIONS)];
      await run('plain', createAgent({ model, tools: toolsOf(effects), middleware }), user).catch(() => {});
      assert.equal(caught, effects.failure);
    },
  ),
);
adapter('deny', 'plain, CommonJS', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const require = createRequire(import.meta.url);
    const { actpassMiddleware: ours } = require('@actpass/sdk/langchain');
    const model = scripted([{ id: 'call_0', name: 'refund', args: DENIED }]);
    const agent = createAgent({ model, tools: toolsOf(effects), middleware: [ours(newClient(baseUrl), ACTIONS)] });
    assertBlocked(textsOf(await run('plain', agent, user))[0], 'refund.over_limit');
  }),
);
exampleCase(FRAMEWORK, 'langchain-refund.mjs');
typesCase(FRAMEWORK, 'langchain-node.md');
