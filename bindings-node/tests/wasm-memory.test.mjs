/** The memory of the engine in wasm: guards that end in every way keep nothing. ACTPASS_FLAT_GUARDS is their number. */

import './wasm-engine.mjs';
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { queryObjects, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { ActPass } from '@actpass/sdk';
import { ACTION, ALLOW, newClient } from './support.mjs';
import { instances } from './wasm-engine.mjs';

const GUARDS = Number(process.env.ACTPASS_FLAT_GUARDS ?? 20_000);
/** The guards between two collections of garbage; one in ten ends in each of the ways below. */
const BATCH = 1000;
/** The guards before the first measurement. */
const WARM_UP = 10_000;
const UNREACHABLE = 'https://unreachable.invalid';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');

/** Answers by the tool of the action, as `fetch` does. */
async function stub(url, { body, signal }) {
  // The watch for stops, which has no body, gets no answer either.
  if (url.startsWith(UNREACHABLE) || body === null) {
    throw new TypeError('fetch failed', { cause: Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }) });
  }
  const { tool } = JSON.parse(new TextDecoder().decode(body));
  if (tool === 'hang') {
    await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  }
  const decision =
    tool === 'deny' ? { decision: 'deny', reason_code: 'refund.over_limit' } : { ...ALLOW, halt_epoch: 1 };
  return new Response(JSON.stringify(decision), { headers: { 'content-type': 'application/json' } });
}

/** Each way makes one guard end, and checks how. */
function ways() {
  const settings = { circuitFailures: 0 };
  const actpass = newClient('http://127.0.0.1:9', settings);
  const unreachable = newClient(UNREACHABLE, settings);
  const guard = (tool, execute, options) => actpass.guard({ ...ACTION, tool, execute, ...options });
  const reason = async (call) => (await call).decision.reason_code;
  const failure = new Error('the card is closed');
  return {
    allow: async () => assert.equal((await guard('allow', () => 're_1')).result, 're_1'),
    deny: async () => assert.equal(await reason(guard('deny', assert.fail)), 'refund.over_limit'),
    throw: async () => assert.equal((await guard('allow', () => Promise.reject(failure))).error, failure),
    halt: async () =>
      assert.equal((await guard('allow', async ({ halt }) => (await null, halt.aborted))).result, false),
    abort: async () => {
      const controller = new AbortController();
      const call = guard('hang', assert.fail, { signal: controller.signal });
      setImmediate(() => controller.abort(failure));
      await assert.rejects(call, failure);
    },
    timeout: async () => assert.equal(await reason(guard('hang', assert.fail, { timeoutMs: 5 })), 'actpass.timeout'),
    unreachable: async () =>
      assert.equal(await reason(unreachable.guard({ ...ACTION, execute: assert.fail })), 'actpass.unreachable'),
    record: async () => assert.equal((await guard('allow', () => 're_1', { recordOutcome: true })).result, 're_1'),
    'a permit that is never spent': async () => {
      assert.equal((await actpass.authorize({ ...ACTION, tool: 'allow' })).kind, 'permitted');
    },
    'a guard whose function never ends': () =>
      new Promise((resolve) => {
        void guard('allow', ({ halt }) => (resolve(halt.aborted), new Promise(() => {})));
      }),
  };
}

test('guards keep neither memory nor objects', async (t) => {
  const { fetch } = globalThis;
  globalThis.fetch = stub;
  const all = Object.entries(ways());
  const play = async () => {
    for (const [name, way] of all) {
      await Promise.all(Array.from({ length: BATCH / all.length }, way)).catch((error) => {
        throw new Error(name, { cause: error });
      });
    }
    newClient('http://127.0.0.1:9').close();
    newClient('http://127.0.0.1:9');
    // The callbacks of finalization run after a turn of the loop.
    gc();
    await sleep(1);
  };
  const measure = async () => {
    for (let round = 0; round < 5; round += 1) {
      gc();
      await sleep(1);
    }
    const objects = [ActPass, AbortController, AbortSignal, Promise, Map].map((constructor) => [
      constructor.name,
      queryObjects(constructor, { format: 'count' }),
    ]);
    return {
      pages: instances.at(-1).exports.memory.buffer.byteLength / 65_536,
      'KiB of heap': Math.round(process.memoryUsage().heapUsed / 1024),
      timers: process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length,
      ...Object.fromEntries(objects),
    };
  };
  for (let done = 0; done < WARM_UP; done += BATCH) {
    await play();
  }
  const before = await measure();
  const began = performance.now();
  for (let done = 0; done < GUARDS; done += BATCH) {
    await play();
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  const after = await measure();
  globalThis.fetch = fetch;
  const shown = Object.keys(before).map((name) => `${name} ${before[name]} to ${after[name]}`);
  t.diagnostic(`${GUARDS} guards in ${seconds} s: ${shown.join(', ')}`);
  assert.equal(instances.length, 1);
  // The largest batch decides about the pages, and the compiler of JavaScript about a part of the heap.
  const tolerated = { pages: 16, 'KiB of heap': 1024 };
  const grown = Object.keys(before).filter((name) => after[name] - before[name] > (tolerated[name] ?? 8));
  assert.deepEqual(grown, [], shown.join(', '));
});
