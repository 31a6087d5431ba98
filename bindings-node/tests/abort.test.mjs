/** What an AbortSignal ends, and when. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ACTION, ALLOW, answer, Hostile, newClient, PACKAGE, rejection, runModule } from './support.mjs';

const hostile = new Hostile();
const HANG = [{ do: 'hang', at: 'request' }];

const CALLS = {
  guard: (actpass, signal) =>
    actpass.guard({ ...ACTION, mode: 'monitor', signal, execute: () => assert.fail('it ran') }),
  preflight: (actpass, signal) => actpass.preflight({ ...ACTION, signal }),
  issuePassport: (actpass, signal) =>
    actpass.issuePassport({ audience: 'mcp://stripe', goal: 'refund', allowedTools: ['a'], signal }),
  verifyPassport: (actpass, signal) => actpass.verifyPassport({ token: 't', audience: 'mcp://stripe', signal }),
  revokePassport: (actpass, signal) => actpass.revokePassport('ap_1', 'over', { signal }),
  recordEvidence: (actpass, signal) => actpass.recordEvidence({ eventType: 'e', chainId: 'c', signal }),
};

for (const [name, call] of Object.entries(CALLS)) {
  test(`${name} is rejected with the reason within 50 ms`, () =>
    hostile.play(HANG, async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const controller = new AbortController();
      const reason = { why: 'the user left' };
      const pending = rejection(call(actpass, controller.signal));
      while ((await seen()).length === 0);
      const started = performance.now();
      controller.abort(reason);
      assert.equal(await pending, reason);
      const elapsed = performance.now() - started;
      assert.ok(elapsed < 50, `${elapsed} ms`);
    }));

  test(`${name} sends nothing under a signal that is aborted already`, () =>
    hostile.play(HANG, async ({ baseUrl, seen }) => {
      const signal = AbortSignal.abort();
      assert.equal(await rejection(call(newClient(baseUrl), signal)), signal.reason);
      assert.deepEqual(await seen(), []);
    }));
}

test('the request is dropped: the gateway sees the connection close', () =>
  hostile.play([{ ...answer(ALLOW), delay_ms: 300 }, answer(ALLOW)], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl);
    const error = await rejection(
      actpass.guard({ ...ACTION, signal: AbortSignal.timeout(60), execute: () => assert.fail() }),
    );
    assert.equal(error.name, 'TimeoutError');
    const { executed } = await actpass.guard({ ...ACTION, execute: () => 1 });
    assert.equal(executed, true);
    const [first, second] = await seen();
    assert.notEqual(first.connection, second.connection);
  }));

test('an abort between the verdict and the run runs nothing', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    // Whichever of the many turns of the loop the answer falls into, either it ran before or it never runs.
    for (let turns = 0; turns < 300; turns += 1) {
      const controller = new AbortController();
      let aborted = false;
      let ranAfter = false;
      const call = actpass.guard({
        ...ACTION,
        signal: controller.signal,
        execute: () => {
          ranAfter = aborted;
        },
      });
      call.catch(() => {});
      for (let turn = 0; turn < turns; turn += 1) {
        await null;
        if (turn % 8 === 0) {
          await new Promise(setImmediate);
        }
      }
      aborted = true;
      controller.abort();
      await call.catch((error) => assert.equal(error, controller.signal.reason));
      assert.equal(ranAfter, false);
    }
  }));

test('an abort while the action runs does not hide what it did', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const controller = new AbortController();
    const outcome = await newClient(baseUrl).guard({
      ...ACTION,
      signal: controller.signal,
      execute: async () => {
        controller.abort();
        return 'refunded';
      },
    });
    assert.deepEqual([outcome.executed, outcome.result], [true, 'refunded']);
  }));

test('a signal that serves many calls is left without listeners', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const { getEventListeners } = await import('node:events');
    const controller = new AbortController();
    const actpass = newClient(baseUrl);
    for (let at = 0; at < 20; at += 1) {
      await actpass.guard({ ...ACTION, signal: controller.signal, execute: () => at });
    }
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
  }));

describe('what is no signal', () => {
  for (const signal of [null, {}, 'abort', new AbortController()]) {
    test(`${signal}`, async () => {
      const error = await rejection(newClient('http://127.0.0.1:9').preflight({ ...ACTION, signal }));
      assert.equal(error.name, 'ActPassArgumentError');
      assert.match(error.message, /^signal: expected an AbortSignal, found /);
    });
  }
});

test('after an abort the process ends by itself', () =>
  hostile.play(HANG, async ({ baseUrl }) => {
    const { code, stdout, stderr } = await runModule(
      `import { ActPass } from '@actpass/sdk';
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: '${baseUrl}' });
      const controller = new AbortController();
      const call = actpass.guard({
        goal: 'g', tool: 't', args: {}, mode: 'monitor', signal: controller.signal, execute: () => console.log('ran'),
      });
      setTimeout(() => controller.abort('left'), 100);
      let at;
      controller.signal.addEventListener('abort', () => { at = performance.now(); });
      await call.catch((reason) => console.log(reason, performance.now() - at < 50));
      at = performance.now();
      process.on('exit', () => console.log(performance.now() - at < 50));`,
      { cwd: PACKAGE, timeout: 5000 },
    );
    assert.deepEqual([code, stdout, stderr], [0, 'left true\ntrue\n', '']);
  }));
