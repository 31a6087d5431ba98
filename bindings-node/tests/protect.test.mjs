/** Functions that run only when they may. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ActionBlockedError, ActPassConnectionError, ActPassError } from '@actpass/sdk';
import { ALLOW, answer, Hostile, newClient, rejection } from './support.mjs';

const hostile = new Hostile();
const OPTIONS = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' };
const body = async (seen) => JSON.parse((await seen()).at(-1).body);

test('the function runs under its own this, with its own arguments, and returns its own result', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const result = {};
    const shop = {
      async refund(...args) {
        assert.equal(this, shop);
        assert.deepEqual(args, ['ch_123', 4900]);
        return result;
      },
    };
    shop.refund = newClient(baseUrl).protect(shop.refund, {
      ...OPTIONS,
      resource: (charge) => `stripe:charge:${charge}`,
      args: (_charge, amount) => ({ amount, currency: 'usd' }),
      idempotencyKey: (charge) => `refund-${charge}`,
      userId: 'user_7',
    });
    assert.equal(shop.refund.name, 'refund');
    assert.equal(await shop.refund('ch_123', 4900), result);
    const sent = await body(seen);
    assert.deepEqual(sent.args, { amount: 4900, currency: 'usd' });
    assert.equal(sent.resource, 'stripe:charge:ch_123');
    assert.equal(sent.idempotency_key, 'refund-ch_123');
    assert.deepEqual([sent.tool, sent.goal, sent.user_id], [OPTIONS.tool, OPTIONS.goal, 'user_7']);
  }));

test('what it is called with is what is judged, where nothing else is said', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const protectedly = newClient(baseUrl).protect(async (...args) => args.length, OPTIONS);
    assert.equal(await protectedly({ amount: 4900 }), 1);
    assert.deepEqual((await body(seen)).args, { amount: 4900 });
    assert.equal(await protectedly(), 0);
    assert.deepEqual((await body(seen)).args, {});
    assert.equal(await protectedly('ch_123', 4900), 2);
    assert.deepEqual((await body(seen)).args, { arguments: ['ch_123', 4900] });
  }));

test('a sync function becomes one that returns a promise', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const twice = newClient(baseUrl).protect((value) => value * 2, { ...OPTIONS, args: {} });
    assert.equal(await twice(21), 42);
  }));

test('blocked is thrown, with the decision, and nothing runs', () =>
  hostile.play(
    [answer({ decision: 'require_approval', reason_code: 'refund.medium', approval_request_id: 'apr_1' })],
    async ({ baseUrl }) => {
      const refund = newClient(baseUrl).protect(async () => assert.fail('it ran'), OPTIONS);
      const error = await rejection(refund());
      assert.ok(error instanceof ActionBlockedError && error instanceof ActPassError);
      assert.deepEqual([error.name, error.code, error.kind], ['ActionBlockedError', 'refund.medium', 'blocked']);
      assert.equal(error.decision.approval_request_id, 'apr_1');
      assert.equal(error.cause, undefined);
    },
  ));

test('its message says why, in one line, whatever the gateway explains', async () => {
  for (const [explain, message] of [
    [{ summary: 'A refund over\n$500 needs\u0000a person.' }, ': A refund over $500 needs a person.'],
    [{ summary: 'x'.repeat(1000) }, `: ${'x'.repeat(300)}`],
    [{ summary: '' }, ''],
    [{ summary: ['a list'] }, ': a list'],
    [undefined, ''],
    [null, ''],
    ['text', ''],
  ]) {
    await hostile.play(
      [answer({ decision: 'deny', reason_code: 'refund.over_limit', explain })],
      async ({ baseUrl }) => {
        const error = await rejection(newClient(baseUrl).protect(async () => assert.fail('it ran'), OPTIONS)());
        assert.equal(error.message, `the action was not run: deny (refund.over_limit)${message}`);
      },
    );
  }
});

test('a gate that fails blocks, and is the cause', () =>
  hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const error = await rejection(actpass.protect(async () => assert.fail('it ran'), OPTIONS)());
    assert.deepEqual([error.name, error.code], ['ActionBlockedError', 'actpass.unreachable']);
    assert.ok(error.cause instanceof ActPassConnectionError);
    assert.equal(error.message, `the action was not run: deny (actpass.unreachable): ${error.cause.message}`);
    assert.equal(await actpass.protect(async () => 'ran', { ...OPTIONS, mode: 'monitor' })(), 'ran');
  }));

test('what it throws is thrown as it is, also what looks like nothing', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const own = new Error('the card is closed');
    for (const thrown of [own, undefined, null, 'text']) {
      const refund = newClient(baseUrl).protect(async () => {
        throw thrown;
      }, OPTIONS);
      await refund().then(
        () => assert.fail('it returned'),
        (error) => assert.equal(error, thrown),
      );
    }
  }));

test('a misspelled option is named at once', () => {
  const actpass = newClient('http://127.0.0.1:9');
  assert.throws(
    () => actpass.protect(async () => 1, { ...OPTIONS, resourse: 'x' }),
    /^ActPassArgumentError: resourse: /,
  );
  assert.throws(() => actpass.protect('refund', OPTIONS), /^ActPassArgumentError: run: expected a function/);
});
