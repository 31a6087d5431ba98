/** The tools of an agent, protected together. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ActionBlockedError, ActPassArgumentError, UNGUARDED } from '@actpass/sdk';
import { ALLOW, answer, Hostile, newClient, rejection } from './support.mjs';

const hostile = new Hostile();
const REFUND = { tool: 'stripe.refund.create', goal: 'refund for {customer}' };
const UNMAPPED =
  'rm was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.';
const DENY = answer({ decision: 'deny', reason_code: 'refund.over_limit' });
const offline = newClient('http://127.0.0.1:9', { mode: 'monitor' });

/** Tools that count their runs. */
function counting() {
  const ran = [];
  return {
    ran,
    refund(args) {
      this.ran.push(['refund', args]);
      return args;
    },
    async time() {
      this.ran.push(['time']);
      return 'noon';
    },
  };
}

function protectedBy(actpass, options) {
  const { ran, ...tools } = counting();
  const bound = Object.defineProperty(tools, 'ran', { value: ran });
  return { ran, tools: actpass.protectTools(bound, { refund: REFUND, time: UNGUARDED }, options) };
}

test('runs each tool by its action, with its own this, and unguarded tools without a request', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const { ran, tools } = protectedBy(newClient(baseUrl));
    assert.deepEqual(await tools.refund({ customer: 'cus_1' }), { customer: 'cus_1' });
    assert.equal(await tools.time(), 'noon');
    assert.deepEqual(ran, [['refund', { customer: 'cus_1' }], ['time']]);
    const requests = await seen();
    assert.deepEqual(
      requests.map(({ body }) => [JSON.parse(body).tool, JSON.parse(body).goal]),
      [['stripe.refund.create', 'refund for cus_1']],
    );
    assert.deepEqual([tools.refund.name, tools.refund.length, tools.time.name], ['refund', 1, 'time']);
  }));

test('a blocked tool runs 0 times and rejects, or resolves with the result of onBlocked', () =>
  hostile.play([DENY], async ({ baseUrl }) => {
    const { ran, tools } = protectedBy(newClient(baseUrl));
    const error = await rejection(tools.refund({ customer: 'cus_1' }));
    assert.ok(error instanceof ActionBlockedError);
    assert.equal(error.code, 'refund.over_limit');
    const told = protectedBy(newClient(baseUrl), { onBlocked: ({ message }) => message });
    assert.match(await told.tools.refund({ customer: 'cus_1' }), /^stripe\.refund\.create was not run: deny/);
    assert.deepEqual([ran, told.ran], [[], []]);
  }));

test('does not call onBlocked for an error of a tool', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const own = new ActionBlockedError({ decision: 'deny', reason_code: 'own' });
    const fail = () => {
      throw own;
    };
    const onBlocked = () => assert.fail('it was called');
    const actions = { guarded: { tool: 't', goal: 'g' }, unguarded: UNGUARDED };
    const tools = newClient(baseUrl).protectTools({ guarded: fail, unguarded: fail }, actions, { onBlocked });
    assert.equal(await rejection(tools.guarded()), own);
    assert.equal(await rejection(tools.unguarded()), own);
  }));

describe('a name that is not mapped', () => {
  test('is denied in every mode, without a request', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      for (const mode of ['enforce', 'strict', 'warn', 'monitor']) {
        const { ran, tools } = protectedBy(newClient(baseUrl, { mode }));
        for (const name of ['rm', '', 'Refund', 'constructor', '__proto__', 'toString', 'hasOwnProperty', 'bind']) {
          const error = await rejection(tools[name]({ customer: 'cus_1' }));
          assert.ok(error instanceof ActionBlockedError, name);
          assert.deepEqual([error.code, error.tool, error.operation], ['actpass.unmapped_tool', name, 'protect']);
        }
        assert.deepEqual(ran, []);
      }
      assert.deepEqual(await seen(), []);
    }));

  test('has the text for a model, and the stack of its caller', async () => {
    const error = await rejection(offline.protectTools({}, {}).rm());
    assert.equal(error.message, UNMAPPED);
    assert.match(error.stack.split('\n')[1], /tools\.test\.mjs/);
    assert.equal(await offline.protectTools({}, {}, { onBlocked: ({ message }) => message }).rm(), UNMAPPED);
  });

  test('is denied also if it is added later', async () => {
    let ran = 0;
    const tools = { time: () => 'noon' };
    const wrapped = offline.protectTools(tools, { time: UNGUARDED });
    tools.rm = () => {
      ran += 1;
    };
    tools.time = tools.rm;
    assert.throws(() => {
      wrapped.rm = tools.rm;
    }, TypeError);
    assert.throws(() => Object.defineProperty(wrapped, 'rm', { value: tools.rm }), TypeError);
    assert.throws(() => Object.setPrototypeOf(wrapped, { rm: tools.rm }), TypeError);
    assert.throws(() => {
      Object.getPrototypeOf(wrapped).rm = tools.rm;
    }, TypeError);
    assert.equal((await rejection(wrapped.rm())).code, 'actpass.unmapped_tool');
    assert.equal(await wrapped.time(), 'noon');
    assert.equal(ran, 0);
  });
});

test('the tools can be listed, awaited, printed and copied', async () => {
  const { tools } = protectedBy(offline);
  assert.deepEqual(Object.keys(tools), ['refund', 'time']);
  assert.equal(await tools, tools);
  assert.equal(JSON.stringify(tools), '{}');
  assert.ok('time' in tools && !('rm' in tools));
  assert.equal({ ...tools }.time, tools.time);
});

test('is checked at construction, before anything runs', () => {
  const run = () => assert.fail('it ran');
  for (const [tools, actions, options, message] of [
    [{ a: run, b: run, c: run }, { b: REFUND, d: REFUND }, {}, /found missing for a, c; unknown tools d$/],
    [{ a: run }, {}, {}, /^actions: expected an action or UNGUARDED for each tool, found missing for a$/],
    [{ a: run }, { a: undefined }, {}, /found missing for a$/],
    [{}, { a: UNGUARDED }, {}, /found unknown tools a$/],
    [{ a: 7 }, { a: REFUND }, {}, /^tools\.a: expected a function, found 7$/],
    [{ a: function* () {} }, { a: UNGUARDED }, {}, /^tools\.a: expected a function that runs when called/],
    [{ a: run }, { a: { ...REFUND, resourse: 'x' } }, {}, /^actions\.a\.resourse: expected one of goal, tool, /],
    [{ a: run }, { a: REFUND }, { onBlocked: 'x' }, /^onBlocked: expected a function, found a string$/],
    [{ a: run }, { a: REFUND }, { onBloked: run }, /^onBloked: expected one of onBlocked$/],
    [[run], [REFUND], {}, /^tools: expected an object of functions by their names, found an array$/],
    [undefined, {}, {}, /^tools: expected an object of functions by their names, found undefined$/],
  ]) {
    assert.throws(
      () => offline.protectTools(tools, actions, options),
      (error) => error instanceof ActPassArgumentError && (assert.match(error.message, message), true),
      `${message}`,
    );
  }
});
