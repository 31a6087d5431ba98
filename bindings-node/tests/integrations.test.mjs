/** Common code of the adapters: actions by the names of tools, guarded calls, blocked tools. */

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { describe, test } from 'node:test';
import { ActionBlockedError, ActPassArgumentError, UNGUARDED } from '@actpass/sdk';
import { ALLOW, answer, Hostile, newClient, rejection } from './support.mjs';

const { approvalsOf, blockedText, pendingOf, runGuarded, ToolMap } = createRequire(import.meta.url)(
  '../dist/integrations/common.js',
);
const hostile = new Hostile();
const REFUND = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' };
const bodies = async (seen) => (await seen()).map(({ body }) => JSON.parse(body));
const never = () => assert.fail('it ran');
const offline = newClient('http://127.0.0.1:9');
const invalid = (call, message) =>
  assert.throws(call, (error) => error instanceof ActPassArgumentError && (assert.match(error.message, message), true));

describe('a map of tools', () => {
  test('is checked at construction, and names the tool', () => {
    for (const [actions, message] of [
      [undefined, /^actions: expected an object of actions by the names of tools, found undefined$/],
      [[REFUND], /^actions: expected an object of actions by the names of tools, found an array$/],
      [{ refund: 'stripe.refund.create' }, /^actions\.refund: expected an action or UNGUARDED, found a string$/],
      [{ refund: Symbol('UNGUARDED') }, /^actions\.refund: expected an action or UNGUARDED, found a symbol$/],
      [{ refund: null }, /^actions\.refund: expected an action or UNGUARDED, found null$/],
      [{ 'a b': { goal: 'g' } }, /^actions\["a b"\]\.tool: expected a string, found nothing$/],
      [{ refund: { ...REFUND, resourse: 'x' } }, /^actions\.refund\.resourse: expected one of goal, tool, /],
      [{ refund: { ...REFUND, mode: 'off' } }, /^actions\.refund\.mode: expected enforce, strict, warn or monitor/],
      [{ refund: { ...REFUND, goal: '{' } }, /^actions\.refund\.goal: expected names of arguments in braces/],
      ...['idempotencyKey', 'signal', 'traceparent', 'withContext', 'onBlocked'].map((name) => [
        { refund: { ...REFUND, [name]: undefined, [name]: 'x' } },
        new RegExp(`^actions\\.refund\\.${name}: expected one of goal, tool, `),
      ]),
    ]) {
      invalid(() => new ToolMap(offline, actions), message);
    }
  });

  test('finds a tool by its name or alias, and nothing else', () => {
    const tools = new ToolMap(offline, { refund: REFUND, time: UNGUARDED, pay_refund: { ...REFUND, tool: 'pay' } });
    assert.equal(tools.lookup('refund').tool, 'stripe.refund.create');
    assert.equal(tools.lookup('mcp__pay__refund', 'pay_refund', 'refund').tool, 'pay');
    assert.equal(tools.lookup('time'), UNGUARDED);
    for (const name of ['', 'Refund', 'constructor', '__proto__', 'toString', 'refund ']) {
      assert.equal(tools.lookup(name), undefined);
    }
    assert.equal(tools.lookup(), undefined);
    assert.deepEqual(tools.names, ['refund', 'time', 'pay_refund']);
  });

  test('names all tools without an action, and actions without a tool', () => {
    const tools = new ToolMap(offline, { refund: REFUND, time: UNGUARDED, spare: REFUND });
    tools.checkCoverage(['refund', ['mcp__time', 'time']]);
    tools.checkCoverage(['refund', 'time', 'spare'], { isComplete: true });
    const expected = 'actions: expected an action or UNGUARDED for each tool, found';
    for (const [given, options, found] of [
      [['refund', 'wipe', ['mcp__rm', 'rm']], {}, 'missing for wipe, mcp__rm'],
      [['refund'], { isComplete: true }, 'unknown tools time, spare'],
      [['a', 'time'], { isComplete: true }, 'missing for a; unknown tools refund, spare'],
    ]) {
      assert.throws(
        () => tools.checkCoverage(given, options),
        (error) => error instanceof ActPassArgumentError && error.message === `${expected} ${found}`,
      );
    }
  });

  test('denies an unmapped tool in every mode', () => {
    for (const mode of ['enforce', 'monitor']) {
      const outcome = new ToolMap(newClient('http://127.0.0.1:9', { mode }), {}).unmapped('rm');
      assert.deepEqual(
        [outcome.kind, outcome.executed, outcome.decision.reason_code],
        ['blocked', false, 'actpass.unmapped_tool'],
      );
      assert.equal(
        blockedText(outcome),
        'rm was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.',
      );
      assert.throws(() => outcome.unwrap(), ActionBlockedError);
      assert.equal(pendingOf(outcome), undefined);
    }
  });
});

describe('a guarded call', () => {
  const refunding = (baseUrl, action = REFUND) => {
    const actpass = newClient(baseUrl);
    const refund = new ToolMap(actpass, { refund: action }).lookup('refund');
    return (args, execute, options) => runGuarded(actpass, refund, args, execute, options);
  };

  test('executes a copy of the evaluated arguments', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const given = { amount: 4900, items: [{ id: 1 }] };
      const outcome = await refunding(baseUrl)(given, async (own, { decision }) => {
        given.items[0].id = 2;
        await new Promise(setImmediate);
        return [own, decision.decision];
      });
      assert.deepEqual(outcome.result, [{ amount: 4900, items: [{ id: 1 }] }, 'allow']);
      assert.notEqual(outcome.result[0], given);
      assert.deepEqual((await bodies(seen))[0].args, { amount: 4900, items: [{ id: 1 }] });
    }));

  test('is blocked if the arguments change while the gateway decides', () =>
    hostile.play([{ ...answer(ALLOW), delay_ms: 50 }], async ({ baseUrl }) => {
      const given = { amount: 4900 };
      const call = refunding(baseUrl)(given, never);
      given.amount = 90_000;
      assert.equal((await call).decision.reason_code, 'actpass.arguments_changed');
    }));

  test('sends the approval of the call, and prefers the wait of the action', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      await refunding(baseUrl, { ...REFUND, approvalRequestId: 'apr_own' })({}, () => 1, {
        approvalRequestId: 'apr_1',
      });
      await refunding(baseUrl, { ...REFUND, approvalRequestId: 'apr_own' })({}, () => 1, {
        approvalRequestId: undefined,
      });
      assert.deepEqual(
        (await bodies(seen)).map((sent) => sent.approval_request_id),
        ['apr_1', 'apr_own'],
      );
      const wrong = refunding(baseUrl)({}, never, { waitForApprovalMs: -1 });
      assert.match((await rejection(wrong)).message, /^waitForApprovalMs: expected non-negative milliseconds/);
      const own = refunding(baseUrl, { ...REFUND, waitForApprovalMs: 1 })({}, () => 1, { waitForApprovalMs: -1 });
      assert.equal((await own).result, 1);
    }));

  test('reports a block with the text for a model and the pending approval', () =>
    hostile.play(
      [answer({ decision: 'require_approval', reason_code: 'refund.medium', approval_request_id: 'apr_1' })],
      async ({ baseUrl }) => {
        const outcome = await refunding(baseUrl)({ amount: 25_000 }, never);
        assert.equal(pendingOf(outcome).approval_request_id, 'apr_1');
        assert.match(blockedText(outcome), /^stripe\.refund\.create was not run: require_approval \(refund\.medium\)/);
        assert.throws(
          () => outcome.unwrap(),
          (error) => error.message === blockedText(outcome),
        );
      },
    ));

  test('sends nothing and runs nothing for invalid arguments and an aborted signal', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const guarded = refunding(baseUrl, { ...REFUND, mode: 'monitor' });
      for (const args of [{ amount: Number.NaN }, 'text', null, [1]]) {
        const outcome = await guarded(args, never);
        assert.equal(outcome.decision.reason_code, 'actpass.invalid_argument');
        assert.ok(outcome.error instanceof ActPassArgumentError);
        assert.match(
          blockedText(outcome),
          /^stripe\.refund\.create was not run: deny \(actpass\.invalid_argument\)\. args.* Then call it again\.$/,
        );
      }
      assert.equal(await rejection(guarded({}, never, { signal: AbortSignal.abort('left') })), 'left');
      assert.deepEqual(await seen(), []);
    }));

  test('ends as suspended, without waiting for the recording, if the framework’s control flow ends the tool', () =>
    hostile.play([answer(ALLOW), { do: 'hang', at: 'request' }], async ({ baseUrl, seen }) => {
      const signal = new Error('interrupt');
      const outcome = await refunding(baseUrl, { ...REFUND, recordOutcome: true })(
        {},
        () => {
          throw signal;
        },
        { suspends: (thrown) => thrown === signal },
      );
      assert.deepEqual([outcome.kind, outcome.executed], ['failed', true]);
      // It would wait for the recording, which fails.
      assert.deepEqual([outcome.evidence, outcome.evidenceError], [undefined, undefined]);
      assert.equal(outcome.error, signal);
      while ((await seen()).length < 2);
      assert.equal((await bodies(seen))[1].metadata.ended, 'suspended');
    }));

  test('fails with the error of the tool if that is not control flow', () =>
    hostile.play([answer(ALLOW), answer({ event_id: 'ev_2' })], async ({ baseUrl, seen }) => {
      const own = new Error('the card is closed');
      const run = refunding(baseUrl, { ...REFUND, recordOutcome: true });
      const outcome = await run({}, () => Promise.reject(own), { suspends: () => false });
      assert.equal(outcome.error, own);
      assert.equal((await bodies(seen))[1].metadata.ended, 'failed');
    }));
});

test('approvals are one of the values that a framework supports', () => {
  assert.deepEqual(approvalsOf(undefined, ['tell', 'hold']), { approvals: 'tell', waitForApprovalMs: undefined });
  assert.deepEqual(approvalsOf({ approvals: 'hold', holdMs: 1000 }, ['tell', 'hold']), {
    approvals: 'hold',
    waitForApprovalMs: 1000,
  });
  for (const [options, message] of [
    [{ approvals: 'interrupt' }, /^approvals: expected tell or hold, found "interrupt"$/],
    [{ approvals: 7 }, /^approvals: expected tell or hold, found 7$/],
    [{ approvals: 'hold' }, /^holdMs: expected milliseconds above 0 .* with approvals 'hold', found undefined$/],
    [{ approvals: 'hold', holdMs: 0 }, /^holdMs: expected milliseconds above 0 .*, found 0$/],
    [{ approvals: 'hold', holdMs: '1' }, /^holdMs: .*, found a string$/],
    [{ approvals: 'hold', holdMs: Number.NaN }, /^holdMs: .*, found NaN$/],
    [{ holdMs: 1 }, /^holdMs: expected approvals 'hold', found 'tell'$/],
  ]) {
    invalid(() => approvalsOf(options, ['tell', 'hold']), message);
  }
});
