/** Stops: the signal of a running function, refused permits, and the test kit. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ScriptedGateway } from '@actpass/sdk/testing';

const REFUND = { goal: 'resolve_refund_request', tool: 'stripe.refund.create', args: { amount: 4900 } };
const NOTE = { goal: 'resolve_refund_request', tool: 'crm.note.add', args: {} };

async function started(t, answer = (gateway) => gateway.allow()) {
  const gateway = await ScriptedGateway.start();
  t.after(() => gateway.close());
  answer(gateway);
  return gateway;
}

async function acknowledged(gateway, count) {
  for (let at = 0; gateway.acknowledgements.length < count && at < 2000; at += 1) {
    await sleep(10);
  }
  return gateway.acknowledgements.map(({ epoch, in_flight }) => [epoch, in_flight]);
}

/** Waits until the signal aborts; the timer keeps the process alive. */
async function aborted(signal) {
  for (let at = 0; !signal.aborted && at < 2000; at += 1) {
    await sleep(10);
  }
  return signal.aborted;
}

test('stop signals running functions of its tool, and is acknowledged', async (t) => {
  const gateway = await started(t);
  const actpass = gateway.client({ agentId: 'refunds' });
  const note = actpass.guard({
    ...NOTE,
    execute: async ({ halt }) => {
      await acknowledged(gateway, 1);
      return halt.aborted;
    },
  });
  const refund = actpass.guard({
    ...REFUND,
    execute: async (context) => {
      await sleep(1200);
      gateway.halt('tool', { id: REFUND.tool, reason: 'wrong amounts' });
      assert.equal(await aborted(context.halt), true);
      return context.halt.reason;
    },
  });
  const [refunded, noted] = await Promise.all([refund, note]);
  assert.equal(refunded.decision.decision, 'allow');
  assert.deepEqual([refunded.result.name, refunded.result.message], ['AbortError', 'the action was stopped']);
  assert.equal(noted.result, false);
  assert.deepEqual(await acknowledged(gateway, 2), [
    [1, 2],
    [1, 0],
  ]);
  assert.equal(gateway.acknowledgements[0].agent_id, 'refunds');
});

test('signal aborts a call that the function passes it to', async (t) => {
  const gateway = await started(t);
  const outcome = await gateway.client().guard({
    ...REFUND,
    recordOutcome: true,
    execute: async ({ halt }) => {
      setTimeout(() => gateway.halt('all'), 1100);
      await sleep(60_000, undefined, { signal: halt });
    },
  });
  assert.deepEqual(
    [outcome.kind, outcome.error.name, outcome.evidence?.event_id !== undefined],
    ['failed', 'AbortError', true],
  );
});

test('signal first read after the stop is aborted', async (t) => {
  const gateway = await started(t);
  const outcome = await gateway.client().guard({
    ...REFUND,
    execute: async (context) => {
      assert.deepEqual(Object.keys(context), ['credential', 'decision']);
      await sleep(1100);
      gateway.halt('agent', { id: 'sdk' });
      await acknowledged(gateway, 1);
      await sleep(50);
      return context.halt.aborted;
    },
  });
  assert.equal(outcome.result, true);
});

test('permit of an older epoch is refused, and retryable', async (t) => {
  const gateway = await started(t);
  const actpass = gateway.client();
  const permit = await actpass.authorize(REFUND);
  gateway.halt('tool', { id: NOTE.tool });
  assert.equal((await actpass.preflight(NOTE)).reason_code, 'halted');
  assert.throws(
    () => permit.spend(),
    ({ code, retryable, message, cause }) =>
      code === 'actpass.halted' && retryable && cause === undefined && message.endsWith('Retry the same call.'),
  );
  assert.equal((await actpass.guard({ ...REFUND, execute: () => 're_1' })).unwrap(), 're_1');
});

test('stop ends a wait for approval and keeps its handle', async (t) => {
  const gateway = await started(t, (one) => one.requireApproval());
  const actpass = gateway.client();
  const held = actpass.guard({ ...REFUND, waitForApprovalMs: 60_000, execute: () => 're_1' });
  while (gateway.approvals.length === 0) {
    await sleep(10);
  }
  gateway.halt('all', { reason: 'wrong amounts' });
  const outcome = await held;
  assert.deepEqual(
    [outcome.kind, outcome.decision.reason_code, outcome.decision.explain.summary],
    ['blocked', 'halted', 'Stopped by test: wrong amounts'],
  );
  gateway.lift();
  gateway.approve(REFUND.tool);
  assert.equal((await actpass.resume(outcome.approval, { execute: () => 're_1' })).unwrap(), 're_1');
});

test('kit rejects an invalid stop', async (t) => {
  const gateway = await started(t);
  assert.throws(() => gateway.halt('tool'), {
    code: 'actpass.invalid_argument',
    message: /id: expected a name, found nothing/,
  });
  assert.throws(() => gateway.halt('all', { id: 'a' }), { code: 'actpass.invalid_argument' });
});
