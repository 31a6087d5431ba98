/**
 * The Node clients of `run.py`; see `worker.py`.
 *
 * Usage: worker.mjs PACKAGE FIRST COUNT URL..., where PACKAGE is the folder of the built Node package.
 */

import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const [folder, first, count, ...urls] = process.argv.slice(2);
const { ActPass } = createRequire(import.meta.url)(resolve(folder));
const ACTION = { goal: 'load', tool: 'load.step', args: { amount: 1 } };
let ended = false;

function say(client, event, more = {}) {
  const ms = performance.timeOrigin + performance.now();
  writeSync(1, `${JSON.stringify({ client, event, ms, ...more })}\n`);
}

async function run(number) {
  const baseUrl = urls[number % urls.length];
  const actpass = new ActPass({ apiKey: 'apk_load', agentId: `load_${number}`, baseUrl, timeoutMs: 60_000 });
  const long = actpass.guard({
    ...ACTION,
    execute: async ({ halt }) => {
      say(number, 'running');
      while (!ended && !halt.aborted) {
        await sleep(1000, undefined, { signal: halt }).catch(() => say(number, 'told'));
      }
    },
  });
  while (!ended) {
    await sleep(200);
    const outcome = await actpass.guard({
      ...ACTION,
      execute: ({ decision }) => say(number, 'ran', { evidence: decision.evidence_event_id }),
    });
    if (!outcome.executed) {
      say(number, outcome.decision.reason_code);
    }
  }
  await long;
}

process.stdin.resume().on('end', () => (ended = true));
await Promise.all(Array.from({ length: Number(count) }, (_, at) => run(Number(first) + at)));
