/** Protected functions. */

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, test } from 'node:test';
import { ActionBlockedError, ActPassArgumentError, ActPassConnectionError, ActPassError } from '@actpass/sdk';
import { ALLOW, answer, CREDENTIAL, Hostile, newClient, rejection } from './support.mjs';

const hostile = new Hostile();
const OPTIONS = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' };
const body = async (seen) => JSON.parse((await seen()).at(-1).body);

test('the function keeps its this, arguments and result', () =>
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

test('sends the first argument only', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const refund = newClient(baseUrl).protect(async (...args) => args, OPTIONS);
    const input = { amount: 4900 };
    const options = { toolCallId: 'call_1', messages: [{ role: 'user', content: 'my secret history' }], signal: {} };
    const ran = await refund(input, options, 'more');
    assert.deepEqual((await body(seen)).args, { amount: 4900 });
    assert.ok(!JSON.stringify(await seen()).includes('history'));
    assert.deepEqual(ran, [input, options, 'more']);
    assert.equal(ran[1], options);
    assert.deepEqual(await refund(), []);
    assert.deepEqual((await body(seen)).args, {});
    assert.deepEqual(await refund(undefined, options), [undefined, options]);
    assert.deepEqual((await body(seen)).args, {});
  }));

test('sends the results of its options only', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const options = { ...OPTIONS, args: ({ amount }) => ({ amount }), resource: (_, { toolCallId }) => toolCallId };
    const refund = newClient(baseUrl).protect(async () => 'ran', options);
    await refund({ amount: 1, note: 'private' }, { toolCallId: 'call_1', messages: ['private'] });
    assert.ok(!JSON.stringify(await seen()).includes('private'));
    const { args, resource } = await body(seen);
    assert.deepEqual([args, resource], [{ amount: 1 }, 'call_1']);
  }));

test('rejects a first argument that is not an object literal before sending', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const refund = newClient(baseUrl).protect(async () => assert.fail('it ran'), { ...OPTIONS, mode: 'monitor' });
    for (const [args, found] of [
      [['ch_123', 4900], 'a string'],
      [[4900], '4900'],
      [[null], 'null'],
      [[['ch_123']], 'an array'],
      [[() => 1], 'a function'],
    ]) {
      const error = await rejection(refund(...args));
      assert.ok(error instanceof ActPassArgumentError);
      assert.equal(
        error.message,
        `args: expected an object literal as the first argument of the function, found ${found}: ` +
          'use the option args, such as args: (charge, amount) => ({ charge, amount })',
      );
    }
    class Order {}
    assert.match((await rejection(refund(new Order()))).message, /^args: .* found an instance of Order; /);
    assert.deepEqual(await seen(), []);
  }));

test('runs with copies of the evaluated arguments', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const change = (order) => {
      order.amount = 1_000_000;
      order.items.push('more');
      order.at.setTime(1);
      order.tags.add('more');
      order.byId.set('a', 2);
      delete order.nested.charge;
    };
    const order = () => ({
      amount: 4900,
      items: ['one', , 'three'],
      at: new Date(0),
      nested: Object.assign(Object.create(null), { charge: 'ch_123' }),
      tags: new Set(['x']),
      byId: new Map([['a', 1]]),
    });
    let begin;
    const begun = new Promise((resolve) => {
      begin = resolve;
    });
    const options = { ...OPTIONS, args: ({ amount, nested }) => ({ amount, charge: nested.charge }) };
    const refund = actpass.protect(async (given, ...others) => {
      begin();
      await new Promise(setImmediate);
      return [given, others];
    }, options);
    const given = order();
    const socket = new EventEmitter();
    const call = refund(given, socket, change);
    await begun;
    change(given);
    const [ran, others] = await call;
    assert.deepEqual(ran, order());
    assert.notEqual(ran, given);
    assert.deepEqual(others, [socket, change]);
    assert.equal(others[0], socket);
  }));

test('copies only the first argument if no option reads others', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    let begin;
    const begun = new Promise((resolve) => {
      begin = resolve;
    });
    const refund = newClient(baseUrl).protect(async (given, options) => {
      begin();
      await new Promise(setImmediate);
      return [given.items[0].amount, options];
    }, OPTIONS);
    const [given, options] = [{ items: [{ amount: 4900 }] }, { messages: [] }];
    const call = refund(given, options);
    await begun;
    given.items[0].amount = 1_000_000;
    const [amount, same] = await call;
    assert.equal(amount, 4900);
    assert.equal(same, options);
  }));

test('copies cycles and symbols; class instances and functions stay the same', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const refund = newClient(baseUrl).protect(async (given) => given, { ...OPTIONS, args: () => ({}) });
    class Order extends Map {}
    const symbol = Symbol('s');
    const given = { order: new Order(), list: [], [symbol]: 1, run: () => 1, bytes: new Uint8Array(1) };
    given.list.push(given);
    Object.defineProperty(given, 'hidden', { value: 1, enumerable: false });
    const ran = await refund(given);
    assert.equal(ran.list[0], ran);
    assert.ok(!Object.hasOwn(ran, 'hidden'));
    assert.deepEqual(Reflect.ownKeys(ran), ['order', 'list', 'run', 'bytes', symbol]);
    for (const name of ['order', 'run', 'bytes']) {
      assert.equal(ran[name], given[name]);
    }
    const polluted = await refund(JSON.parse('{"__proto__": {"admin": true}}'));
    assert.equal(polluted.admin, undefined);
    const broken = {
      get amount() {
        throw new Error('own');
      },
    };
    const error = await rejection(refund(broken));
    assert.deepEqual([error.name, error.cause.message], ['ActPassArgumentError', 'own']);
  }));

test('passes the context with the credential before the arguments', () =>
  hostile.play(
    [answer({ ...ALLOW, credential: { token: CREDENTIAL, expires_at: 'soon' } })],
    async ({ baseUrl, seen }) => {
      const shop = {
        refund: newClient(baseUrl).protect(
          async function (context, ...args) {
            return [this, context, args];
          },
          { ...OPTIONS, withContext: true },
        ),
      };
      const [self, { credential, decision }, args] = await shop.refund({ amount: 1 }, 'more');
      assert.equal(self, shop);
      assert.ok(credential.token === CREDENTIAL);
      assert.equal(decision.decision, 'allow');
      assert.deepEqual(args, [{ amount: 1 }, 'more']);
      assert.deepEqual((await body(seen)).args, { amount: 1 });
      const plain = newClient(baseUrl).protect(async (...given) => given, { ...OPTIONS, withContext: false });
      assert.deepEqual(await plain({ amount: 1 }), [{ amount: 1 }]);
    },
  ));

test('a protected sync function returns a promise', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const twice = newClient(baseUrl).protect((value) => value * 2, { ...OPTIONS, args: {} });
    assert.equal(await twice(21), 42);
  }));

test('a blocked call throws the decision and runs nothing', () =>
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

test('the message of a blocked call is one line with the explanation', async () => {
  for (const [explain, message] of [
    [{ summary: 'A refund over\n$500 needs\u0000a person.' }, ' A refund over $500 needs a person.'],
    [{ summary: 'x'.repeat(3000) }, ` ${'x'.repeat(2000)}…`],
    [{ summary: '' }, ''],
    [{ summary: ['a list'] }, ''],
    [undefined, ''],
    [null, ''],
    ['text', ''],
  ]) {
    await hostile.play(
      [answer({ decision: 'deny', reason_code: 'refund.over_limit', explain })],
      async ({ baseUrl }) => {
        const error = await rejection(newClient(baseUrl).protect(async () => assert.fail('it ran'), OPTIONS)());
        const head = `${OPTIONS.tool} was not run: deny (refund.over_limit).${message}`;
        assert.equal(error.message, `${head} Do not call it again with the same arguments: it would be blocked again.`);
        assert.ok(error.developerText.startsWith(head.slice(0, 500)), error.developerText);
      },
    );
  }
});

test('a failed gate blocks and is the cause', () =>
  hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const error = await rejection(actpass.protect(async () => assert.fail('it ran'), OPTIONS)());
    assert.deepEqual([error.name, error.code], ['ActionBlockedError', 'actpass.unreachable']);
    assert.ok(error.cause instanceof ActPassConnectionError);
    assert.ok(
      error.message.startsWith(
        `${OPTIONS.tool} was not run: deny (actpass.unreachable). The policy decision could not be obtained`,
      ),
    );
    assert.ok(!error.message.includes('127.0.0.1') && error.developerText.includes(baseUrl), error.developerText);
    assert.equal(error.retryable, true);
    assert.equal(await actpass.protect(async () => 'ran', { ...OPTIONS, mode: 'monitor' })(), 'ran');
  }));

test('throws the same value, including falsy values', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const own = new Error('the card is closed');
    for (const thrown of [own, undefined, null, 'text']) {
      const refund = newClient(baseUrl).protect(async () => {
        throw thrown;
      }, OPTIONS);
      await refund().then(
        () => assert.fail('it returned'),
        (error) =>
          thrown === undefined
            ? assert.equal(error.message, 'run threw undefined, so the cause is unknown')
            : assert.equal(error, thrown),
      );
    }
  }));

test('an invalid option throws immediately by name', () => {
  const actpass = newClient('http://127.0.0.1:9');
  for (const [options, message] of [
    [{ resourse: 'x' }, /^resourse: expected one of goal, tool, args, /],
    [{ tool: '' }, /^tool: expected a non-empty string$/],
    [{ tool: undefined }, /^tool: expected a string, found nothing$/],
    [{ tool: () => 't' }, /^tool: expected a value that is JSON, found a function$/],
    [{ goal: '' }, /^goal: expected a non-empty string$/],
    [{ goal: 7 }, /^goal: expected a string, found a number$/],
    [{ mode: 'enforec' }, /^mode: expected enforce, strict, warn or monitor, found "enforec"$/],
    [{ args: 'x' }, /^args: expected an object$/],
    [{ args: { at: Number.NaN } }, /^args\.at: .* found NaN; /],
    [{ resource: 7 }, /^resource: expected a string, found a number$/],
    [{ userId: null }, /^userId: expected a string, found null$/],
    [{ audience: 7 }, /^audience: expected a string/],
    [{ idempotencyKey: '' }, /^idempotencyKey: expected a non-empty string$/],
    [{ toolManifestHash: 7 }, /^toolManifestHash: expected a string/],
    [{ waitForApprovalMs: -1 }, /^waitForApprovalMs: expected non-negative milliseconds, found -1$/],
    [{ recordOutcome: 'yes' }, /^recordOutcome: expected true or false, found a string$/],
    [{ withContext: 1 }, /^withContext: expected true or false, found 1$/],
    [{ onBlocked: 'text' }, /^onBlocked: expected a function, found a string$/],
    [{ onBlocked: function* () {} }, /^onBlocked: expected a function that runs when called, found a generator/],
    [{ approvalRequestId: 7 }, /^approvalRequestId: expected a string, found a number$/],
    ...['{', '}', '{}', '{a.b}', '{0}', '{{a}', 'a {b'].map((goal) => [
      { goal },
      /^goal: expected names of arguments in braces, such as 'charge:\{id\}', found ".*"; write \{\{ and \}\} for braces$/,
    ]),
    [{ resource: 'charge:{id' }, /^resource: expected names of arguments in braces/],
    [{ signal: 'abort' }, /^signal: expected an AbortSignal, found a string$/],
    [{ traceparent: 'x' }, /^traceparent: /],
  ]) {
    assert.throws(
      () => actpass.protect(async () => 1, { ...OPTIONS, ...options }),
      (error) => error instanceof ActPassArgumentError && (assert.match(error.message, message), true),
      `${message}`,
    );
  }
  for (const options of [undefined, null, 7, 'x', () => 1]) {
    assert.throws(
      () => actpass.protect(async () => 1, options),
      /^ActPassArgumentError: expected an object of goal and/,
    );
  }
  assert.throws(() => actpass.protect('refund', OPTIONS), /^ActPassArgumentError: run: expected a function/);
});

describe('a template', () => {
  test('is filled from args, else from the first argument', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const refund = newClient(baseUrl).protect(() => 'ran', {
        tool: 'stripe.refund.create',
        goal: 'refund for {customer} of {amount} {{not a name}}',
        args: ({ amount }) => ({ amount, customer: 'cus_of_args' }),
        resource: 'stripe:charge:{charge}',
      });
      await refund({ amount: 4900, customer: 'cus_1', charge: 'ch_123' });
      const { goal, resource, args } = await body(seen);
      assert.deepEqual(
        [goal, resource, args],
        [
          'refund for cus_of_args of 4900 {not a name}',
          'stripe:charge:ch_123',
          { amount: 4900, customer: 'cus_of_args' },
        ],
      );
    }));

  test('without names is a text', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      await newClient(baseUrl).protect(() => 'ran', { tool: 't', goal: 'a {{b}}' })();
      assert.equal((await body(seen)).goal, 'a {b}');
    }));

  test('rejects a value that is neither a string nor an integer, and sends nothing', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const options = { tool: 't', goal: 'g', resource: 'charge:{id}', args: {}, mode: 'monitor' };
      const refund = newClient(baseUrl).protect(() => assert.fail('it ran'), options);
      for (const [args, found] of [
        [{}, 'nothing'],
        [undefined, 'nothing'],
        [{ id: 1.5 }, '1.5'],
        [{ id: 2 ** 53 }, '9007199254740992'],
        [{ id: true }, 'a boolean'],
        [{ id: null }, 'null'],
        [{ id: ['a'] }, 'an array'],
        [Object.create({ id: 'inherited' }), 'nothing'],
      ]) {
        const error = await rejection(refund(args));
        assert.ok(error instanceof ActPassArgumentError);
        assert.equal(error.message, `resource: expected id as a string or an integer, found ${found}`);
      }
      assert.deepEqual(await seen(), []);
    }));

  test('of an argument that changes blocks the call', () =>
    hostile.play([{ ...answer(ALLOW), delay_ms: 50 }], async ({ baseUrl }) => {
      const options = { tool: 't', goal: 'refund for {customer}', args: {} };
      const refund = newClient(baseUrl).protect(() => assert.fail('it ran'), options);
      const given = { customer: 'cus_1' };
      const call = refund(given);
      given.customer = 'cus_2';
      assert.equal((await rejection(call)).code, 'actpass.arguments_changed');
    }));
});

test('a goal that neither the options nor bind names is an error of the call', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl);
    const refund = actpass.protect(() => 'ran', { tool: 't', mode: 'monitor' });
    const error = await rejection(refund());
    assert.ok(error instanceof ActPassArgumentError);
    assert.equal(error.message, 'goal: expected a string, found nothing');
    assert.deepEqual(await seen(), []);
    assert.equal(await actpass.bind({ goal: 'bound' }, () => refund()), 'ran');
    assert.equal((await body(seen)).goal, 'bound');
  }));

test('approvalRequestId is a value or a function', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl);
    for (const approvalRequestId of ['apr_1', () => 'apr_1', ({ approval }) => approval]) {
      await actpass.protect(() => 'ran', { ...OPTIONS, approvalRequestId })({ approval: 'apr_1' });
      assert.equal((await body(seen)).approval_request_id, 'apr_1');
    }
    await actpass.protect(() => 'ran', { ...OPTIONS, approvalRequestId: () => undefined })();
    assert.equal((await body(seen)).approval_request_id, undefined);
  }));

describe('onBlocked', () => {
  const DENY = answer({ decision: 'deny', reason_code: 'refund.over_limit' });

  test('gives the result of a blocked call', () =>
    hostile.play([DENY], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      for (const onBlocked of [(error) => error, async (error) => error]) {
        const refund = actpass.protect(() => assert.fail('it ran'), { ...OPTIONS, onBlocked });
        const error = await refund();
        assert.ok(error instanceof ActionBlockedError);
        assert.deepEqual([error.code, error.tool, error.operation], ['refund.over_limit', OPTIONS.tool, 'protect']);
        assert.match(error.stack.split('\n')[1], /protect\.test\.mjs/);
      }
    }));

  test('rethrows the error of the function', () =>
    hostile.play([DENY], async ({ baseUrl }) => {
      const own = new Error('own');
      const onBlocked = () => {
        throw own;
      };
      assert.equal(await rejection(newClient(baseUrl).protect(() => 1, { ...OPTIONS, onBlocked })()), own);
    }));

  test('is not called for errors of the function, not even of a blocked call inside', () =>
    hostile.play([answer(ALLOW), DENY], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const onBlocked = () => assert.fail('it was called');
      const inner = actpass.protect(() => assert.fail('it ran'), OPTIONS);
      const outer = actpass.protect(() => inner(), { ...OPTIONS, onBlocked });
      assert.equal((await rejection(outer())).code, 'refund.over_limit');
    }));

  test('is not called for invalid arguments and aborted calls', () =>
    hostile.play([DENY], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const onBlocked = () => assert.fail('it was called');
      const refund = actpass.protect(() => 1, { ...OPTIONS, onBlocked });
      assert.ok((await rejection(refund({ at: Number.NaN }))) instanceof ActPassArgumentError);
      const aborted = actpass.protect(() => 1, { ...OPTIONS, onBlocked, signal: AbortSignal.abort('left') });
      assert.equal(await rejection(aborted()), 'left');
    }));
});
