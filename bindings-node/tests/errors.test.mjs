/** Classes, codes and causes of errors; the names are those in Python. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { types } from 'node:util';
import * as imported from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  answer,
  everythingShown,
  Hostile,
  newClient,
  PASSPORT,
  ROOT,
  rejection,
  UNEXPLAINED,
} from './support.mjs';

const hostile = new Hostile();
// Some versions of Node add these to the exports of a CommonJS module.
const { default: _, 'module.exports': __, ...sdk } = imported;

test('classes and their hierarchy match Python', () => {
  const python = readFileSync(join(ROOT, 'bindings-python/python/actpass/_errors.py'), 'utf8');
  const classes = [...python.matchAll(/^class (ActPass\w+)\((\w+)/gm)].map(([, name, base]) => [name, base]);
  assert.ok(classes.length >= 11);
  for (const [name, base] of classes) {
    assert.equal(typeof sdk[name], 'function', name);
    assert.equal(Object.getPrototypeOf(sdk[name]).name, base === 'Exception' ? 'Error' : base);
    assert.equal(sdk[name].prototype.name, name);
  }
  const ours = Object.keys(sdk).filter((name) => name.startsWith('ActPass') && name.endsWith('Error'));
  assert.deepEqual(ours.sort(), classes.map(([name]) => name).sort());
});

test('import and require return the same classes', () => {
  const required = createRequire(import.meta.url)('@actpass/sdk');
  for (const name of Object.keys(sdk)) {
    assert.equal(required[name], sdk[name], name);
  }
});

const cases = [
  ['connection', { listen: 'refused' }, sdk.ActPassConnectionError, 'actpass.unreachable', undefined, true],
  ['timeout', [{ do: 'hang', at: 'request' }], sdk.ActPassTimeoutError, 'actpass.timeout', undefined, true],
  [
    'authentication',
    [answer({}, { status: 401 })],
    sdk.ActPassAuthenticationError,
    'actpass.unauthenticated',
    401,
    false,
  ],
  ['permission', [answer({}, { status: 403 })], sdk.ActPassPermissionError, 'actpass.forbidden', 403, false],
  ['rate_limit', [answer({}, { status: 429 })], sdk.ActPassRateLimitError, 'actpass.rate_limited', 429, true],
  ['status', [answer({}, { status: 500 })], sdk.ActPassStatusError, 'actpass.gateway_error', 500, false],
  ['status', [answer({}, { status: 503 })], sdk.ActPassStatusError, 'actpass.gateway_error', 503, true],
  ['response', [answer([])], sdk.ActPassResponseError, 'actpass.invalid_response', undefined, false],
];
describe('a gate error', () => {
  for (const [kind, script, errorClass, code, status, retryable] of cases) {
    test(`${kind} ${status ?? ''}`, () =>
      hostile.play(script, async ({ baseUrl }) => {
        const actpass = newClient(baseUrl, kind === 'timeout' ? { timeoutMs: 300 } : {});
        const caller = async () => {
          await actpass.preflight({ ...ACTION, passport: PASSPORT });
        };
        const error = await rejection(caller());
        assert.ok(error instanceof errorClass && error instanceof sdk.ActPassError && error instanceof Error);
        assert.ok(types.isNativeError(error));
        assert.equal(error.constructor, errorClass);
        assert.equal(Object.prototype.toString.call(error), '[object Error]');
        assert.deepEqual(
          [error.name, error.kind, error.code, error.status, error.retryable, error.operation],
          [errorClass.name, kind, code, status, retryable, 'preflight'],
        );
        assert.match(error.stack, new RegExp(`^${errorClass.name}: preflight: `));
        assert.match(error.stack.split('\n')[1], /^    at (async )?caller \(file:.*errors\.test\.mjs:/);
        const shown = everythingShown(error).includes('_secret');
        assert.ok(!shown);
        const { error: reported } = await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
        assert.deepEqual([reported.constructor, reported.code, reported.status], [errorClass, code, status]);
      }));
  }

  test('has the underlying failure as its cause', () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const error = await rejection(newClient(baseUrl).preflight(ACTION));
      assert.ok(error.cause instanceof Error);
      let root = error;
      while (root.cause) {
        root = root.cause;
      }
      assert.match(root.message, /refused/);
    }));

  test('keeps body, request id and retry-after of the response, and no secret', () =>
    hostile.play(
      [
        answer(
          { error: { code: 'slow_down', message: 'too many' }, echo: 'apk_tests_secret' },
          { status: 429, headers: { 'retry-after': '7', 'x-request-id': 'req_1' } },
        ),
      ],
      async ({ baseUrl }) => {
        const error = await rejection(newClient(baseUrl).preflight(ACTION));
        assert.deepEqual([error.requestId, error.retryAfterMs], ['req_1', 7000]);
        assert.match(error.message, /the gateway answered 429: too many$/);
        assert.match(error.body, /slow_down/);
        const shown = everythingShown(error).includes('_secret');
        assert.ok(!shown);
      },
    ));

  test('a 403 with a decision is a decision', () =>
    hostile.play([answer({ decision: 'deny', reason_code: 'x' }, { status: 403 })], async ({ baseUrl }) => {
      assert.deepEqual(await newClient(baseUrl).preflight(ACTION), {
        decision: 'deny',
        reason_code: 'x',
        explain: UNEXPLAINED,
      });
    }));
});

test('a constructed error has defaults', () => {
  const cause = new Error('why');
  const error = new sdk.ActPassTimeoutError('late', { code: 'actpass.timeout', status: 504, cause });
  assert.deepEqual([error.message, error.code, error.status, error.cause], ['late', 'actpass.timeout', 504, cause]);
  assert.equal(new sdk.ActPassError('x').code, 'actpass.internal');
  assert.ok(!('cause' in new sdk.ActPassError('x')));
});

test('an awaited rejection is never unhandled', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const unhandled = [];
    process.on('unhandledRejection', (reason) => unhandled.push(reason));
    const actpass = newClient(baseUrl);
    await rejection(actpass.preflight({ ...ACTION, goal: '' }));
    await actpass.guard({ ...ACTION, execute: () => Promise.reject(new Error('own')) });
    await rejection(actpass.preflight({ ...ACTION, signal: AbortSignal.abort() }));
    await new Promise(setImmediate);
    assert.deepEqual(unhandled, []);
  }));

test('the circuit opens after consecutive unreachable calls', () =>
  hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
    const actpass = newClient(baseUrl, { circuitFailures: 2 });
    assert.equal(actpass.circuit, 'closed');
    for (let at = 0; at < 3; at += 1) {
      const { executed, error } = await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
      assert.deepEqual([executed, error.code], [false, 'actpass.unreachable']);
    }
    assert.equal(actpass.circuit, 'open');
    const observed = await actpass.guard({ ...ACTION, mode: 'monitor', execute: () => 'ran' });
    assert.equal(observed.result, 'ran');
  }));
