/**
 * The clients of Node, measured on command.
 *
 * Usage: node.mjs SDK PEERS URL [CA], the folders of the built package `@actpass/sdk` and of the installed peers.
 *
 * A worker reads a command a line and answers each with a JSON object on a line:
 *
 * - `measure NAME WIDTH CALLS SECONDS`: so many calls, so many at once, for so long at most.
 * - `clients NAME COUNT`: makes so many more clients, which make one call each and stay.
 * - `border`: cost of a call into the addon, in nanoseconds.
 *
 * Each contender is loaded on its first use.
 */

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';

const [sdk, peersFolder, baseUrl, authority] = process.argv.slice(2);
if (baseUrl === undefined) {
  console.error('usage: node.mjs SDK PEERS URL [CA]');
  process.exit(2);
}
const WIDEST = 64;
const KEY = 'apk_bench';
const ACTION = {
  goal: 'resolve_refund_request',
  tool: 'stripe.refund.create',
  resource: 'stripe:charge:ch_123',
  args: { amount: 4900, currency: 'usd' },
};
const ca = authority === undefined ? undefined : readFileSync(authority, 'utf8');
const path = '/api/v1/actions/preflight';
const url = `${baseUrl}${path}`;
const headers = {
  authorization: `Bearer ${KEY}`,
  'content-type': 'application/json',
};
const own = createRequire(resolve(sdk, 'package.json'));
const peers = createRequire(resolve(peersFolder, 'package.json'));

async function main() {
  const callers = new Map();
  const kept = [];
  const commands = {
    async measure(name, width, calls, seconds) {
      if (!callers.has(name)) {
        callers.set(name, contenders[name]());
      }
      return measure(callers.get(name), Number(width), Number(calls), Number(seconds));
    },
    async clients(name, count) {
      for (let index = 0; index < Number(count); index += 1) {
        const call = contenders[name]();
        await call();
        kept.push(call);
      }
      return { clients: kept.length };
    },
    border,
  };
  say({
    contenders: Object.keys(contenders),
    node: process.versions.node,
    versions: versions(),
  });
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...words] = line.split(' ');
    try {
      say(await commands[command](...words));
    } catch (error) {
      say({ error: String(error) });
    }
  }
}

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

function versions() {
  const version = (name) => peers(`${name}/package.json`).version;
  const names = ['@restatedev/restate-sdk', '@temporalio/worker', 'axios', 'undici'];
  return Object.fromEntries(names.map((name) => [name, version(name)]));
}

/** Makes the calls, `width` at a time. */
async function measure(call, width, calls, seconds) {
  const times = [];
  let left = calls;
  const started = performance.now();
  const worker = async () => {
    while (left > 0 && performance.now() - started < seconds * 1e3) {
      left -= 1;
      const start = performance.now();
      await call();
      times.push((performance.now() - start) * 1e3);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  const took = (performance.now() - started) / 1e3;
  times.sort((a, b) => a - b);
  const at = (part) => times[Math.floor((times.length * part) / 100)] ?? null;
  return { calls: times.length, seconds: took, p50: at(50), p99: at(99) };
}

/** The body of a guard's request, as each client's user would build it. */
function body() {
  return JSON.stringify({
    agent_id: 'sdk',
    ...ACTION,
    user_id: null,
    passport: null,
    mode: 'enforce',
    idempotency_key: randomUUID(),
    audience: null,
  });
}

/** Applies a decision as a guard does. */
async function runIfAllowed(decision) {
  if (decision.decision !== 'allow') {
    throw new Error('blocked');
  }
  return { decision, result: await execute({ decision }) };
}

async function execute() {
  return { refunded: true };
}

function newClient() {
  const { ActPass } = own(resolve(sdk));
  return new ActPass({
    apiKey: KEY,
    baseUrl,
    ...(ca === undefined ? {} : { ca }),
  });
}

/** An agent that keeps its connections. */
function agent() {
  return ca === undefined ? new http.Agent({ keepAlive: true }) : new https.Agent({ keepAlive: true, ca });
}

const contenders = {
  guard() {
    const actpass = newClient();
    return async () => {
      const { executed } = await actpass.guard({ ...ACTION, execute });
      if (!executed) {
        throw new Error('blocked');
      }
    };
  },
  undici() {
    const { Pool } = peers('undici');
    const pool = new Pool(baseUrl, { connections: WIDEST, connect: { ca } });
    return async () => {
      const answer = await pool.request({
        path,
        method: 'POST',
        headers,
        body: body(),
      });
      return runIfAllowed(await answer.body.json());
    };
  },
  http() {
    const kept = agent();
    const { request: newRequest } = ca === undefined ? http : https;
    return async () => {
      const request = newRequest(url, { method: 'POST', agent: kept, headers });
      request.end(body());
      const [answer] = await once(request, 'response');
      let text = '';
      for await (const chunk of answer.setEncoding('utf8')) {
        text += chunk;
      }
      return runIfAllowed(JSON.parse(text));
    };
  },
  axios() {
    const axios = peers('axios');
    const kept = agent();
    const client = axios.create({ httpAgent: kept, httpsAgent: kept });
    return async () => runIfAllowed((await client.post(url, body(), { headers })).data);
  },
  // NODE_EXTRA_CA_CERTS sets its certificate authorities.
  fetch() {
    return async () => {
      const answer = await fetch(url, {
        method: 'POST',
        headers,
        body: body(),
      });
      return runIfAllowed(await answer.json());
    };
  },
  // An empty call by Temporal's client, whose core is in Rust too. The URL is the gRPC server's address.
  temporal() {
    const { NativeConnection } = peers('@temporalio/worker');
    const connecting = NativeConnection.connect({ address: baseUrl });
    return async () => (await connecting).workflowService.getSystemInfo({});
  },
  // An invocation of an empty handler by Restate, whose core is in Rust too. It uses no network.
  restate() {
    const { createEndpointHandler, service } = peers('@restatedev/restate-sdk/fetch');
    const services = [service({ name: 'bench', handlers: { empty: async (_, args) => args } })];
    const handle = createEndpointHandler({ services, logger() {} });
    const body = invocation(JSON.stringify(ACTION.args));
    const type = { 'content-type': 'application/vnd.restate.invocation.v5' };
    return async () => {
      const request = new Request('http://bench/invoke/bench/empty', { method: 'POST', headers: type, body });
      const text = await (await handle(request)).text();
      if (!text.includes('"amount"')) {
        throw new Error(text);
      }
    };
  },
};

/** The two messages with which Restate's server starts an invocation: start and input. */
function invocation(text) {
  const member = (number, value) => Buffer.concat([Buffer.from([(number << 3) | 2, value.length]), value]);
  const message = (kind, value) => {
    const head = Buffer.alloc(8);
    head.writeUInt16BE(kind, 0);
    head.writeUInt32BE(value.length, 4);
    return Buffer.concat([head, value]);
  };
  const id = [member(1, Buffer.alloc(16)), member(2, Buffer.from('inv_1')), Buffer.from([0x18, 1])];
  const input = member(14, member(1, Buffer.from(text)));
  return Buffer.concat([message(0x0000, Buffer.concat(id)), message(0x0400, input)]);
}

function border() {
  const { hashPayload } = own(resolve(sdk));
  const actpass = newClient();
  const item = { sku: 'article-1', count: 3, note: 'left at the door' };
  const of = (size) => ({
    amount: 4900,
    currency: 'usd',
    items: Array(Math.floor(size / 60)).fill(item),
  });
  const [small, large] = [of(1_000), of(100_000)];
  return {
    empty_call: nanoseconds(() => actpass.circuit),
    hash_payload_1_kb: nanoseconds(() => hashPayload(small)),
    hash_payload_100_kb: nanoseconds(() => hashPayload(large)),
  };
}

/** Time of a call: the median of several batches. */
function nanoseconds(call) {
  const batch = (calls) => {
    const start = performance.now();
    for (let index = 0; index < calls; index += 1) {
      call();
    }
    return ((performance.now() - start) * 1e6) / calls;
  };
  let calls = 1;
  while (batch(calls) * calls < 1e6) {
    calls *= 2;
  }
  const batches = Array.from({ length: 21 }, () => batch(calls));
  return batches.toSorted((a, b) => a - b)[10];
}

await main();
