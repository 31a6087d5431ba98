/**
 * Measures the engine in wasm: its size next to `jose` and `zod`, the time to compile and to instantiate it, and guarded calls
 * by wasm, by the native module and preflights by `fetch` alone, in one run.
 *
 * usage: edge.mjs   needs `make node-release` and the tools of tests/environments/edge (`make test-edge` installs them)
 *
 * CALLS (2000) is the number of calls of a round, ROUNDS (5) that of the rounds; the table has the medians of the rounds.
 */

import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompressSync, gzipSync } from 'node:zlib';

const ROOT = resolve(import.meta.dirname, '..');
const DIST = join(ROOT, 'bindings-node', 'dist');
const TOOLS = join(ROOT, 'target', 'environments', 'edge');
const CALLS = Number(process.env.CALLS ?? 2000);
const ROUNDS = Number(process.env.ROUNDS ?? 5);
const require = createRequire(join(TOOLS, 'main.cjs'));
const ANSWER = JSON.stringify({ decision: 'allow', reason_code: 'bench', evidence_event_id: 'ev_1' });

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const kib = (length) => `${(length / 1024).toFixed(0)} KiB`;

/** A worker of one kind: prints the calls a second, the median and the processor time of a call in microseconds. */
async function work(kind, url, calls) {
  const action = {
    goal: 'resolve_refund_request',
    tool: 'stripe.refund.create',
    args: { amount: 4900, currency: 'usd' },
  };
  let call;
  if (kind === 'fetch') {
    const headers = { authorization: 'Bearer apk_bench', 'content-type': 'application/json' };
    call = async () => {
      const body = JSON.stringify({ agent_id: 'sdk', ...action, idempotency_key: crypto.randomUUID() });
      const response = await fetch(`${url}/api/v1/actions/preflight`, {
        method: 'POST',
        headers,
        body,
        redirect: 'manual',
      });
      const { decision } = await response.json();
      if (decision !== 'allow') {
        throw new Error(decision);
      }
    };
  } else {
    const { ActPass } = createRequire(import.meta.url)(join(DIST, 'index.js'));
    const actpass = new ActPass({ apiKey: 'apk_bench', baseUrl: url });
    if (actpass.engine !== kind) {
      throw new Error(actpass.engine);
    }
    call = async () => {
      const { executed } = await actpass.guard({ ...action, execute: () => null });
      if (!executed) {
        throw new Error('not executed');
      }
    };
  }
  const play = async (count, lanes) => {
    const times = [];
    const before = process.cpuUsage();
    const began = performance.now();
    const lane = async () => {
      for (let done = 0; done < count / lanes; done += 1) {
        const start = performance.now();
        await call();
        times.push(performance.now() - start);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    const rate = times.length / ((performance.now() - began) / 1000);
    const { user, system } = process.cpuUsage(before);
    return { rate, p50: median(times) * 1000, cpu: (user + system) / times.length };
  };
  await play(calls / 4, 1);
  console.log(JSON.stringify([await play(calls, 1), await play(calls, 16)]));
}

async function main() {
  const engine = readFileSync(join(DIST, 'actpass.wasm'));
  const { build } = require('esbuild');
  const folder = mkdtempSync(join(TOOLS, 'sizes-'));
  const rows = [['`actpass.wasm`', engine]];
  const bundled = { '`@actpass/sdk`, engine included': '@actpass/sdk', '`jose`': 'jose', '`zod`': 'zod' };
  for (const [name, specifier] of Object.entries(bundled)) {
    const entry = join(folder, 'main.mjs');
    writeFileSync(entry, `export * from '${specifier}';\n`);
    const options = {
      entryPoints: [entry],
      bundle: true,
      minify: true,
      write: false,
      format: 'esm',
      platform: 'browser',
    };
    rows.push([name, Buffer.from((await build(options)).outputFiles[0].contents)]);
  }
  rmSync(folder, { recursive: true });
  console.log('| | bytes | gzip | Brotli |\n|---|---|---|---|');
  for (const [name, bytes] of rows) {
    const sizes = [bytes, gzipSync(bytes, { level: 9 }), brotliCompressSync(bytes)].map(({ length }) => kib(length));
    console.log(`| ${name} | ${sizes.join(' | ')} |`);
  }

  const { wasmEngine } = createRequire(import.meta.url)(join(DIST, 'engine.js'));
  const times = { compile: [], instantiate: [] };
  for (let round = 0; round < 51; round += 1) {
    const began = performance.now();
    const module = new WebAssembly.Module(engine);
    const compiled = performance.now();
    wasmEngine(module, { environment: () => undefined, isBrowser: false });
    times.compile.push(compiled - began);
    times.instantiate.push(performance.now() - compiled);
  }
  const text = Object.entries(times).map(([name, values]) => `${name} ${median(values).toFixed(2)} ms`);
  console.log(`\nMedian of 51: ${text.join(', ')}\n`);

  const server = createServer((request, response) => {
    request.resume().on('end', () => response.setHeader('content-type', 'application/json').end(ANSWER));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}`;
  const kinds = (process.env.KINDS ?? 'native wasm fetch').split(' ');
  const results = Object.fromEntries(kinds.map((kind) => [kind, []]));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const kind of kinds) {
      const env = { ...process.env, ACTPASS_ENGINE: kind === 'fetch' ? '' : kind };
      const args = [import.meta.filename, 'work', kind, url, `${CALLS}`];
      results[kind].push(JSON.parse((await promisify(execFile)(process.execPath, args, { env })).stdout));
    }
  }
  server.close();
  const columns = [1, 16].map((lanes) => `calls/s, ${lanes} at a time | p50 | processor`);
  console.log(`| | ${columns.join(' | ')} |\n|---|---|---|---|---|---|---|`);
  for (const [kind, played] of Object.entries(results)) {
    const cells = [0, 1].flatMap((at) => [
      median(played.map((one) => one[at].rate)).toFixed(0),
      `${median(played.map((one) => one[at].p50)).toFixed(0)} µs`,
      `${median(played.map((one) => one[at].cpu)).toFixed(0)} µs`,
    ]);
    console.log(`| ${kind} | ${cells.join(' | ')} |`);
  }
}

const [command, kind, url, calls] = process.argv.slice(2);
await (command === 'work' ? work(kind, url, Number(calls)) : main());
