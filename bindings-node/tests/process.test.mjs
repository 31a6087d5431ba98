/** Exit, threads and memory of the process. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { ACTION, ALLOW, answer, capturing, Hostile, newClient, runModule, stop } from './support.mjs';

const hostile = new Hostile();
const HANG = [{ do: 'hang', at: 'request' }];
const PROGRAM = (baseUrl) => `
  import { ActPass } from '@actpass/sdk';
  const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: '${baseUrl}', maxRetries: 0 });
  const action = { goal: 'g', tool: 't', args: {} };`;

describe('a program', () => {
  test('exits after it created a client', async () => {
    const { code } = await runModule(PROGRAM('http://127.0.0.1:9'), { timeout: 5000 });
    assert.equal(code, 0);
  });

  test('exits as soon as its calls are answered', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const { code, stdout } = await runModule(
        `${PROGRAM(baseUrl)}
        await Promise.all([1, 2, 3].map(() => actpass.guard({ ...action, execute: () => 1 })));
        const at = performance.now();
        process.on('exit', () => console.log(performance.now() - at < 100));`,
        { timeout: 5000 },
      );
      assert.deepEqual([code, stdout], [0, 'true\n']);
    }));

  test('stays alive for a call in flight', () =>
    hostile.play([{ ...answer(ALLOW), delay_ms: 300 }], async ({ baseUrl }) => {
      const { code, stdout } = await runModule(
        `${PROGRAM(baseUrl)}
        actpass.guard({ ...action, execute: () => console.log('ran') });`,
        { timeout: 5000 },
      );
      assert.deepEqual([code, stdout], [0, 'ran\n']);
    }));

  test('may exit during calls', () =>
    hostile.play(HANG, async ({ baseUrl }) => {
      for (const after of ['0', 'setImmediate', '20']) {
        const leave = after === 'setImmediate' ? 'setImmediate(leave)' : `setTimeout(leave, ${after})`;
        const { code, stdout, stderr } = await runModule(
          `${PROGRAM(baseUrl)}
          for (let at = 0; at < 20; at += 1) actpass.guard({ ...action, mode: 'monitor', execute: () => console.log('ran') });
          const leave = () => process.exit(7);
          ${leave};`,
          { timeout: 5000 },
        );
        assert.deepEqual([code, stdout, stderr], [7, '', '']);
      }
    }));

  test('may exit while responses arrive', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      for (const wait of [1, 3, 6, 12]) {
        const { code, stderr } = await runModule(
          `${PROGRAM(baseUrl)}
          const forever = async () => { for (;;) await actpass.guard({ ...action, execute: () => 1 }); };
          for (let at = 0; at < 16; at += 1) forever();
          setTimeout(() => process.exit(7), ${wait});`,
          { timeout: 5000 },
        );
        assert.deepEqual([code, stderr], [7, '']);
      }
    }));

  test('exits on a signal during a call', () =>
    hostile.play(HANG, async ({ baseUrl }) => {
      const code = `${PROGRAM(baseUrl)} console.log('calling'); await actpass.guard({ ...action, execute: () => 1 });`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
        cwd: new URL('..', import.meta.url),
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(createInterface({ input: child.stdout }), 'line');
      const started = performance.now();
      await stop(child);
      assert.equal(child.signalCode, 'SIGTERM');
      assert.ok(performance.now() - started < 500);
    }));

  test('does not crash if the gateway is unreachable', async () => {
    const { code, stdout } = await runModule(
      `${PROGRAM('http://127.0.0.1:9')}
      const { executed, error } = await actpass.guard({ ...action, execute: () => console.log('ran') });
      console.log(executed, error.code);`,
    );
    assert.deepEqual([code, stdout], [0, 'false actpass.unreachable\n']);
  });
});

describe('worker_threads', () => {
  const worker = (baseUrl, body) =>
    new Worker(
      `(async () => {
        const { ActPass } = require('@actpass/sdk');
        const { parentPort, workerData } = require('node:worker_threads');
        const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: '${baseUrl}', maxRetries: 0 });
        const action = { goal: 'g', tool: 't', args: {} };
        ${body}
      })();`,
      { eval: true },
    );

  test('call concurrently and exit when done', () =>
    capturing(
      () => ALLOW,
      async (baseUrl, captured) => {
        const ours = newClient(baseUrl);
        const threads = Array.from({ length: 4 }, () =>
          worker(
            baseUrl,
            `let runs = 0;
            for (let round = 0; round < 10; round += 1) {
              await Promise.all(Array.from({ length: 10 }, () => actpass.guard({ ...action, execute: () => { runs += 1; } })));
            }
            parentPort.postMessage(runs);`,
          ),
        );
        const ended = threads.map((thread) => once(thread, 'exit'));
        const counted = Promise.all(threads.map(async (thread) => (await once(thread, 'message'))[0]));
        let runs = 0;
        for (let round = 0; round < 100; round += 1) {
          await ours.guard({
            ...ACTION,
            execute: () => {
              runs += 1;
            },
          });
        }
        assert.deepEqual(await counted, [100, 100, 100, 100]);
        assert.deepEqual((await Promise.all(ended)).flat(), [0, 0, 0, 0]);
        assert.equal(runs, 100);
        assert.equal(captured.length, 500);
      },
    ));

  test('terminating a worker during a call does not affect other threads', () =>
    hostile.play([{ ...answer(ALLOW), delay_ms: 5 }], async ({ baseUrl }) => {
      const ours = newClient(baseUrl);
      for (let round = 0; round < 10; round += 1) {
        const thread = worker(
          baseUrl,
          `const forever = async () => { for (;;) await actpass.guard({ ...action, execute: () => 1 }); };
          for (let at = 0; at < 8; at += 1) forever();
          parentPort.postMessage('busy');`,
        );
        await once(thread, 'message');
        await new Promise((resolve) => setTimeout(resolve, round * 3));
        await thread.terminate();
        assert.equal((await ours.guard({ ...ACTION, execute: () => 1 })).executed, true);
      }
    }));

  test('the module can be loaded in workers only', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const { code, stdout, stderr } = await runModule(
        `import { Worker } from 'node:worker_threads';
        import { once } from 'node:events';
        for (let round = 0; round < 5; round += 1) {
          const thread = new Worker(\`
            const { ActPass } = require('@actpass/sdk');
            const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: '${baseUrl}' });
            actpass.guard({ goal: 'g', tool: 't', args: {}, execute: () => 1 });\`, { eval: true, execArgv: [] });
          const [code] = await once(thread, 'exit');
          console.log(code);
        }`,
        { timeout: 10_000 },
      );
      assert.deepEqual([code, stdout, stderr], [0, '0\n'.repeat(5), '']);
    }));
});

/** Guards `count` actions, `width` at a time; returns the number of runs of each. */
async function guardMany(actpass, count, width) {
  const runs = new Uint8Array(count);
  let next = 0;
  const work = async () => {
    while (next < count) {
      const at = next;
      next += 1;
      const { executed, result } = await actpass.guard({
        ...ACTION,
        execute: () => {
          runs[at] += 1;
          return at;
        },
      });
      assert.ok(executed && result === at);
    }
  };
  await Promise.all(Array.from({ length: width }, work));
  return runs;
}

test('10,000 guarded calls, 64 at a time, each run exactly once', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    const runs = await guardMany(newClient(baseUrl), 10_000, 64);
    assert.deepEqual(runs, new Uint8Array(10_000).fill(1));
  }));

test('memory stays constant over 100,000 calls', () =>
  hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
    // In a separate program, so that its memory contains no other data.
    const { code, stdout, stderr } = await runModule(
      `${PROGRAM(baseUrl)}
      const round = async (calls) => {
        let left = calls;
        const work = async () => { while (left > 0) { left -= 1; await actpass.guard({ ...action, execute: () => 1 }); } };
        await Promise.all(Array.from({ length: 16 }, work));
        for (let at = 0; at < 3; at += 1) { gc(); await new Promise(setImmediate); }
        return process.memoryUsage();
      };
      await round(20_000);
      const before = await round(20_000);
      const after = await round(80_000);
      const grown = (name) => (after[name] - before[name]) / 2 ** 20;
      // The heap size is excluded: the space for young objects grows in steps.
      const outside = grown('rss') - grown('heapTotal');
      console.log(JSON.stringify({ outside, heap: grown('heapUsed'), external: grown('external') }));`,
      { timeout: 180_000, flags: ['--expose-gc'] },
    );
    assert.deepEqual([code, stderr], [0, '']);
    const { outside, heap, external } = JSON.parse(stdout);
    console.log(`MiB grown over 80,000 calls: ${heap.toFixed(1)} in the heap, ${outside.toFixed(1)} outside it`);
    // A leak of 100 bytes per call would be 8 MiB.
    assert.ok(outside < 8 && heap < 1 && external < 1, stdout);
  }));
