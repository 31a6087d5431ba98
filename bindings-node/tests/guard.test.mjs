/** The guard: execution of an action and its outcome. */

import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { createRequire } from 'node:module';
import { describe, test } from 'node:test';
import { ActPassConnectionError, ActPassError, ActPassInternalError, canonicalOutcome } from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  answer,
  CREDENTIAL,
  everythingShown,
  Hostile,
  MODES,
  newClient,
  rejection,
  UNEXPLAINED,
  withGateway,
} from './support.mjs';

const hostile = new Hostile();
const { native } = createRequire(import.meta.url)('../dist/native.js');

describe('the guard contract: response', { concurrency: 4 }, () => {
  const recorded = { evidence_event_id: 'ev_1' };
  const bound = { request_hash: '{{request_hash}}' };
  const rows = {
    allow: { answer: { decision: 'allow', ...recorded, ...bound }, runs: ['enforce', 'strict', 'warn', 'monitor'] },
    'allow, unrecorded': { answer: { decision: 'allow', ...bound }, runs: ['enforce', 'warn', 'monitor'] },
    'allow with an empty event id': {
      answer: { decision: 'allow', evidence_event_id: '', ...bound },
      runs: ['enforce', 'warn', 'monitor'],
    },
    'allow, unbound': {
      answer: { decision: 'allow', ...recorded },
      runs: ['enforce', 'warn', 'monitor'],
      failedInStrict: 'actpass.invalid_response',
    },
    'allow of another request': {
      answer: { decision: 'allow', ...recorded, request_hash: '00'.repeat(32) },
      runs: ['monitor'],
      failed: 'actpass.invalid_response',
    },
    warn: { answer: { decision: 'warn', ...recorded }, runs: ['warn', 'monitor'] },
    deny: { answer: { decision: 'deny', ...recorded }, runs: ['monitor'] },
    require_approval: { answer: { decision: 'require_approval', ...recorded }, runs: ['monitor'] },
    require_tool_reapproval: { answer: { decision: 'require_tool_reapproval', ...recorded }, runs: ['monitor'] },
    'an unknown word': { answer: { decision: 'permit', ...recorded }, runs: ['monitor'] },
    'a word with a space': { answer: { decision: ' allow', ...recorded }, runs: ['monitor'] },
    'a word in capitals': { answer: { decision: 'ALLOW', ...recorded }, runs: ['monitor'] },
    'a missing decision': { answer: { ...recorded }, runs: ['monitor'], failed: 'actpass.invalid_response' },
    true: { answer: { decision: true, ...recorded }, runs: ['monitor'], failed: 'actpass.invalid_response' },
    'a list': { answer: { decision: ['allow'], ...recorded }, runs: ['monitor'], failed: 'actpass.invalid_response' },
  };
  for (const [name, row] of Object.entries(rows)) {
    for (const mode of MODES) {
      test(`${name} in ${mode}`, () =>
        hostile.play([answer(row.answer)], async ({ baseUrl, seen }) => {
          let runs = 0;
          const outcome = await newClient(baseUrl).guard({
            ...ACTION,
            mode,
            execute: () => {
              runs += 1;
            },
          });
          const executed = row.runs.includes(mode);
          assert.equal(runs, executed ? 1 : 0);
          assert.equal(outcome.executed, executed);
          assert.equal('result' in outcome, executed);
          const failed = row.failed ?? (mode === 'strict' ? row.failedInStrict : undefined);
          assert.equal(outcome.error?.code, failed);
          if (failed) {
            assert.deepEqual([outcome.decision.decision, outcome.decision.reason_code], ['deny', failed]);
          } else if (!executed && row.answer.decision === 'allow') {
            assert.deepEqual([outcome.decision.decision, outcome.decision.reason_code], ['deny', 'actpass.unrecorded']);
          } else {
            const { request_hash: hash } = outcome.decision;
            assert.deepEqual(outcome.decision, {
              reason_code: 'unspecified',
              explain: UNEXPLAINED,
              ...row.answer,
              ...(row.answer.request_hash && { request_hash: hash }),
            });
          }
          assert.equal(JSON.parse((await seen())[0].body).mode, mode);
        }));
    }
  }

  const failures = {
    'a refused connection': [{ listen: 'refused' }, 'actpass.unreachable', 'ActPassConnectionError'],
    'a reset': [{ steps: [{ do: 'reset', at: 'request' }] }, 'actpass.unreachable', 'ActPassConnectionError'],
    'no response': [{ steps: [{ do: 'hang', at: 'request' }] }, 'actpass.timeout', 'ActPassTimeoutError'],
    'a partial response': [{ steps: [{ do: 'hang', at: 'body' }] }, 'actpass.timeout', 'ActPassTimeoutError'],
    401: [{ steps: [answer({}, { status: 401 })] }, 'actpass.unauthenticated', 'ActPassAuthenticationError'],
    403: [{ steps: [answer({}, { status: 403 })] }, 'actpass.forbidden', 'ActPassPermissionError'],
    429: [{ steps: [answer({}, { status: 429 })] }, 'actpass.rate_limited', 'ActPassRateLimitError'],
    'an allow in a 500': [{ steps: [answer(ALLOW, { status: 500 })] }, 'actpass.gateway_error', 'ActPassStatusError'],
    'an allow in a 401': [
      { steps: [answer(ALLOW, { status: 401 })] },
      'actpass.unauthenticated',
      'ActPassAuthenticationError',
    ],
    'a redirect': [{ steps: [{ do: 'redirect' }] }, 'actpass.gateway_error', 'ActPassStatusError'],
    'an invalid body': [
      { steps: [{ do: 'respond', body: '<html>' }] },
      'actpass.invalid_response',
      'ActPassResponseError',
    ],
    'a duplicate key': [
      { steps: [{ do: 'respond', body: '{"decision":"deny","decision":"allow"}' }] },
      'actpass.invalid_response',
      'ActPassResponseError',
    ],
    'a body past 1 MiB': [
      { steps: [{ do: 'respond', body_repeat: { text: ' ', times: 1024 * 1024 + 1 } }] },
      'actpass.invalid_response',
      'ActPassResponseError',
    ],
  };
  for (const [name, [script, code, className]] of Object.entries(failures)) {
    for (const mode of MODES) {
      test(`${name} in ${mode}`, () =>
        hostile.play(script, async ({ baseUrl, otherSeen }) => {
          let runs = 0;
          const outcome = await newClient(baseUrl, code === 'actpass.timeout' ? { timeoutMs: 400 } : {}).guard({
            ...ACTION,
            mode,
            execute: () => {
              runs += 1;
              return 'ran';
            },
          });
          assert.equal(runs, mode === 'monitor' ? 1 : 0);
          assert.equal(outcome.executed, mode === 'monitor');
          assert.equal(outcome.result, mode === 'monitor' ? 'ran' : undefined);
          assert.deepEqual([outcome.decision.decision, outcome.decision.reason_code], ['deny', code]);
          assert.deepEqual(outcome.decision.explain.matched_rules, []);
          assert.ok(outcome.decision.explain.summary && outcome.decision.explain.next_steps.length > 0);
          assert.deepEqual([outcome.error.name, outcome.error.code], [className, code]);
          assert.ok(outcome.error instanceof ActPassError);
          assert.deepEqual(await otherSeen(), []);
          const shown = everythingShown(outcome).includes('_secret');
          assert.ok(!shown);
        }));
    }
  }
});

describe('execute', () => {
  const allowed =
    (body, script = [answer(ALLOW)]) =>
    () =>
      hostile.play(script, ({ baseUrl }) => body(newClient(baseUrl)));

  test(
    'returns the same value or error',
    allowed(async (actpass) => {
      const thenable = (value) => ({ then: (done) => done(value) });
      for (const value of [{ cyclic: null }, Symbol('s'), 7n, undefined, null, () => 1, new Map(), Number.NaN]) {
        for (const execute of [() => value, async () => value, () => thenable(value)]) {
          const outcome = await actpass.guard({ ...ACTION, execute });
          assert.ok(Object.is(outcome.result, value));
          assert.deepEqual(Object.keys(outcome), ['kind', 'decision', 'executed', 'result']);
        }
        const later = async () => {
          await null;
          throw value;
        };
        const now = () => {
          throw value;
        };
        for (const execute of [now, later, () => Promise.reject(value)]) {
          const outcome = await actpass.guard({ ...ACTION, execute });
          assert.equal(outcome.kind, 'failed');
          if (value === undefined) {
            assert.equal(outcome.error.message, 'execute threw undefined, so the cause is unknown');
          } else {
            assert.ok(Object.is(outcome.error, value));
          }
          assert.deepEqual(Object.keys(outcome), ['kind', 'decision', 'executed', 'error']);
          assert.equal(outcome.executed, true);
          assert.ok(canonicalOutcome(outcome).endsWith('"error":{"kind":"action","status":null},"executed":true}'));
        }
      }
    }),
  );

  test(
    'an SDK error that it throws is an action error, not a gate error',
    allowed(async (actpass) => {
      const own = new ActPassConnectionError('of another call', { code: 'actpass.unreachable', kind: 'connection' });
      const outcome = await actpass.guard({
        ...ACTION,
        execute: () => {
          throw own;
        },
      });
      assert.equal(outcome.error, own);
      assert.ok(canonicalOutcome(outcome).includes('"kind":"action"'));
    }),
  );

  test(
    'runs in the AsyncLocalStorage context of its caller',
    allowed(async (actpass) => {
      const storage = new AsyncLocalStorage();
      const one = (value) =>
        storage.run(value, async () => {
          const { result } = await actpass.guard({
            ...ACTION,
            execute: async () => {
              const before = storage.getStore();
              await new Promise(setImmediate);
              return [before, storage.getStore()];
            },
          });
          return [...result, storage.getStore()];
        });
      const seen = await Promise.all(Array.from({ length: 100 }, (_, at) => one(at)));
      assert.deepEqual(
        seen,
        Array.from({ length: 100 }, (_, at) => [at, at, at]),
      );
      assert.equal(storage.getStore(), undefined);
    }),
  );

  test(
    'receives the credential, which the outcome omits',
    allowed(
      async (actpass) => {
        let given;
        const outcome = await actpass.guard({
          ...ACTION,
          execute: (context) => {
            given = context;
          },
        });
        assert.ok(given.credential.token === CREDENTIAL);
        assert.equal(given.credential.expires_at, 'soon');
        assert.deepEqual(given.decision, ALLOW);
        assert.deepEqual(outcome.decision, ALLOW);
        const shown = everythingShown(outcome).includes(CREDENTIAL);
        assert.ok(!shown);
      },
      [answer({ ...ALLOW, credential: { token: CREDENTIAL, expires_at: 'soon' } })],
    ),
  );

  test(
    'receives null without a credential; its changes do not reach the outcome',
    allowed(async (actpass) => {
      const outcome = await actpass.guard({
        ...ACTION,
        execute: ({ credential, decision }) => {
          decision.decision = 'deny';
          return credential;
        },
      });
      assert.equal(outcome.result, null);
      assert.equal(outcome.decision.decision, 'allow');
    }),
  );

  test('rejects a non-function before sending', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      for (const execute of [undefined, null, 'refund', {}]) {
        const error = await rejection(newClient(baseUrl).guard({ ...ACTION, mode: 'monitor', execute }));
        assert.equal(error.name, 'ActPassArgumentError');
        assert.match(error.message, /^execute: expected a function, found /);
      }
      assert.deepEqual(await seen(), []);
    }));

  test('runs at most once despite retries', () =>
    hostile.play(
      [{ do: 'reset', at: 'request' }, answer({}, { status: 503 }), answer(ALLOW)],
      async ({ baseUrl, seen }) => {
        let runs = 0;
        await newClient(baseUrl, { maxRetries: 3 }).guard({
          ...ACTION,
          execute: () => {
            runs += 1;
          },
        });
        assert.equal(runs, 1);
        assert.equal((await seen()).length, 3);
      },
    ));
});

test('guards can be nested', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const outcome = await actpass.guard({
      ...ACTION,
      execute: async () => (await actpass.guard({ ...ACTION, execute: () => 'inner' })).result,
    });
    assert.equal(outcome.result, 'inner');
  }));

test('the real gateway decides the refunds of the first page', () =>
  withGateway(async ({ baseUrl, stop }) => {
    const actpass = newClient(baseUrl, { apiKey: 'apk_dev', agentId: 'support_agent' });
    const refund = async (amount, mode) => {
      const { executed, decision } = await actpass.guard({
        ...ACTION,
        args: { amount, currency: 'usd' },
        mode,
        execute: () => 're_1',
      });
      return [executed, decision.reason_code];
    };
    assert.deepEqual(await refund(4900), [true, 'refund.small_in_scope']);
    assert.deepEqual(await refund(25_000), [false, 'refund.medium_needs_approval']);
    assert.deepEqual(await refund(90_000), [false, 'refund.over_limit']);
    await stop();
    assert.deepEqual(await refund(4900), [false, 'actpass.unreachable']);
    assert.deepEqual(await refund(4900, 'monitor'), [true, 'actpass.unreachable']);
  }));

test('environment variables never change the mode', () =>
  hostile.play([answer({ decision: 'deny' })], async ({ baseUrl }) => {
    for (const name of ['ACTPASS_MODE', 'ACTPASS_ENFORCE', 'MODE']) {
      process.env[name] = 'monitor';
    }
    const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => assert.fail('it ran') });
    assert.equal(outcome.executed, false);
  }));

describe('a panic or hang in the SDK', { skip: !native.hasTestHooks && 'this build has no test hooks' }, () => {
  const actpass = newClient('http://127.0.0.1:9');
  const breaking = (how) => ({ ...ACTION, tool: `actpass.test.${how}` });

  for (const mode of MODES) {
    test(`a panic fails the gate in ${mode}`, async () => {
      const outcome = await actpass.guard({ ...breaking('panic'), mode, execute: () => 'ran' });
      assert.equal(outcome.executed, mode === 'monitor');
      assert.equal(outcome.decision.reason_code, 'actpass.internal');
      assert.ok(outcome.error instanceof ActPassInternalError);
    });
  }

  test('a panic rejects a call without a guard', async () => {
    assert.ok((await rejection(actpass.preflight(breaking('panic')))) instanceof ActPassInternalError);
  });

  test('a panic in a conversion rejects and runs nothing in every mode', async () => {
    for (const mode of MODES) {
      const action = { ...breaking('panic_in_conversion'), mode, execute: () => assert.fail('it ran') };
      assert.ok((await rejection(actpass.guard(action))) instanceof ActPassInternalError, mode);
    }
  });

  test('a hanging call can be aborted', async () => {
    const signal = AbortSignal.timeout(50);
    const execute = () => assert.fail('it ran');
    const error = await rejection(actpass.guard({ ...breaking('never_ends'), signal, mode: 'monitor', execute }));
    assert.equal(error, signal.reason);
  });
});
