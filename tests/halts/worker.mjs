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
const PAUSE_MS = 100;
let ended = false;

function say(client, event, more = {}) {
  const ms = performance.timeOrigin + performance.now();
  writeSync(1, `${JSON.stringify({ client, event, ms, ...more })}\n`);
}

async function run(number) {
  const baseUrl = urls[number % urls.length];
  const actpass = new ActPass({ apiKey: 'apk_load', agentId: `load_${number}`, baseUrl, timeoutMs: 60_000 });
  const runLong = async () => {
    while (!ended) {
      await sleep(PAUSE_MS);
      await actpass.guard({
        ...ACTION,
        execute: async ({ decision, halt }) => {
          say(number, 'running', { evidence: decision.evidence_event_id });
          while (!ended && !halt.aborted) {
            await sleep(1000, undefined, { signal: halt }).catch(() => say(number, 'told'));
          }
        },
      });
    }
  };
  const long = runLong();
  while (!ended) {
    await sleep(PAUSE_MS);
    const outcome = await actpass.guard({
      ...ACTION,
      execute: async ({ decision }) => {
        say(number, 'ran', { evidence: decision.evidence_event_id });
        await sleep(5);
      },
    });
    if (!outcome.executed) {
      say(number, outcome.decision.reason_code);
    }
  }
  await long;
}

process.stdin.resume().on('end', () => (ended = true));
await Promise.all(Array.from({ length: Number(count) }, (_, at) => run(Number(first) + at)));
