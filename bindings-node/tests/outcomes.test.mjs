/** Outcomes of unrun bodies, changed arguments and unserializable results. */

import assert from 'node:assert/strict';
import { EventEmitter, on } from 'node:events';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { ActionBlockedError, ActPassArgumentError, canonicalOutcome } from '@actpass/sdk';
import { ACTION, ALLOW, answer, CREDENTIAL, Hostile, MODES, newClient, rejection } from './support.mjs';

const hostile = new Hostile();
const RECORDED = answer({ event_id: 'ev_2', current_event_hash: '00' });
const OPTIONS = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' };
const eventsOf = async (seen) =>
  (await seen()).filter(({ path }) => path === '/api/v1/evidence/events').map(({ body }) => JSON.parse(body));

function* generator() {
  yield assert.fail('it ran');
}
async function* asyncGenerator() {
  yield assert.fail('it ran');
}
class Refund {
  static create() {}
}
const revoked = Proxy.revocable(() => 1, {});
revoked.revoke();

describe('a function that does not run when called', () => {
  const GENERATOR = /: expected a function that runs when called, found a generator function: /;
  const wrong = {
    'a generator function': [generator, GENERATOR],
    'an async generator function': [asyncGenerator, GENERATOR],
    'a generator method': [{ *run() {} }.run, GENERATOR],
    'a bound generator function': [generator.bind(null), GENERATOR],
    'a bound async generator function': [asyncGenerator.bind(null).bind(null), GENERATOR],
    'a proxy of a generator function': [new Proxy(generator, {}), GENERATOR],
    'a proxy of a bound async generator function': [new Proxy(asyncGenerator.bind(null), {}), GENERATOR],
    'a generator function of another realm': [runInNewContext('(function* () {})'), GENERATOR],
    'a generator function made at run time': [new generator.constructor('yield 1'), GENERATOR],
    'a class': [Refund, /: expected a function that runs when called, found a class: it needs new$/],
    'a class that extends': [class extends Refund {}, /found a class: it needs new$/],
    'a revoked proxy': [revoked.proxy, /found a proxy that cannot be read$/],
  };
  for (const [name, [run, message]] of Object.entries(wrong)) {
    test(`${name} is rejected before sending`, () =>
      hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
        const actpass = newClient(baseUrl);
        for (const mode of MODES) {
          const error = await rejection(actpass.guard({ ...ACTION, mode, execute: run }));
          assert.ok(error instanceof ActPassArgumentError, `${error}`);
          assert.match(error.message, message);
          assert.match(error.message, /^execute: /);
        }
        const pending = { approval_request_id: 'apr_1', goal: 'g', tool: 't', args: {}, resource: '' };
        assert.match((await rejection(actpass.resume(pending, { execute: run }))).message, /^execute: /);
        assert.throws(() => actpass.protect(run, OPTIONS), message);
        assert.throws(() => actpass.protect(run, OPTIONS), /run: /);
        assert.deepEqual(await seen(), []);
      }));
  }

  test('accepts any other function', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const methods = { class() {}, classify() {}, class_: () => undefined, async run() {} };
      const callable = Object.assign(() => undefined, { next() {} });
      const functions = [...Object.values(methods), callable, methods.run.bind(null), new Proxy(methods.run, {})];
      for (const execute of functions) {
        const outcome = await actpass.guard({ ...ACTION, execute });
        assert.deepEqual([outcome.executed, outcome.error], [true, undefined], `${execute}`);
      }
    }));
});

describe('a result whose body has not run', () => {
  const custom = (members, symbol) => {
    const iterator = { next: () => assert.fail('it ran'), ...members };
    iterator[symbol] = () => iterator;
    return iterator;
  };
  /** A generator as compiled to older JavaScript. */
  const transpiled = () =>
    custom(
      { return: (value) => ({ value, done: true }), throw: () => {}, [Symbol.toStringTag]: 'Generator' },
      Symbol.iterator,
    );
  const results = {
    'a generator': [() => generator(), 'a generator'],
    'an async generator': [() => asyncGenerator(), 'an async generator'],
    'a promise of a generator': [async () => generator(), 'a generator'],
    'a promise of an async generator': [() => Promise.resolve(asyncGenerator()), 'an async generator'],
    'a thenable of a generator': [() => ({ then: (done) => done(generator()) }), 'a generator'],
    'a generator of another realm': [() => runInNewContext('(function* () { throw 1 })()'), 'a generator'],
    'a proxy of a generator': [() => new Proxy(generator(), {}), 'an iterator'],
    'a transpiled generator': [transpiled, 'an iterator'],
    'an async iterator': [() => custom({}, Symbol.asyncIterator), 'an async iterator'],
    'an iterator': [() => custom({}, Symbol.iterator), 'an iterator'],
    'an iterator over events': [() => on(new EventEmitter(), 'refund'), 'an async iterator'],
  };
  if (globalThis.Iterator !== undefined) {
    results['a lazy map'] = [() => [1].values().map(() => assert.fail('it ran')), 'an iterator'];
  }
  for (const [name, [execute, found]] of Object.entries(results)) {
    test(`${name} is rejected and recorded as failed`, () =>
      hostile.play([answer(ALLOW), RECORDED, answer(ALLOW), RECORDED], async ({ baseUrl, seen }) => {
        const actpass = newClient(baseUrl);
        const outcome = await actpass.guard({ ...ACTION, recordOutcome: true, execute });
        assert.equal(outcome.executed, true);
        assert.ok(!('result' in outcome));
        assert.ok(outcome.error instanceof ActPassArgumentError, `${outcome.error}`);
        assert.equal(outcome.error.message, `execute: expected a result, found ${found}, which has not run`);
        assert.equal(outcome.error.kind, 'argument');
        assert.equal(outcome.evidence.event_id, 'ev_2');
        assert.match(canonicalOutcome(outcome), /"kind":"action"/);
        const error = await rejection(actpass.protect(execute, { ...OPTIONS, recordOutcome: true, args: {} })());
        assert.ok(error instanceof ActPassArgumentError);
        assert.match(error.message, /^run: expected a result, found /);
        const events = await eventsOf(seen);
        assert.deepEqual(
          events.map(({ metadata, response_hash }) => [metadata.ended, response_hash]),
          [
            ['failed', null],
            ['failed', null],
          ],
        );
      }));
  }

  test('is closed; errors of closing are ignored', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      let closed = 0;
      for (const end of [
        () => ({ done: true }),
        () => Promise.reject(new Error('it will not close')),
        () => {
          throw new Error('it will not close');
        },
      ]) {
        const iterator = custom(
          {
            return: () => {
              closed += 1;
              return end();
            },
          },
          Symbol.asyncIterator,
        );
        const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => iterator });
        assert.match(outcome.error.message, /found an async iterator/);
      }
      await new Promise(setImmediate);
      assert.equal(closed, 3);
    }));

  test('does not include streams, data, lazy thenables and functions', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const values = [
        Readable.from([1]),
        new ReadableStream(),
        Object.assign(new ReadableStream(), { next() {}, [Symbol.asyncIterator]() {} }),
        [1].values(),
        new Map([[1, 2]]).entries(),
        new Set([1]).values(),
        'text'[Symbol.iterator](),
        'text'.matchAll(/t/g),
        new URLSearchParams('a=1').entries(),
        { next: 'page 2' },
        { next: () => 1 },
        Object.create(null),
        revoked.proxy,
        async () => 1,
        generator,
      ];
      for (const value of values) {
        const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => [value] });
        assert.equal(outcome.result[0], value);
        const bare = await newClient(baseUrl).guard({ ...ACTION, execute: () => value });
        // Resolving a promise with a revoked proxy throws, which is an error of the function.
        assert.ok(value === revoked.proxy ? bare.error instanceof TypeError : bare.result === value);
      }
    }));

  test('a lazy thenable is awaited once', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      let runs = 0;
      const query = {
        then(resolve) {
          runs += 1;
          resolve('rows');
        },
      };
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => query });
      assert.deepEqual([outcome.result, runs], ['rows', 1]);
      const broken = Object.defineProperty({}, 'then', {
        get() {
          throw new Error('its then');
        },
      });
      assert.equal((await newClient(baseUrl).guard({ ...ACTION, execute: () => broken })).error.message, 'its then');
    }));
});

describe('arguments changed while the gateway decides', () => {
  const slow = (json) => answer(json, { delay_ms: 40 });
  /** Calls a protected function and changes its arguments while the gateway decides. */
  async function changed(actpass, options, args, change) {
    const ran = [];
    const refund = actpass.protect((...given) => ran.push(structuredClone(given)), { ...OPTIONS, ...options });
    const call = refund(...args);
    change(...args);
    return {
      ran,
      end: await call.then(
        () => undefined,
        (error) => error,
      ),
    };
  }
  const order = () => ({ charge: { id: 'ch_123' }, items: [{ amount: 4900 }] });
  const changes = {
    'a nested member': [{}, (it) => (it.items[0].amount = 1_000_000)],
    'a member that is added': [{}, (it) => (it.charge.account = 'attacker')],
    'a member that is deleted': [{}, (it) => delete it.charge],
    'an item that is added': [{}, (it) => it.items.push({ amount: 1 })],
    'the result of `args`': [
      { args: ({ items }) => ({ total: items[0].amount }) },
      (it) => (it.items[0].amount = 1_000_000),
    ],
    'the result of `resource`': [
      { args: {}, resource: ({ charge }) => `stripe:charge:${charge.id}` },
      (it) => (it.charge.id = 'ch_456'),
    ],
    'the result of `userId`': [{ args: {}, userId: ({ charge }) => charge.id }, (it) => (it.charge.id = 'u_2')],
    'the result of `goal`': [{ args: {}, goal: ({ charge }) => charge.id }, (it) => (it.charge.id = 'other')],
    'a member that became non-JSON': [{}, (it) => (it.items[0].amount = 1n)],
    'a prototype that is replaced': [{}, (it) => Object.setPrototypeOf(it, { toJSON: () => ({ amount: 1 }) })],
  };
  for (const [name, [options, change]] of Object.entries(changes)) {
    test(`${name}: the call is blocked`, () =>
      hostile.play([slow({ ...ALLOW, credential: { token: CREDENTIAL } })], async ({ baseUrl, seen }) => {
        for (const mode of ['enforce', 'warn']) {
          const { ran, end } = await changed(newClient(baseUrl), { ...options, mode }, [order()], change);
          assert.deepEqual(ran, []);
          assert.ok(end instanceof ActionBlockedError, `${end}`);
          assert.equal(end.code, 'actpass.arguments_changed');
          assert.deepEqual([end.decision.decision, end.cause, end.retryable], ['deny', undefined, false]);
          assert.match(end.decision.explain.summary, /^The arguments changed after the gateway evaluated them/);
          assert.equal(end.decision.explain.next_steps.length, 2);
        }
        const [asked] = await seen();
        assert.ok(!/attacker|1000000|ch_456|u_2|other/.test(asked.body), 'the request has changed arguments');
      }));

    test(`${name}: monitor runs and reports the change`, () =>
      hostile.play([slow(ALLOW)], async ({ baseUrl }) => {
        const { ran, end } = await changed(newClient(baseUrl), { ...options, mode: 'monitor' }, [order()], change);
        assert.deepEqual([ran.length, end], [1, undefined]);
      }));
  }

  test('unchanged arguments run; other option results are not compared', () =>
    hostile.play([slow(ALLOW)], async ({ baseUrl }) => {
      let keys = 0;
      const options = { idempotencyKey: () => `key-${(keys += 1)}`, resource: (it) => it.charge.id };
      const { ran, end } = await changed(newClient(baseUrl), options, [order()], (it) => {
        it.items[0].amount = 7;
        it.items[0].amount = 4900;
      });
      assert.deepEqual([end, ran, keys], [undefined, [[order()]], 1]);
    }));

  test('a getter with a different second value blocks', () =>
    hostile.play([slow(ALLOW)], async ({ baseUrl, seen }) => {
      let reads = 0;
      const args = {
        get amount() {
          reads += 1;
          return reads === 1 ? 100 : 1_000_000;
        },
      };
      const { ran, end } = await changed(newClient(baseUrl), {}, [args], () => {});
      assert.deepEqual([ran, end.code], [[], 'actpass.arguments_changed']);
      assert.equal(JSON.parse((await seen())[0].body).args.amount, 100);
    }));

  test('an option that returns a promise is rejected, and the rejection of the promise is handled', () =>
    hostile.play([slow(ALLOW)], async ({ baseUrl, seen }) => {
      for (const name of ['args', 'resource', 'userId', 'goal', 'passport', 'idempotencyKey', 'approvalRequestId']) {
        const options = { ...OPTIONS, [name]: async () => assert.fail('later') };
        const error = await rejection(newClient(baseUrl).protect(() => assert.fail('it ran'), options)({}));
        assert.ok(error instanceof ActPassArgumentError);
        assert.equal(
          error.message,
          `${name}: expected a function that returns its value, found one that returns a promise`,
        );
      }
      assert.deepEqual(await seen(), []);
    }));

  test('a guard sends the arguments at the time of the call', () =>
    hostile.play([slow(ALLOW)], async ({ baseUrl, seen }) => {
      const args = { amount: 4900, items: [1] };
      const call = newClient(baseUrl).guard({ ...ACTION, args, execute: () => 1 });
      args.amount = 1_000_000;
      args.items.push(2);
      assert.equal((await call).executed, true);
      assert.deepEqual(JSON.parse((await seen())[0].body).args, { amount: 4900, items: [1] });
    }));
});

test('a blocked call has the status and cause of the failure', () =>
  hostile.play([answer({}, { status: 503 })], async ({ baseUrl }) => {
    const error = await rejection(newClient(baseUrl).protect(async () => assert.fail('it ran'), OPTIONS)());
    assert.deepEqual([error.name, error.code, error.kind], ['ActionBlockedError', 'actpass.gateway_error', 'blocked']);
    assert.deepEqual([error.status, error.retryable, error.operation], [503, true, 'protect']);
    assert.equal(error.cause.kind, 'status');
  }));

test('a function that changes its decision does not change the outcome', () => {
  const text = JSON.stringify({ ...ALLOW, extra: [{ deep: [1] }] }).replace('{', '{"__proto__":{"own":1},');
  return hostile.play([answer(JSON.parse(text))], async ({ baseUrl }) => {
    const execute = ({ decision }) => {
      assert.deepEqual(decision, JSON.parse(text));
      decision.decision = 'deny';
      decision.explain.matched_rules.push('changed');
      decision.extra[0].deep.push(2);
      Object.getOwnPropertyDescriptor(decision, '__proto__').value.own = 2;
    };
    const { decision } = await newClient(baseUrl).guard({ ...ACTION, execute });
    assert.deepEqual(decision, JSON.parse(text));
  });
});

test('a polluted prototype does not change the error of a function', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const own = new Error('own');
    Object.defineProperty(Object.prototype, 'result', { value: 'polluted', configurable: true });
    try {
      const refund = newClient(baseUrl).protect(() => Promise.reject(own), OPTIONS);
      assert.equal(await rejection(refund()), own);
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => Promise.reject(own) });
      assert.match(canonicalOutcome(outcome), /"kind":"action"/);
    } finally {
      delete Object.prototype.result;
    }
  }));

describe('a result that cannot be serialized', () => {
  const cyclic = {};
  cyclic.self = cyclic;
  const fail = () => {
    throw new Error('it cannot be written');
  };
  const hard = {
    'a cycle': cyclic,
    'a bigint': 7n,
    'a nested bigint': { amount: 7n },
    'a getter that throws': Object.defineProperty({}, 'amount', { get: fail, enumerable: true }),
    'a toJSON that throws': { toJSON: fail },
    'a toJSON that rejects': { toJSON: () => Promise.reject(new Error('unheard')) },
    'a toJSON without end': {
      toJSON() {
        return { ...this };
      },
    },
    'a proxy that throws': new Proxy(
      {},
      { get: (_, name) => (name === 'then' ? undefined : fail()), ownKeys: fail, getPrototypeOf: fail },
    ),
    'a lone surrogate': '\ud800',
    'a symbol': Symbol('s'),
    nothing: undefined,
  };
  for (const [name, value] of Object.entries(hard)) {
    test(`${name} is returned and recorded without a hash`, () =>
      hostile.play([answer(ALLOW), RECORDED], async ({ baseUrl, seen }) => {
        const outcome = await newClient(baseUrl).guard({ ...ACTION, recordOutcome: true, execute: () => value });
        assert.equal(outcome.executed, true);
        assert.ok('result' in outcome && Object.is(outcome.result, value));
        assert.equal(outcome.evidence.event_id, 'ev_2');
        const [event] = await eventsOf(seen);
        assert.deepEqual([event.metadata.ended, event.response_hash], ['returned', null]);
      }));
  }
});
