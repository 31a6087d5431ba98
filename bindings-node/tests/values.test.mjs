/** Every public method with every kind of value: the SDK throws only its own errors. */

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { inspect } from 'node:util';
import { runInNewContext } from 'node:vm';
import * as sdk from '@actpass/sdk';
import { ACTION, ALLOW, answer, Hostile, newClient } from './support.mjs';

const { ActPass, ActPassError } = sdk;
const fail = () => {
  throw new TypeError('raw');
};
const traps = Object.fromEntries(Object.getOwnPropertyNames(Reflect).map((trap) => [trap, fail]));
const revoked = Proxy.revocable({}, {});
revoked.revoke();
const cyclic = { self: null };
cyclic.self = cyclic;
let deep = 1;
for (let level = 0; level < 20_000; level += 1) {
  deep = [deep];
}
class Order {
  amount = 1;
}

/** Values that a caller may pass by mistake or with malice. */
const VALUES = {
  undefined,
  null: null,
  true: true,
  zero: 0,
  'minus zero': -0,
  'a fraction': 1.5,
  NaN: Number.NaN,
  Infinity,
  'a huge integer': 2 ** 70,
  'a bigint': 1n,
  'an empty string': '',
  'a string': 'x',
  'a lone surrogate': '\ud800',
  'a string with a line break': 'a\r\nb',
  'a symbol': Symbol('s'),
  'a function': () => 1,
  'an async function': async () => 1,
  'a generator function': function* () {},
  'a class': Order,
  'an array': [],
  'an array with a hole': [1, , 2],
  'an empty object': {},
  'an object without prototype': Object.create(null),
  'a frozen object': Object.freeze({ a: Object.freeze([1]) }),
  'an object of another realm': runInNewContext('({ a: [1] })'),
  'an instance of a class': new Order(),
  'a cycle': cyclic,
  'too deep nesting': deep,
  'a getter that throws': Object.defineProperty({}, 'goal', { enumerable: true, get: fail }),
  'a getter that throws undefined': Object.defineProperty({}, 'a', {
    enumerable: true,
    get() {
      throw undefined;
    },
  }),
  'a toJSON that throws': { toJSON: fail },
  'a toJSON that rejects': { toJSON: () => Promise.reject(new Error('raw')) },
  'a toString that throws': { toString: fail, valueOf: fail, [Symbol.toPrimitive]: fail },
  'a proxy that throws': new Proxy({}, traps),
  'a proxy of a function that throws': new Proxy(() => 1, traps),
  'a proxy of an array that throws': new Proxy([], traps),
  'a revoked proxy': revoked.proxy,
  'an invalid date': new Date(Number.NaN),
  'a map': new Map(),
  'a set': new Set(),
  'a regular expression': /a/,
  'invalid bytes': new Uint8Array([255]),
  'a promise': Promise.resolve(1),
  'an error': new Error('x'),
  'an error that looks native': new Error('{"name":'),
  'an error that looks like one of a class': new Error('{"name":"nothing","message":"x","causes":[]}'),
  'an outcome': { executed: true, decision: { decision: 'allow' }, kind: 'returned' },
};

/** The members of the options of each method. */
const CALL = ['signal', 'traceparent', 'timeoutMs', 'maxRetries'];
const MEMBERS = {
  settings: [
    ...['apiKey', 'tenantId', 'agentId', 'baseUrl', 'timeoutMs', 'connectTimeoutMs', 'maxRetries', 'circuitFailures'],
    ...['mode', 'ca', 'dangerAllowInsecureHttp', 'logger', 'logLevel'],
  ],
  action: [
    ...['goal', 'tool', 'args', 'resource', 'userId', 'passport', 'mode', 'idempotencyKey', 'audience'],
    ...['approvalRequestId', 'toolManifestHash', ...CALL],
  ],
  guard: ['execute', 'waitForApprovalMs', 'recordOutcome'],
  pending: ['approval_request_id', 'goal', 'tool', 'args', 'resource', 'user_id', 'mode', 'audience'],
  issue: [
    ...['audience', 'goal', 'allowedTools', 'allowedResources', 'resourceConstraints', 'userId', 'riskTier'],
    ...['ttlSeconds', 'approvalRequestId', ...CALL],
  ],
  verify: ['token', 'audience', 'agentId', 'userId', 'currentToolManifestHash', 'policyHash', ...CALL],
  offline: ['token', 'audience', 'issuer', 'agentId', 'userId', ...CALL],
  event: [
    ...['eventType', 'chainId', 'toolId', 'decision', 'reasonCode', 'metadata', 'requestHash', 'responseHash', ...CALL],
  ],
  wait: CALL,
  defaults: ['goal', 'userId', 'passport', 'audience', 'mode', 'waitForApprovalMs', 'recordOutcome', ...CALL],
  scope: ['goal', 'userId', 'passport', 'audience', 'signal', 'traceparent'],
  outcome: ['kind', 'executed', 'decision', 'result', 'error', 'approval'],
};
const PENDING = { approval_request_id: 'apr_1', goal: 'g', tool: 't', args: {}, resource: '' };
const ISSUE = { audience: 'a', goal: 'g', allowedTools: ['t'] };
const VERIFY = { token: 't', audience: 'a' };
const EVENT = { eventType: 'e', chainId: 'c' };
const RUN = { execute: () => 'ran' };

/** Each entry point: a name and a function that calls it with a value. */
function entries(actpass) {
  const { protect } = ActPass.prototype;
  const protection = { tool: 't', goal: 'g' };
  const guarded = actpass.protect(() => 'ran', protection);
  const named = (member) => actpass.protect(() => 'ran', { ...protection, args: {}, [member]: (value) => value });
  const whole = {
    'new ActPass': (value) => new ActPass(value),
    createActPass: (value) => sdk.createActPass(value),
    preflight: (value) => actpass.preflight(value),
    guard: (value) => actpass.guard(value),
    authorize: (value) => actpass.authorize(value),
    resume: (value) => actpass.resume(value, RUN),
    'resume, its options': (value) => actpass.resume(PENDING, value),
    waitForApproval: (value) => actpass.waitForApproval(value),
    'waitForApproval, its options': (value) => actpass.waitForApproval('apr_1', value),
    protect: (value) => actpass.protect(value, protection),
    protectTools: (value) => actpass.protectTools(value, {}),
    'protectTools, its actions': (value) => actpass.protectTools({}, value),
    'protectTools, an action': (value) => actpass.protectTools({ tool: () => 1 }, { tool: value }),
    'protectTools, its options': (value) => actpass.protectTools({}, {}, value),
    'protect, its options': (value) => actpass.protect(() => 1, value),
    'a protected function': (value) => guarded(value),
    'a protected function, its second argument': (value) => guarded({}, value),
    issuePassport: (value) => actpass.issuePassport(value),
    verifyPassport: (value) => actpass.verifyPassport(value),
    verifyPassportOffline: (value) => actpass.verifyPassportOffline(value),
    revokePassport: (value) => actpass.revokePassport(value),
    'revokePassport, its reason': (value) => actpass.revokePassport('ap_1', value),
    'revokePassport, its options': (value) => actpass.revokePassport('ap_1', 'x', value),
    recordEvidence: (value) => actpass.recordEvidence(value),
    withOptions: (value) => actpass.withOptions(value),
    bind: (value) => actpass.bind(value, () => 1),
    'bind, its function': (value) => actpass.bind({}, value === VALUES['a class'] ? 7 : value),
    hashPayload: (value) => sdk.hashPayload(value),
    'the method hashPayload': (value) => actpass.hashPayload(value),
    signPayload: (value) => sdk.signPayload(value, {}),
    'signPayload, its payload': (value) => actpass.signPayload('s', value),
    canonicalOutcome: (value) => sdk.canonicalOutcome(value),
  };
  const methods = {};
  for (const name of Object.getOwnPropertyNames(ActPass.prototype)) {
    const { get, value: method } = Object.getOwnPropertyDescriptor(ActPass.prototype, name);
    if (name !== 'constructor') {
      methods[`${name} on another this`] = (value) => (get ?? method).call(value, ACTION, RUN);
    }
  }
  const members = (name, options, call, names) =>
    Object.fromEntries(names.map((member) => [`${name}.${member}`, (value) => call({ ...options, [member]: value })]));
  const options = ['goal', 'args', 'resource', 'userId', 'passport', 'idempotencyKey', 'approvalRequestId'];
  return {
    ...whole,
    ...methods,
    ...members('settings', { apiKey: 'apk_dev' }, (given) => new ActPass(given), MEMBERS.settings),
    ...members('preflight', ACTION, (given) => actpass.preflight(given), MEMBERS.action),
    ...members('guard', { ...ACTION, ...RUN }, (given) => actpass.guard(given), [...MEMBERS.action, ...MEMBERS.guard]),
    ...members('authorize', ACTION, (given) => actpass.authorize(given), [
      ...[...MEMBERS.action, ...MEMBERS.guard.slice(1)],
    ]),
    ...members('pending', PENDING, (given) => actpass.resume(given, RUN), MEMBERS.pending),
    ...members('resume', RUN, (given) => actpass.resume(PENDING, given), [...CALL, ...MEMBERS.guard, 'passport']),
    ...members('wait', {}, (given) => actpass.waitForApproval('apr_1', given), MEMBERS.wait),
    ...members('issuePassport', ISSUE, (given) => actpass.issuePassport(given), MEMBERS.issue),
    ...members('verifyPassport', VERIFY, (given) => actpass.verifyPassport(given), MEMBERS.verify),
    ...members('offline', VERIFY, (given) => actpass.verifyPassportOffline(given), MEMBERS.offline),
    ...members('revoke', {}, (given) => actpass.revokePassport('ap_1', 'x', given), CALL),
    ...members('recordEvidence', EVENT, (given) => actpass.recordEvidence(given), MEMBERS.event),
    ...members('withOptions', {}, (given) => actpass.withOptions(given), MEMBERS.defaults),
    ...members('bind', {}, (given) => actpass.bind(given, () => 1), MEMBERS.scope),
    ...members('protect', protection, (given) => protect.call(actpass, () => 1, given), [
      ...[...MEMBERS.action, ...MEMBERS.guard.slice(1), 'withContext', 'onBlocked'],
    ]),
    ...Object.fromEntries(
      options.map((member) => [`the result of ${member} of protect`, (value) => named(member)(value)]),
    ),
    ...members('outcome', VALUES['an outcome'], (given) => sdk.canonicalOutcome(given), MEMBERS.outcome),
    ...members('args', {}, (args) => actpass.preflight({ ...ACTION, args }), ['amount']),
    'an item of args': (value) => actpass.preflight({ ...ACTION, args: { list: [value] } }),
  };
}

/** The value or the error of `call`. */
async function endOf(call) {
  try {
    return { value: await call() };
  } catch (thrown) {
    return { thrown };
  }
}

describe('any value', { concurrency: 4 }, () => {
  const hostile = new Hostile();
  const unhandled = [];
  const note = (reason) => unhandled.push(reason);
  before(() => process.on('unhandledRejection', note));
  after(async () => {
    await new Promise(setImmediate);
    process.off('unhandledRejection', note);
    assert.deepEqual(unhandled, []);
  });
  const names = Object.keys(entries(new ActPass({ apiKey: 'apk_dev' })));
  assert.ok(names.length > 150, `${names.length}`);

  for (const name of names) {
    test(`passed to ${name} throws only SDK errors`, () =>
      hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
        const actpass = newClient(baseUrl, { maxRetries: 0, circuitFailures: 0 });
        for (const [what, value] of Object.entries(VALUES)) {
          // Awaits promises too, so that no rejection is unhandled.
          const { thrown, value: returned } = await endOf(() => entries(actpass)[name](value));
          if (thrown !== undefined) {
            assert.ok(thrown instanceof ActPassError, `${what}: ${inspect(thrown)}`);
            assert.notEqual(thrown.kind, 'internal', `${what}: ${inspect(thrown)}`);
            assert.ok(!/[\r\n]|^\{/.test(thrown.message), `${what}: ${thrown.message}`);
            assert.ok(!/bindings-node\/dist/.test(thrown.stack.split('\n')[1]), `${what}: ${thrown.stack}`);
          } else if (returned?.kind === 'failed') {
            assert.ok(/execute/.test(name), `${what}: ${inspect(returned)}`);
          }
        }
      }));
  }

  test('is accepted by error constructors', () => {
    for (const [what, value] of Object.entries(VALUES)) {
      if (/toString|proxy|getter/.test(what)) {
        continue;
      }
      assert.ok(new ActPassError(value, value) instanceof Error, what);
      assert.ok(new sdk.ActionBlockedError(value, value) instanceof ActPassError, what);
    }
  });
});

describe('a polluted prototype', () => {
  const hostile = new Hostile();
  const polluted = {
    mode: 'monitor',
    execute: () => assert.fail('it ran'),
    userId: 'polluted',
    passport: 'polluted',
    idempotencyKey: 'polluted',
    approvalRequestId: 'polluted',
    resource: 'polluted',
    audience: 'polluted',
    waitForApprovalMs: 1,
    recordOutcome: true,
    withContext: true,
    timeoutMs: 1,
    maxRetries: 9,
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    signal: AbortSignal.abort('polluted'),
    logger: 7,
    logLevel: 'debug',
    error: 'polluted',
    approval: 'polluted',
    requestId: 'polluted',
    result: 'polluted',
    kind: 'returned',
    executed: true,
  };

  for (const [name, value] of Object.entries(polluted)) {
    test(`does not set ${name}`, () =>
      hostile.play([answer({ decision: 'deny', reason_code: 'x' })], async ({ baseUrl, seen }) => {
        let outcome;
        let blocked;
        let decision;
        Object.defineProperty(Object.prototype, name, { value, configurable: true, writable: true });
        try {
          const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl });
          const protection = { tool: 't', goal: 'g', args: {} };
          outcome = await actpass.guard({ goal: 'g', tool: 't', args: {}, execute: () => assert.fail('it ran') });
          blocked = await actpass
            .withOptions({})
            .protect(() => assert.fail('it ran'), protection)()
            .catch((error) => error);
          decision = await actpass.bind({}, () => actpass.preflight({ goal: 'g', tool: 't', args: {} }));
        } finally {
          delete Object.prototype[name];
        }
        assert.deepEqual(Object.keys(outcome), ['kind', 'decision', 'executed']);
        assert.deepEqual([outcome.kind, outcome.executed], ['blocked', false]);
        assert.ok(blocked instanceof sdk.ActionBlockedError, inspect(blocked));
        assert.equal(blocked.cause, undefined);
        assert.equal(decision.reason_code, 'x');
        const requests = await seen();
        assert.equal(requests.length, 3);
        assert.ok(!JSON.stringify(requests).includes('polluted') && !JSON.stringify(requests).includes('monitor'));
      }));
  }
});

describe('an internal error of the SDK', () => {
  const { native } = createRequire(import.meta.url)('../dist/native.js');
  const { hashPayload } = native;
  const odd = [
    undefined,
    null,
    7,
    'x',
    Symbol('s'),
    new TypeError('raw'),
    { message: '{"name":' },
    { message: 7 },
    () => 1,
  ];

  for (const thrown of [...odd, new Proxy({}, traps), revoked.proxy]) {
    test(`is an ActPassInternalError if the native module throws ${typeof thrown}`, () => {
      native.hashPayload = () => {
        throw thrown;
      };
      try {
        sdk.hashPayload({});
        assert.fail('nothing was thrown');
      } catch (error) {
        assert.equal(error.constructor, sdk.ActPassInternalError);
        assert.deepEqual([error.code, error.kind], ['actpass.internal', 'internal']);
        assert.equal(error.cause, thrown);
      } finally {
        native.hashPayload = hashPayload;
      }
    });
  }

  test('is an ActPassInternalError if response parsing throws', () => {
    const hostile = new Hostile();
    return hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const { parse } = JSON;
      const raw = new SyntaxError('raw');
      JSON.parse = () => {
        throw raw;
      };
      const calls = [actpass.preflight(ACTION), actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') })];
      const ended = await Promise.allSettled(calls);
      JSON.parse = parse;
      for (const { reason } of ended) {
        assert.equal(reason.constructor, sdk.ActPassInternalError);
        assert.equal(reason.cause, raw);
        assert.match(reason.stack.split('\n')[1], /values\.test\.mjs/);
      }
    });
  });
});
