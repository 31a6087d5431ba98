import assert from 'node:assert/strict';
import { createSdkMcpServer, query, tool } from '@anthropic-ai/claude-agent-sdk';
import { UNGUARDED } from '@actpass/sdk';
import { guardTool, preToolUse } from '@actpass/sdk/claude-agent';
import { z } from 'zod';
import { scriptedClaude } from './scripted-claude.mjs';
import {
  ACTION,
  ALLOW,
  ALLOWED,
  adapterCase,
  assertBlocked,
  commonCases,
  DENIED,
  exampleCase,
  newClient,
  withGateway,
  typesCase,
  withScript,
} from './support.mjs';

const FRAMEWORK = 'claude-agent';
const adapter = (name, variant, ran, body) => adapterCase(FRAMEWORK, name, variant, ran, body);
const SHAPE = { charge: z.string(), amount: z.number(), currency: z.string().default('usd') };
const content = (text) => ({ content: [{ type: 'text', text }] });
const NAMES = { refund: 'mcp__payments__refund', clock: 'mcp__payments__clock' };
const handlers = (effects) => ({
  refund: tool('refund', 'Refund a charge', SHAPE, async (args) => content(await effects.refund(args))),
  clock: tool('clock', 'The time', {}, async () => content(await effects.clock())),
});

/** Runs a session; returns the texts that the model reads. */
async function session({ calls, tools = [], hooks, builtin, changed, onHook, signal }) {
  const texts = [];
  const abortController = new AbortController();
  signal?.addEventListener('abort', () => abortController.abort());
  const options = {
    pathToClaudeCodeExecutable: 'claude',
    spawnClaudeCodeProcess: scriptedClaude({ calls, builtin, texts, changed, onHook }),
    mcpServers: { payments: createSdkMcpServer({ name: 'payments', version: '1.0.0', tools }) },
    abortController,
    ...(hooks && { hooks: { PreToolUse: hooks } }),
  };
  async function* prompts() {
    yield { type: 'user', message: { role: 'user', content: 'refund' }, parent_tool_use_id: null, session_id: '' };
  }
  for await (const _ of query({ prompt: prompts(), options }));
  return texts;
}

// In-process tools: guarded around their execution.
commonCases({
  framework: FRAMEWORK,
  ways: ['in-process tool'],
  UNGUARDED,
  parallel: true,
  constructs: false,
  async run({ client, effects, calls, actions, options }) {
    const { refund, clock } = handlers(effects);
    const tools = [guardTool(client, refund, actions.refund, options), clock];
    return session({ calls: calls.map((call) => ({ ...call, name: NAMES[call.name] })), tools });
  },
});

// Tools of Claude Code: decided by the hook.
commonCases({
  framework: FRAMEWORK,
  ways: ['hook, Claude Code tool'],
  UNGUARDED,
  parallel: true,
  constructs: false,
  // The scripted Claude Code has no schema: the evaluated input runs.
  ranOn: { text: 1, boolean: 1 },
  async run({ client, effects, calls, actions, options }) {
    const matcher = preToolUse(client, actions, options);
    assert.equal(matcher.onFailure, 'block');
    const builtin = (name, args) => effects[name](args).catch((error) => error.message);
    return session({ calls, hooks: [matcher], builtin });
  },
});

const run = (client, effects, given) =>
  session({
    calls: [{ id: 'call_0', name: 'refund', args: ALLOWED }],
    hooks: [preToolUse(client, { refund: ACTION })],
    builtin: (name, args) => effects[name](args),
    ...given,
  });

adapter('coverage: unmapped', 'hook', 0, (effects) =>
  withScript(
    () => ALLOW,
    async (baseUrl, asked) => {
      const hooks = [preToolUse(newClient(baseUrl), { clock: UNGUARDED })];
      assertBlocked((await run(newClient(baseUrl), effects, { hooks }))[0], 'actpass.unmapped_tool');
      assert.equal(asked.length, 0);
    },
  ),
);
adapter('coverage: namespaced', 'hook, the tool of another server', 0, (effects) =>
  withScript(
    () => ALLOW,
    async (baseUrl) => {
      const calls = [{ id: 'call_0', name: NAMES.refund, args: ALLOWED }];
      const tools = Object.values(handlers(effects));
      assertBlocked((await run(newClient(baseUrl), effects, { calls, tools }))[0], 'actpass.unmapped_tool');
    },
  ),
);
adapter('deny', 'hook, the tool of an MCP server by its name', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const calls = [{ id: 'call_0', name: NAMES.refund, args: DENIED }];
    const client = newClient(baseUrl);
    const hooks = [preToolUse(client, { [NAMES.refund]: ACTION })];
    const tools = Object.values(handlers(effects));
    assertBlocked((await run(client, effects, { calls, tools, hooks }))[0], 'refund.over_limit');
  }),
);
adapter('cancelled before the decision', 'hook', 0, async (effects) => {
  const controller = new AbortController();
  await withScript(
    () => void setImmediate(() => controller.abort()),
    async (baseUrl, asked) => {
      await run(newClient(baseUrl), effects, { signal: controller.signal }).catch(() => {});
      assert.equal(asked.length, 1);
    },
  );
});
adapter('cancelled before the decision', 'hook, its signal', 0, async (effects) => {
  const controller = new AbortController();
  await withScript(
    () => void setImmediate(() => controller.abort()),
    async (baseUrl) => {
      const [decide] = preToolUse(newClient(baseUrl), { refund: ACTION }).hooks;
      const input = { hook_event_name: 'PreToolUse', tool_name: 'refund', tool_input: ALLOWED };
      const { hookSpecificOutput } = await decide(input, 'call_0', { signal: controller.signal });
      assert.equal(hookSpecificOutput.permissionDecision, 'deny');
      assert.equal(effects.ran.length, 0);
    },
  );
});
adapter('hook raises', 'another PreToolUse hook', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const client = newClient(baseUrl);
    const failing = { hooks: [() => Promise.reject(new Error('failed'))] };
    const hooks = [failing, preToolUse(client, { refund: ACTION }), failing];
    const calls = [{ id: 'call_0', name: 'refund', args: DENIED }];
    assertBlocked((await run(client, effects, { hooks, calls }))[0], 'refund.over_limit');
  }),
);
adapter('hook clears the verdict', 'another hook allows', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const client = newClient(baseUrl);
    const allow = async () => ({ hookSpecificOutput: { hookEventName: 'PreToolUse', permissionDecision: 'allow' } });
    const hooks = [{ hooks: [allow] }, preToolUse(client, { refund: ACTION }), { hooks: [allow] }];
    const calls = [{ id: 'call_0', name: 'refund', args: DENIED }];
    assertBlocked((await run(client, effects, { hooks, calls }))[0], 'refund.over_limit');
  }),
);
adapter('hook after changes arguments', 'in-process tool, updatedInput', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const client = newClient(baseUrl);
    const calls = [{ id: 'call_0', name: NAMES.refund, args: ALLOWED }];
    const tools = [guardTool(client, handlers(effects).refund, ACTION)];
    const changed = (args) => ({ ...args, amount: 90_000 });
    assertBlocked((await session({ calls, tools, changed }))[0], 'refund.over_limit');
  }),
);
adapter('tool raises', 'in-process tool, the same error', 1, (effects) =>
  withScript(
    () => ALLOW,
    async (baseUrl) => {
      const guarded = guardTool(newClient(baseUrl), handlers(effects).refund, ACTION);
      const args = { ...ALLOWED, charge: 'ch_fails' };
      await assert.rejects(guarded.handler(args, {}), (error) => error === effects.failure);
    },
  ),
);
adapter('approval held too long', 'hook, its timeout', 0, async () => {
  const options = { approvals: 'hold', holdMs: 90_500 };
  assert.equal(preToolUse(newClient('http://127.0.0.1:9'), {}, options).timeout, 151);
});
exampleCase(FRAMEWORK, 'claude-agent-refund.mjs');
typesCase(FRAMEWORK, 'claude-agent-node.md');
