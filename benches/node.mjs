/**
 * What the Node client adds to a call, beside global `fetch`, `undici`, `axios` and `node:http` doing the same by hand, in
 * interleaved rounds: one call at a time, and 64 at once.
 *
 * Usage: node.mjs SDK BENCH, the folder of the built package `@actpass/sdk` and the path of the program `actpass-benches`,
 * whose fixed-answer server they all ask. The peers are installed into `target/peers/node`.
 */

import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';

const ROUNDS = Number(process.env.ROUNDS ?? 7);
const CALLS = Number(process.env.CALLS ?? 2_000);
const AT_ONCE = 64;
const PEERS = { axios: '1.21.1', undici: '7.30.2' };
const KEY = 'apk_bench';
const ACTION = {
  goal: 'resolve_refund_request',
  tool: 'stripe.refund.create',
  resource: 'stripe:charge:ch_123',
  args: { amount: 4900, currency: 'usd' },
};

async function main(sdk, bench) {
  const server = spawn(bench, ['serve'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const [baseUrl] = await once(createInterface({ input: server.stdout }), 'line');
  const contenders = await newContenders(sdk, baseUrl);
  const rounds = new Map(contenders.map(({ name }) => [name, { single: [], many: [] }]));
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const { name, call } of contenders) {
      const single = await measure(call, 1);
      const many = await measure(call, AT_ONCE);
      // The first round warms up.
      if (round > 0) {
        rounds.get(name).single.push(single);
        rounds.get(name).many.push(many);
      }
    }
  }
  report(rounds);
  server.stdin.end();
}

/** Makes the calls, `width` at a time. */
async function measure(call, width) {
  const times = [];
  let left = CALLS;
  const started = performance.now();
  const worker = async () => {
    while (left > 0) {
      left -= 1;
      const start = performance.now();
      await call();
      times.push((performance.now() - start) * 1e3);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  const rate = CALLS / ((performance.now() - started) / 1e3);
  times.sort((a, b) => a - b);
  return { p50: times[CALLS >> 1], p99: times[Math.floor(CALLS * 0.99)], rate };
}

async function newContenders(sdk, baseUrl) {
  const require = createRequire(resolve(sdk, 'package.json'));
  const { ActPass } = require(resolve(sdk));
  const peers = createRequire(installPeers());
  const { Pool } = peers('undici');
  const axios = peers('axios');

  const actpass = new ActPass({ apiKey: KEY, baseUrl });
  const url = `${baseUrl}/api/v1/actions/preflight`;
  const headers = {
    authorization: `Bearer ${KEY}`,
    'content-type': 'application/json',
  };
  const body = () =>
    JSON.stringify({
      agent_id: 'sdk',
      ...ACTION,
      user_id: null,
      passport: null,
      mode: 'enforce',
      idempotency_key: randomUUID(),
      audience: null,
    });
  const execute = async () => ({ refunded: true });
  const runIfAllowed = async (decision) => {
    if (decision.decision !== 'allow') {
      throw new Error('blocked');
    }
    return { decision, result: await execute({ decision }) };
  };

  const pool = new Pool(baseUrl, { connections: AT_ONCE });
  const agent = new Agent({ keepAlive: true });
  const byHttp = axios.create({ httpAgent: agent });
  return [
    {
      name: '@actpass/sdk, guard',
      call: async () => {
        const { executed } = await actpass.guard({ ...ACTION, execute });
        if (!executed) {
          throw new Error('blocked');
        }
      },
    },
    {
      name: 'undici.request, by hand',
      call: async () => {
        const answer = await pool.request({
          path: '/api/v1/actions/preflight',
          method: 'POST',
          headers,
          body: body(),
        });
        return runIfAllowed(await answer.body.json());
      },
    },
    {
      name: 'node:http kept alive, by hand',
      call: async () => {
        const request = httpRequest(url, { method: 'POST', agent, headers });
        request.end(body());
        const [answer] = await once(request, 'response');
        let text = '';
        for await (const chunk of answer.setEncoding('utf8')) {
          text += chunk;
        }
        return runIfAllowed(JSON.parse(text));
      },
    },
    {
      name: 'axios, by hand',
      call: async () => runIfAllowed((await byHttp.post(url, body(), { headers })).data),
    },
    {
      name: 'fetch, by hand',
      call: async () => {
        const answer = await fetch(url, {
          method: 'POST',
          headers,
          body: body(),
        });
        return runIfAllowed(await answer.json());
      },
    },
  ];
}

/** Installs the peers once; a path inside their folder. */
function installPeers() {
  const folder = resolve('target/peers/node');
  const manifest = resolve(folder, 'package.json');
  if (!existsSync(manifest)) {
    mkdirSync(folder, { recursive: true });
    const packages = Object.entries(PEERS).map(([name, version]) => `${name}@${version}`);
    const options = ['--silent', '--no-audit', '--no-fund', '--ignore-scripts', '--prefix', folder];
    execFileSync('npm', ['install', ...options, ...packages], {
      stdio: 'inherit',
    });
    writeFileSync(resolve(folder, '.installed'), '');
  }
  return manifest;
}

function report(rounds) {
  const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
  const figures = (list) => ({
    p50: median(list.map(({ p50 }) => p50)),
    p99: median(list.map(({ p99 }) => p99)),
    rate: median(list.map(({ rate }) => rate)),
  });
  console.log(`\nNode ${process.versions.node}, ${CALLS} calls a round, ${ROUNDS} rounds interleaved; microseconds`);
  for (const [kind, title] of [
    ['single', 'one at a time'],
    ['many', `${AT_ONCE} at once`],
  ]) {
    const base = figures(rounds.get('undici.request, by hand')[kind]);
    console.log(
      `${title.padEnd(34)} ${['p50', 'p99', 'calls/s'].map((head) => head.padStart(9)).join('')}  p50 x undici  p99 x undici`,
    );
    for (const [name, list] of rounds) {
      const { p50, p99, rate } = figures(list[kind]);
      console.log(
        `  ${name.padEnd(32)} ${[p50, p99, rate].map((value) => value.toFixed(0).padStart(9)).join('')}` +
          `${(p50 / base.p50).toFixed(2).padStart(14)}${(p99 / base.p99).toFixed(2).padStart(14)}`,
      );
    }
  }
}

const [sdk, bench] = process.argv.slice(2);
if (sdk === undefined || bench === undefined) {
  console.error('usage: node.mjs SDK BENCH');
  process.exit(2);
}
await main(sdk, bench);
