/** Calls ended by an AbortSignal. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
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
  test(`${name} rejects with the reason within 50 ms of an abort`, () =>
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

  test(`${name} sends nothing if the signal is already aborted`, () =>
    hostile.play(HANG, async ({ baseUrl, seen }) => {
      const signal = AbortSignal.abort();
      assert.equal(await rejection(call(newClient(baseUrl), signal)), signal.reason);
      assert.deepEqual(await seen(), []);
    }));
}

test('an abort closes the connection of the request', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const actpass = newClient(`http://127.0.0.1:${server.address().port}`);
    const controller = new AbortController();
    const call = rejection(
      actpass.guard({ ...ACTION, signal: controller.signal, execute: () => assert.fail('it ran') }),
    );
    const [request] = await once(server, 'request');
    const closed = once(request.socket, 'close', { signal: AbortSignal.timeout(5000) });
    controller.abort();
    await Promise.all([call, closed]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test('an action may abort another call whose verdict arrived in the same turn', () =>
  hostile.play([answer(ALLOW), { ...answer(ALLOW), delay_ms: 200 }], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl);
    await actpass.guard({ ...ACTION, execute: () => 'connected' });
    const controllers = [new AbortController(), new AbortController()];
    const ran = [];
    const calls = controllers.map(({ signal }, at) =>
      actpass.guard({
        ...ACTION,
        signal,
        execute: () => {
          ran.push(at);
          controllers[1 - at].abort();
        },
      }),
    );
    const settled = Promise.allSettled(calls);
    while ((await seen()).length < 3);
    // Both responses arrive while this thread is busy.
    const until = performance.now() + 600;
    while (performance.now() < until);
    const [first, second] = (await settled).map(({ status }) => status).sort();
    assert.deepEqual([first, second], ['fulfilled', 'rejected']);
    assert.equal(ran.length, 1);
  }));

test('an abort between the verdict and the run runs nothing', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const actpass = newClient(baseUrl);
    // Aborts in each turn of the event loop: the action runs before the abort or never.
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

test('an abort while the action runs keeps its outcome', () =>
  hostile.play([answer(ALLOW), answer({ event_id: 'ev_2' })], async ({ baseUrl, seen }) => {
    const controller = new AbortController();
    const outcome = await newClient(baseUrl).guard({
      ...ACTION,
      recordOutcome: true,
      signal: controller.signal,
      execute: async () => {
        controller.abort();
        return 'refunded';
      },
    });
    assert.deepEqual([outcome.executed, outcome.result, outcome.evidence.event_id], [true, 'refunded', 'ev_2']);
    assert.equal(JSON.parse((await seen())[1].body).metadata.ended, 'returned');
  }));

test('a signal shared by many calls keeps no listeners', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const { getEventListeners } = await import('node:events');
    const controller = new AbortController();
    const actpass = newClient(baseUrl);
    for (let at = 0; at < 20; at += 1) {
      await actpass.guard({ ...ACTION, signal: controller.signal, execute: () => at });
    }
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
  }));

describe('rejects an invalid signal', () => {
  for (const signal of [null, {}, 'abort', new AbortController()]) {
    test(`${signal}`, async () => {
      const error = await rejection(newClient('http://127.0.0.1:9').preflight({ ...ACTION, signal }));
      assert.equal(error.name, 'ActPassArgumentError');
      assert.match(error.message, /^signal: expected an AbortSignal, found /);
    });
  }
});

test('an aborted call does not keep the process alive', () =>
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
