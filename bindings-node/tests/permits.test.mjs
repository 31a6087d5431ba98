/** `authorize` and permits. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ActionBlockedError, ActPassArgumentError, canonicalOutcome } from '@actpass/sdk';
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
  runModule,
  thrown,
} from './support.mjs';

const hostile = new Hostile();
const RECORDED = answer({ event_id: 'ev_2', current_event_hash: '00' });
const WITH_CREDENTIAL = { ...ALLOW, credential: { token: CREDENTIAL, expires_at: null } };

/** The events sent to the ledger. */
async function recordedBy(gateway) {
  return (await gateway.seen()).filter(({ path }) => path.endsWith('/events')).map(({ body }) => JSON.parse(body));
}

test('a permit is spent once and returns the outcome', () =>
  hostile.play([answer(WITH_CREDENTIAL)], async ({ baseUrl, seen }) => {
    const permit = await newClient(baseUrl).authorize(ACTION);
    assert.deepEqual([permit.kind, permit.decision], ['permitted', ALLOW]);
    const context = permit.spend();
    assert.deepEqual(context, { credential: { token: CREDENTIAL, expires_at: null }, decision: ALLOW });
    const again = thrown(() => permit.spend());
    assert.ok(again instanceof ActPassArgumentError);
    assert.equal(again.message, 'permit: already spent');
    assert.equal(again.operation, 'authorize');

    context.decision.decision = 'changed by the program';
    const result = { id: 're_1' };
    const outcome = await permit.returned(result);
    assert.deepEqual({ ...outcome }, { kind: 'returned', decision: ALLOW, executed: true, result });
    assert.equal(outcome.unwrap(), result);
    assert.equal(outcome.evidence, undefined);
    for (const settle of [
      () => permit.returned(1),
      () => permit.failed(1),
      () => permit.cancelled(),
      () => permit.suspended(),
    ]) {
      const error = await rejection(settle());
      assert.ok(error instanceof ActPassArgumentError);
      assert.equal(error.message, 'permit: already finished');
    }
    assert.ok(thrown(() => permit.spend()) instanceof ActPassArgumentError);
    assert.equal((await seen()).length, 1);
  }));

test('rejects a report before the permit is spent', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const permit = await newClient(baseUrl).authorize(ACTION);
    const error = await rejection(permit.returned(1));
    assert.ok(error instanceof ActPassArgumentError);
    assert.match(error.message, /^permit: not running/);
    assert.ok(permit.spend().decision);
    assert.equal((await permit.returned(1)).result, 1);
  }));

test('a blocked action returns the outcome of a guard', () =>
  hostile.play([answer({ decision: 'deny', reason_code: 'refund.over_limit' })], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const blocked = await actpass.authorize(ACTION);
    assert.equal(blocked.kind, 'blocked');
    assert.equal(
      canonicalOutcome(blocked),
      canonicalOutcome(await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') })),
    );
    assert.ok(thrown(blocked.unwrap) instanceof ActionBlockedError);
    assert.equal((await actpass.authorize({ ...ACTION, mode: 'monitor' })).kind, 'permitted');
  }));

test('a failed gate blocks except in monitor', () =>
  hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    assert.equal((await actpass.authorize(ACTION)).error.code, 'actpass.unreachable');
    const permit = await actpass.authorize({ ...ACTION, mode: 'monitor' });
    assert.equal(permit.decision.reason_code, 'actpass.unreachable');
    assert.deepEqual(permit.spend().credential, null);
    assert.equal((await permit.returned(1)).error.code, 'actpass.unreachable');
  }));

describe('a recorded outcome', () => {
  const own = new Error('own');
  for (const [ended, end] of Object.entries({
    returned: (permit) => permit.returned({ id: 're_1' }),
    failed: (permit) => permit.failed(own),
    cancelled: (permit) => permit.cancelled(own),
    suspended: (permit) => permit.suspended(own),
  })) {
    test(ended, () =>
      hostile.play([answer(ALLOW), RECORDED], async (gateway) => {
        const permit = await newClient(gateway.baseUrl, {}).authorize({ ...ACTION, recordOutcome: true });
        permit.spend();
        const outcome = await end(permit);
        assert.equal(outcome.executed, true);
        assert.equal(outcome.error, ended === 'returned' ? undefined : own);
        assert.equal(outcome.evidence.event_id, 'ev_2');
        const [event] = await recordedBy(gateway);
        assert.deepEqual(event.metadata, { ended, evidence_event_id: 'ev_1' });
        assert.equal(typeof event.response_hash === 'string', ended === 'returned');
      }),
    );
  }

  test('a cancellation is returned even if recording takes longer than a second', () =>
    hostile.play([answer(ALLOW), { do: 'hang', at: 'request' }], async ({ baseUrl }) => {
      const permit = await newClient(baseUrl).authorize({ ...ACTION, recordOutcome: true });
      permit.spend();
      const began = performance.now();
      const outcome = await permit.cancelled();
      assert.ok(performance.now() - began < 5000);
      assert.equal(outcome.error.name, 'AbortError');
      assert.equal(outcome.evidenceError.code, 'actpass.timeout');
    }));

  test('an undefined error is replaced with a named error', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const permit = await newClient(baseUrl).authorize(ACTION);
      permit.spend();
      const { error } = await permit.failed(undefined);
      assert.equal(error.message, 'the action threw undefined, so the cause is unknown');
    }));

  test('rejects a result that has not run', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const permit = await newClient(baseUrl).authorize(ACTION);
      permit.spend();
      const error = await rejection(permit.returned((function* () {})()));
      assert.ok(error instanceof ActPassArgumentError);
      assert.match(error.message, /^result: expected a result, found a generator/);
      assert.equal((await permit.returned(1)).result, 1);
    }));
});

describe('spend compares the arguments', () => {
  const changes = [
    { args: { ...ACTION.args, amount: 490_000 } },
    { args: {} },
    { args: { ...ACTION.args, more: null } },
  ];
  for (const mode of MODES) {
    test(`changed arguments ${mode === 'monitor' ? 'run without the credential in monitor' : `block in ${mode}`}`, () =>
      hostile.play([answer(WITH_CREDENTIAL)], async ({ baseUrl }) => {
        const actpass = newClient(baseUrl);
        for (const now of changes) {
          const permit = await actpass.authorize({ ...ACTION, userId: 'user_7', mode });
          if (mode === 'monitor') {
            assert.equal(permit.spend(now).credential, null);
            const { decision } = await permit.returned(1);
            assert.deepEqual([decision.decision, decision.reason_code], ['deny', 'actpass.arguments_changed']);
          } else if (permit.kind === 'permitted') {
            const error = thrown(() => permit.spend(now));
            assert.ok(error instanceof ActionBlockedError);
            assert.deepEqual([error.code, error.tool], ['actpass.arguments_changed', ACTION.tool]);
            assert.ok(thrown(() => permit.spend()) instanceof ActPassArgumentError, 'the permit is spent');
          } else {
            assert.equal(mode, 'strict');
          }
        }
      }));
  }

  test('equal arguments run', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const permit = await newClient(baseUrl).authorize(ACTION);
      assert.ok(permit.spend({ args: { ...ACTION.args } }).decision);
    }));

  test('invalid arguments are rejected by name and do not spend the permit', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const permit = await newClient(baseUrl).authorize(ACTION);
      assert.match(thrown(() => permit.spend({ amount: 1 })).message, /^amount: expected one of args$/);
      assert.match(thrown(() => permit.spend({ args: { at: 1n } })).message, /^args\.at: /);
      assert.ok(permit.spend().decision);
    }));
});

test('a permit expires with its credential', () => {
  const credential = { token: CREDENTIAL, expires_at: new Date(Date.now() - 1000).toISOString() };
  return hostile.play([answer({ ...ALLOW, credential })], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const permit = await actpass.authorize(ACTION);
    const error = thrown(() => permit.spend());
    assert.ok(error instanceof ActionBlockedError);
    assert.deepEqual([error.code, error.retryable], ['actpass.permit_expired', false]);
    assert.ok(error.message.endsWith('Retry the same call.'), error.message);
    const { executed, decision } = await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
    assert.deepEqual([executed, decision.reason_code], [false, 'actpass.permit_expired']);
    const observed = await actpass.authorize({ ...ACTION, mode: 'monitor' });
    assert.equal(observed.spend().credential, null);
  });
});

test('an abort ends a pending authorize but not a permit', () =>
  hostile.play([answer(ALLOW, { delay_ms: 5000 }), answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    const signal = AbortSignal.timeout(20);
    assert.equal(await rejection(actpass.authorize({ ...ACTION, signal })), signal.reason);
    const controller = new AbortController();
    const permit = await actpass.authorize({ ...ACTION, signal: controller.signal });
    controller.abort();
    assert.ok(permit.spend().decision);
    assert.equal((await permit.returned('done')).result, 'done');
  }));

test('methods of a permit can be destructured; a printed permit shows no credential', () =>
  hostile.play([answer(WITH_CREDENTIAL)], async ({ baseUrl }) => {
    const permit = await newClient(baseUrl).authorize(ACTION);
    assert.deepEqual(Object.keys(permit), ['kind', 'decision']);
    assert.ok(!everythingShown(permit).includes(CREDENTIAL));
    const { spend, returned } = permit;
    assert.equal(spend().credential.token, CREDENTIAL);
    assert.equal((await returned(7)).result, 7);
  }));

test('unreferenced permits are released and keep no process alive', async () => {
  const { code, stdout, stderr } = await runModule(
    `import { ActPass } from '@actpass/sdk';
    import { createServer } from 'node:http';
    import { createRequire } from 'node:module';
    const { native } = createRequire(process.cwd() + '/')('./dist/native.js');
    const cancel = native.Bridge.prototype.cancel;
    let cancelled = 0;
    native.Bridge.prototype.cancel = function (call) {
      cancelled += 1;
      return cancel.call(this, call);
    };
    const server = createServer((request, response) => {
      request.resume();
      response.end(JSON.stringify({ decision: 'allow' }));
    });
    server.listen(0, '127.0.0.1', async () => {
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:' + server.address().port });
      const kept = await actpass.authorize({ goal: 'g', tool: 't', args: {} });
      for (let at = 0; at < 50; at += 1) await actpass.authorize({ goal: 'g', tool: 't', args: {} });
      // The engine may keep the last permits on its stack.
      while (cancelled < 40) { gc(); await new Promise((resolve) => setTimeout(resolve, 1)); }
      console.log(kept.spend().decision.decision);
      server.close();
      server.closeAllConnections();
    });`,
    { flags: ['--expose-gc'] },
  );
  assert.deepEqual([code, stdout], [0, 'allow\n'], stderr);
});
