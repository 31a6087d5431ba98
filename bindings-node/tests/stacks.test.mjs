/** Stacks of errors: the caller's frame first, one line per cause, the called method. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import * as sdk from '@actpass/sdk';
import { ACTION, ALLOW, answer, Hostile, newClient, rejection, runModule } from './support.mjs';

const { ActPass, ActPassError } = sdk;
const hostile = new Hostile();
const NEVER = () => assert.fail('it ran');
const PENDING = { approval_request_id: 'apr_1', goal: 'g', tool: 't', args: {}, resource: '' };
const PROTECTION = { tool: 't', goal: 'g' };

/** For each method: a call that fails at the gate, and a call that fails before. */
const CALLS = {
  guard: [(actpass) => actpass.guard({ ...ACTION, execute: NEVER }), (actpass) => actpass.guard({})],
  authorize: [(actpass) => actpass.authorize(ACTION), (actpass) => actpass.authorize({ ...ACTION, execute: NEVER })],
  preflight: [(actpass) => actpass.preflight(ACTION), (actpass) => actpass.preflight({ ...ACTION, goal: 7 })],
  resume: [
    (actpass) => actpass.resume(PENDING, { execute: NEVER }),
    (actpass) => actpass.resume(7, { execute: NEVER }),
  ],
  waitForApproval: [(actpass) => actpass.waitForApproval('apr_1'), (actpass) => actpass.waitForApproval(7)],
  protect: [
    (actpass) => actpass.protect(NEVER, PROTECTION)({}),
    (actpass) => actpass.protect(NEVER, PROTECTION)({ at: Number.NaN }),
  ],
  issuePassport: [
    (actpass) => actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: ['t'] }),
    (actpass) => actpass.issuePassport(),
  ],
  verifyPassport: [
    (actpass) => actpass.verifyPassport({ token: 't', audience: 'a' }),
    (actpass) => actpass.verifyPassport({ token: 7, audience: 'a' }),
  ],
  revokePassport: [(actpass) => actpass.revokePassport('ap_1'), (actpass) => actpass.revokePassport()],
  recordEvidence: [
    (actpass) => actpass.recordEvidence({ eventType: 'e', chainId: 'c' }),
    (actpass) => actpass.recordEvidence({ eventType: 'e', chainId: 'c', metadata: { a: 1n } }),
  ],
};

/** The error of `call`, thrown or in its outcome. */
async function failureOf(call) {
  try {
    const outcome = await call;
    return outcome.error;
  } catch (error) {
    return error;
  }
}

/** Fails unless the top frame of `error` is the function `name` of this file. */
function assertFirstFrame(error, name) {
  const [head, first] = error.stack.split('\n    at ');
  assert.equal(head, `${error.name}: ${error.message}`);
  assert.match(first, new RegExp(`^(async )?${name} \\(file:.*stacks\\.test\\.mjs:\\d+:\\d+\\)$`), error.stack);
}

for (const [name, [atGate, before]] of Object.entries(CALLS)) {
  test(`an error of ${name} begins with the caller's frame and names ${name}`, () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const actpass = newClient(baseUrl, { circuitFailures: 0 });
      for (const [call, code] of [
        [atGate, 'actpass.unreachable'],
        [before, 'actpass.invalid_argument'],
      ]) {
        const theCaller = () => call(actpass);
        Object.defineProperty(theCaller, 'name', { value: 'theCaller' });
        const error = await failureOf(theCaller());
        assert.ok(error instanceof ActPassError);
        assert.deepEqual([error.code, error.operation], [code, name]);
        assert.match(
          error.stack.split('\n    at ')[1],
          /^(Object\.)?[\w.[\]]* ?\(?file:.*stacks\.test\.mjs:/,
          error.stack,
        );
        assert.ok(!error.stack.includes('bindings-node/dist/'), error.stack);
      }
    }));
}

describe('the first frame', () => {
  test('is the caller, with an immediate await, a later await, or Promise.all', () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const actpass = newClient(baseUrl, { circuitFailures: 0 });
      async function immediately() {
        await actpass.preflight(ACTION);
      }
      async function later() {
        const call = actpass.preflight(ACTION);
        call.catch(() => {});
        await new Promise(setImmediate);
        await call;
      }
      async function inAList() {
        await Promise.all([actpass.preflight(ACTION)]);
      }
      async function afterATurn() {
        await new Promise(setImmediate);
        await actpass.preflight(ACTION);
      }
      for (const caller of [immediately, later, inAList, afterATurn]) {
        assertFirstFrame(await rejection(caller()), caller.name);
      }
    }));

  test('is the caller of a synchronous function', () => {
    const actpass = newClient('http://127.0.0.1:9');
    const calls = {
      constructor: () => new ActPass({ apiKey: '' }),
      createActPass: () => sdk.createActPass({ apiKey: '' }),
      hashPayload: () => sdk.hashPayload(Number.NaN),
      ofClient: () => actpass.hashPayload(1n),
      signPayload: () => sdk.signPayload('s', () => 1),
      canonicalOutcome: () => sdk.canonicalOutcome(null),
      protect: () => actpass.protect(7, PROTECTION),
      protectTools: () => actpass.protectTools({}, { x: 1 }),
      withOptions: () => actpass.withOptions({ x: 1 }),
      bind: () => actpass.bind({}, 7),
    };
    for (const call of Object.values(calls)) {
      function theCaller() {
        call();
      }
      try {
        theCaller();
        assert.fail('nothing was thrown');
      } catch (error) {
        assert.ok(error instanceof ActPassError, `${error}`);
        assert.match(error.stack.split('\n    at ')[1], /stacks\.test\.mjs:/, error.stack);
        assert.ok(!error.stack.includes('bindings-node/dist/'), error.stack);
      }
    }
    class Ours extends ActPass {
      constructor() {
        super({ apiKey: '' });
      }
    }
    assert.throws(
      () => new Ours(),
      (error) => /^new Ours \(/.test(error.stack.split('\n    at ')[1]),
    );
  });

  test('is the caller of unwrap if the outcome is blocked', () =>
    hostile.play([answer({ decision: 'deny' })], async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: NEVER });
      async function caller() {
        outcome.unwrap();
      }
      assertFirstFrame(await rejection(caller()), 'caller');
    }));

  test('survives replaced methods and stack formatting', async () => {
    const { code, stdout, stderr } = await runModule(
      `import { ActPass } from '@actpass/sdk';
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:9' });
      const { guard } = ActPass.prototype;
      ActPass.prototype.guard = function wrapped(...args) { return guard.apply(this, args); };
      const stackOf = async () => actpass.guard({}).catch(({ stack }) => stack);
      console.log((await stackOf()).split('\\n')[1].includes('wrapped'));
      Error.prepareStackTrace = (error, frames) => frames;
      console.log(Array.isArray((await stackOf())), typeof (await stackOf()));
      Error.prepareStackTrace = undefined;
      Error.stackTraceLimit = 0;
      console.log(JSON.stringify(await stackOf()));
      Error.captureStackTrace = () => { throw new Error('replaced'); };
      const { kind } = await actpass.guard({ goal: 'g', tool: 't', args: {}, execute: () => 1 });
      console.log(kind, (await actpass.guard({}).catch((error) => error)).name);`,
    );
    assert.deepEqual([code, stderr], [0, '']);
    const [replaced, frames, none, throwing] = stdout.split('\n');
    assert.deepEqual([replaced, frames], ['true', 'true object']);
    assert.match(none, /^"ActPassArgumentError: execute: /);
    assert.equal(throwing, 'blocked ActPassArgumentError');
  });
});

describe('a cause', () => {
  test('is one line, at any depth', () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const blocked = await rejection(actpass.protect(NEVER, PROTECTION)({}));
      const { error } = await actpass.guard({ ...ACTION, execute: NEVER });
      for (const top of [await rejection(actpass.preflight(ACTION)), error, blocked]) {
        let causes = 0;
        for (let { cause } = top; cause !== undefined; { cause } = cause) {
          assert.equal(cause.stack, `${cause.name}: ${cause.message}`);
          assert.ok(!cause.message.includes('\n'));
          causes += 1;
        }
        assert.ok(causes > 0);
        const shown = inspect(top, { depth: 9 });
        assert.equal(shown.match(/\[cause\]/g).length, causes, shown);
        assert.ok(!shown.includes('bindings-node/dist/'), shown);
      }
      assert.match(`${blocked.cause.message}`, /^protect: /);
    }));
});

test('an error thrown by the function keeps its stack', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const own = sdk.ActPassTimeoutError && new sdk.ActPassTimeoutError('own');
    const { stack } = own;
    const inner = rejection(actpass.preflight({ ...ACTION, goal: '' }));
    for (const error of [own, await inner]) {
      const before = error.stack;
      const outcome = await actpass.guard({ ...ACTION, execute: () => Promise.reject(error) });
      assert.equal(outcome.error, error);
      assert.equal(error.stack, before);
      assert.ok(error === own ? error.operation === undefined : error.operation === 'preflight');
    }
    assert.equal(own.stack, stack);
  }));

test('outcomes and errors have the request id', () =>
  hostile.play(
    [
      answer(ALLOW, { headers: { 'x-request-id': 'req_allow' } }),
      answer({ decision: 'deny' }, { headers: { 'x-request-id': 'req_deny' } }),
      answer({}, { status: 500, headers: { 'x-request-id': 'req_500' } }),
      answer([], { headers: { 'x-request-id': 'req_list' } }),
      answer({}, { status: 403, headers: { 'x-request-id': 'req_403' } }),
    ],
    async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const guard = () => actpass.guard({ ...ACTION, execute: () => 1 });
      const allowed = await guard();
      assert.deepEqual([allowed.requestId, allowed.kind], ['req_allow', 'returned']);
      const denied = await guard();
      assert.deepEqual([denied.requestId, denied.kind], ['req_deny', 'blocked']);
      assert.throws(denied.unwrap, { requestId: 'req_deny' });
      for (const id of ['req_500', 'req_list']) {
        const failed = await guard();
        assert.deepEqual([failed.requestId, failed.error.requestId], [id, id]);
      }
      assert.equal((await rejection(actpass.preflight(ACTION))).requestId, 'req_403');
    },
  ));
