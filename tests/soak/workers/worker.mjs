/**
 * The worker in Node.
 *
 * Usage: worker.mjs SDK ORDERS, the folder of the built package `@actpass/sdk` and the path of its orders. The protocol is described
 * in `tests/soak/src/worker.rs`.
 */

import { openSync, readFileSync, writeSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const KEY = 'apk_dev';
const AGENT = 'soak';
const AMOUNTS = [4900, 4900, 25_000, 90_000];
const MODES = ['enforce', 'enforce', 'strict', 'enforce', 'monitor', 'strict', 'enforce', 'enforce'];

class ActionError extends Error {}

class Worker {
  #sdk;
  #orders;
  #journal;
  #clients;
  #last = 0;
  #loaded = false;
  #tasks = [];

  constructor(sdk, orders) {
    this.#sdk = sdk;
    this.#orders = orders;
    this.#journal = openSync(orders.journal, 'a');
    this.#clients = orders.gateways.map((gateway) => ({ gateway, client: this.#newClient(gateway) }));
  }

  /** Starts the load. */
  go() {
    this.#loaded = true;
    this.#tasks = this.#clients.flatMap((one) =>
      Array.from({ length: this.#orders.tasks }, async () => {
        while (this.#loaded) {
          await sleep(Math.random() * 2 * this.#orders.pause_ms);
          await this.#call(one);
        }
      }),
    );
  }

  /** Ends the load. */
  async rest() {
    this.#loaded = false;
    await Promise.all(this.#tasks);
    this.#tasks = [];
  }

  /** Makes two calls with each client. */
  async callWithEach() {
    for (const one of this.#clients) {
      await this.#call(one);
      await this.#call(one);
    }
    // New clients are closed on garbage collection, which releases their resources.
    for (let round = 0; round < 3; round += 1) {
      globalThis.gc();
      await sleep(50);
    }
  }

  async #call({ gateway, client }) {
    const number = this.#last;
    this.#last += 1;
    const fresh = number % this.#orders.fresh_client_each === 0;
    const mode = MODES[Math.floor(number / AMOUNTS.length) % MODES.length];
    await this.#guard(fresh ? this.#newClient(gateway) : client, gateway, number, mode);
    if ([1, 7].includes(number % 8) && mode !== 'monitor' && gateway.ca !== null) {
      await this.#guard(client, gateway, number, mode);
      await this.#guard(this.#newClient(gateway), gateway, number, mode);
    }
  }

  async #guard(client, gateway, number, mode) {
    const id = `node-${number}`;
    const outcome = await client.guard({
      goal: AGENT,
      tool: 'stripe.refund.create',
      resource: `soak:${id}`,
      args: { amount: AMOUNTS[number % AMOUNTS.length], currency: 'usd' },
      mode,
      idempotencyKey: id,
      execute: ({ decision }) => {
        this.#write({ ran: { id, evidence: decision.evidence_event_id ?? null, hash: decision.request_hash ?? null } });
        if (number % 16 === 8) {
          throw new ActionError();
        }
      },
    });
    const { executed, decision, error } = outcome;
    if (error !== undefined && !(error instanceof ActionError) && !(error instanceof this.#sdk.ActPassError)) {
      throw error;
    }
    this.#write({
      call: {
        id,
        gateway: gateway.name,
        executed,
        word: decision.decision,
        reason: decision.reason_code ?? null,
        kind: error instanceof ActionError ? 'action' : (error?.kind ?? null),
        evidence: decision.evidence_event_id ?? null,
        hash: decision.request_hash ?? null,
      },
    });
  }

  #newClient({ url, ca }) {
    const timeoutMs = this.#orders.timeout_ms;
    return new this.#sdk.ActPass({ apiKey: KEY, agentId: AGENT, baseUrl: url, ca: ca ?? undefined, timeoutMs });
  }

  #write(line) {
    writeSync(this.#journal, `${JSON.stringify(line)}\n`);
  }
}

async function main(folder, path) {
  const sdk = await import(pathToFileURL(resolve(folder, 'dist/index.mjs')));
  const worker = new Worker(sdk, JSON.parse(readFileSync(path, 'utf8')));
  console.log('ready');
  for await (const order of createInterface({ input: process.stdin })) {
    if (order === 'go') {
      worker.go();
    } else if (order === 'rest') {
      await worker.rest();
      console.log('resting');
    } else if (order === 'call') {
      await worker.callWithEach();
      console.log('called');
    } else if (order === 'end') {
      // Remaining handles do not keep the process alive.
      process.stdin.destroy();
      return;
    } else {
      throw new Error(`unknown order ${order}`);
    }
  }
  throw new Error('standard input ended');
}

const [folder, path] = process.argv.slice(2);
if (path === undefined || globalThis.gc === undefined) {
  console.error('usage: node --expose-gc worker.mjs SDK ORDERS');
  process.exit(2);
}
await main(folder, path);
