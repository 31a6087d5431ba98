/** Actions that need an approval, and recorded outcomes. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ActPass, hashPayload } from '@actpass/sdk';
import { ACTION, ALLOW, answer, Hostile, newClient, PASSPORT, rejection, withGateway } from './support.mjs';

const hostile = new Hostile();
const MEDIUM = { ...ACTION, args: { amount: 25_000, currency: 'usd' } };

/** Runs the real gateway; `decide` approves or rejects as an operator. */
function withPerson(body) {
  return withGateway(async ({ baseUrl, stop }) => {
    const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl, maxRetries: 0 });
    const decide = async (id, word) => {
      const headers = { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' };
      const path = `${baseUrl}/api/v1/approvals/${id}/${word}`;
      const answered = await fetch(path, { method: 'POST', headers, body: '{"note": "seen"}' });
      assert.equal(answered.status, 200, await answered.text());
    };
    await body({ actpass, decide, stop, baseUrl });
  });
}

test('an approved action is resumed from JSON and runs once', () =>
  withPerson(async ({ actpass, decide }) => {
    const blocked = await actpass.guard({ ...MEDIUM, execute: () => assert.fail('it ran') });
    assert.equal(blocked.executed, false);
    assert.equal(blocked.approval.approval_request_id, blocked.decision.approval_request_id);
    const kept = JSON.parse(JSON.stringify(blocked.approval));
    assert.deepEqual(kept.args, MEDIUM.args);
    assert.equal((await actpass.waitForApproval(kept, { timeoutMs: 0 })).status, 'pending');

    const early = await actpass.resume(kept, { execute: () => assert.fail('it ran') });
    assert.equal(early.executed, false);

    await decide(kept.approval_request_id, 'approve');
    const approval = await actpass.waitForApproval(kept.approval_request_id);
    assert.deepEqual([approval.id, approval.status], [kept.approval_request_id, 'approved']);
    const result = {};
    const resumed = await actpass.resume(kept, { execute: () => result });
    assert.deepEqual([resumed.executed, resumed.decision.decision], [true, 'allow']);
    assert.equal(resumed.result, result);
    const again = await actpass.resume(kept, { execute: () => assert.fail('it ran twice') });
    assert.equal(again.executed, false);
  }));

test('a changed copy of an approved action does not run', () =>
  withPerson(async ({ actpass, decide }) => {
    const { approval } = await actpass.guard({ ...MEDIUM, execute: () => assert.fail('it ran') });
    await decide(approval.approval_request_id, 'approve');
    const changed = { ...approval, args: { ...approval.args, amount: 26_000 } };
    const outcome = await actpass.resume(changed, { execute: () => assert.fail('it ran') });
    assert.equal(outcome.executed, false);
  }));

for (const [word, executed] of [
  ['approve', true],
  ['reject', false],
]) {
  test(`a waiting guard applies the decision ${word}`, () =>
    withPerson(async ({ actpass, decide, baseUrl }) => {
      const held = actpass.guard({ ...MEDIUM, waitForApprovalMs: 20_000, execute: () => 'refunded' });
      const headers = { authorization: 'Bearer apdv_dev' };
      let pending = [];
      while (pending.length === 0) {
        const listed = await (await fetch(`${baseUrl}/api/v1/approvals?status=pending`, { headers })).json();
        pending = listed.approvals ?? listed;
      }
      await decide(pending[0].id, word);
      const outcome = await held;
      assert.equal(outcome.executed, executed);
      assert.equal(outcome.result, executed ? 'refunded' : undefined);
    }));
}

test('a waiting guard times out or is aborted', () =>
  withPerson(async ({ actpass }) => {
    const execute = () => assert.fail('it ran');
    const outcome = await actpass.guard({ ...MEDIUM, waitForApprovalMs: 50, execute });
    assert.equal(outcome.executed, false);
    assert.ok(outcome.approval);
    const signal = AbortSignal.timeout(50);
    const held = actpass.guard({ ...MEDIUM, waitForApprovalMs: 60_000, signal, execute });
    assert.equal(await rejection(held), signal.reason);
    const waiting = actpass.waitForApproval(outcome.approval, { timeoutMs: 60_000, signal: AbortSignal.timeout(50) });
    assert.equal((await rejection(waiting)).name, 'TimeoutError');
  }));

test('a pending approval contains no secret; an invalid approval is rejected by name', () =>
  hostile.play([answer({ decision: 'require_approval', approval_request_id: 'apr_1' })], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl);
    const { approval } = await actpass.guard({ ...ACTION, passport: PASSPORT, mode: 'strict', execute: () => 1 });
    assert.ok(!JSON.stringify(approval).includes('secret'));
    assert.equal(approval.mode, 'strict');
    await actpass.resume(approval, { passport: PASSPORT, execute: () => assert.fail('it ran') });
    const sent = JSON.parse((await seen()).at(-1).body);
    assert.ok(sent.passport === PASSPORT && sent.approval_request_id === 'apr_1');
    for (const [pending, message] of [
      [undefined, /^pending: expected an object, found null$/],
      [{ ...approval, amount: '1' }, /^pending.amount: unknown member$/],
      [{ ...approval, goal: 7 }, /^pending.goal: expected a string, found a number$/],
      ['apr_1', /^pending: expected an object, found a string$/],
    ]) {
      const error = await rejection(actpass.resume(pending, { execute: () => assert.fail('it ran') }));
      assert.equal(error.name, 'ActPassArgumentError');
      assert.match(error.message, message);
    }
    for (const [id, options, message] of [
      ['', {}, /^approvalRequestId: expected a non-empty string$/],
      [undefined, {}, /^approvalRequestId: expected a string, found nothing$/],
      ['apr_1', { timeoutMs: -1 }, /^timeoutMs: expected non-negative milliseconds, found -1$/],
      ['apr_1', { wait: 1 }, /^wait: expected one of /],
    ]) {
      assert.match((await rejection(actpass.waitForApproval(id, options))).message, message);
    }
    const wrong = actpass.guard({ ...ACTION, waitForApprovalMs: '5', execute: () => 1 });
    assert.match(
      (await rejection(wrong)).message,
      /^waitForApprovalMs: expected non-negative milliseconds, found a string$/,
    );
  }));

describe('recordOutcome', () => {
  const record = (members, script, body) =>
    hostile.play(script, async ({ baseUrl, seen }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, recordOutcome: true, ...members });
      const events = (await seen()).filter(({ path }) => path === '/api/v1/evidence/events');
      await body(
        outcome,
        events.map((event) => JSON.parse(event.body)),
      );
    });
  const good = [answer(ALLOW), answer({ event_id: 'ev_2', current_event_hash: '00' })];

  test('records the hash of a result', () =>
    record({ execute: () => ({ refund: 're_1' }) }, good, (outcome, events) => {
      assert.deepEqual(outcome.evidence, { event_id: 'ev_2', current_event_hash: '00' });
      assert.deepEqual(outcome.result, { refund: 're_1' });
      assert.equal(events.length, 1);
      assert.equal(events[0].event_type, 'action.outcome');
      assert.equal(events[0].response_hash, hashPayload({ refund: 're_1' }));
      assert.deepEqual(events[0].metadata, { ended: 'returned', evidence_event_id: 'ev_1' });
    }));

  test('records an error and keeps it unchanged', () => {
    const own = new Error('the card is closed');
    return record({ execute: () => Promise.reject(own) }, good, (outcome, events) => {
      assert.equal(outcome.error, own);
      assert.equal(outcome.evidence.event_id, 'ev_2');
      assert.deepEqual([events[0].metadata.ended, events[0].response_hash], ['failed', null]);
    });
  });

  test('records a non-JSON result without a hash', () =>
    record({ execute: () => new Map() }, good, (outcome, events) => {
      assert.ok(outcome.evidence && outcome.result instanceof Map);
      assert.deepEqual([events[0].metadata.ended, events[0].response_hash], ['returned', null]);
    }));

  test('reports a recording error in the outcome', () =>
    record({ execute: () => 'refunded' }, [answer(ALLOW), answer({}, { status: 500 })], (outcome) => {
      assert.deepEqual([outcome.executed, outcome.result, outcome.evidence], [true, 'refunded', undefined]);
      assert.equal(outcome.evidenceError.code, 'actpass.gateway_error');
      assert.ok(!('error' in outcome));
    }));

  test('records nothing for a blocked action or by default', async () => {
    await record({ execute: () => assert.fail() }, [answer({ decision: 'deny' })], (outcome, events) => {
      assert.deepEqual([events, outcome.evidence], [[], undefined]);
    });
    await record({ execute: () => 1, recordOutcome: false }, good, (_, events) => assert.deepEqual(events, []));
  });

  test('rejects a non-boolean', async () => {
    const call = newClient('http://127.0.0.1:9').guard({ ...ACTION, recordOutcome: 'yes', execute: () => 1 });
    assert.match((await rejection(call)).message, /^recordOutcome: expected true or false, found a string$/);
  });
});
