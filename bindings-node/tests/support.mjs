/** Test support: clients, scripted and real gateways, child processes, and the printed forms of values. */

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, appendFileSync, constants, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { ActPass } from '@actpass/sdk';

export const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
export const ROOT = join(PACKAGE, '..');
export const VECTORS = join(ROOT, 'tests', 'vectors');

/** Secrets of the tests, which must never appear in output. */
export const API_KEY = 'apk_tests_secret';
export const PASSPORT = 'eyJhbGciOiJFZERTQSJ9.passport_secret';
export const CREDENTIAL = 'cred_vaulted_secret';
export const SIGNING_KEY = 'signing_key_secret';

export const ACTION = {
  goal: 'resolve_refund_request',
  tool: 'stripe.refund.create',
  args: { amount: 4900, currency: 'usd' },
  resource: 'stripe:charge:ch_123',
};
/** The explanation that the SDK adds to a decision without explanation. */
export const UNEXPLAINED = { summary: '', matched_rules: [], next_steps: [] };
export const ALLOW = {
  decision: 'allow',
  reason_code: 'refund.small_in_scope',
  evidence_event_id: 'ev_1',
  explain: UNEXPLAINED,
};
export const MODES = ['enforce', 'strict', 'warn', 'monitor'];

/** A step of the hostile gateway that responds with `json`. */
export function answer(json, members = {}) {
  return { do: 'respond', json, ...members };
}

/** A client without retries and with a timeout of 10 s. */
export function newClient(baseUrl, settings = {}) {
  return new ActPass({ apiKey: API_KEY, agentId: 'tests', timeoutMs: 10_000, maxRetries: 0, baseUrl, ...settings });
}

/** The path of the program in `variable`. */
function binary(variable) {
  const path = process.env[variable];
  assert.ok(path, `${variable} must be the path of the built program`);
  accessSync(path, constants.X_OK);
  return path;
}

/** The hostile gateway; one child process per test file. */
export class Hostile {
  #process = spawn(binary('ACTPASS_HOSTILE_GATEWAY'), { stdio: ['pipe', 'pipe', 'inherit'] });
  #waiting = [];

  constructor() {
    createInterface({ input: this.#process.stdout }).on('line', (line) => this.#waiting.shift()(JSON.parse(line)));
    // The end of its input stops it. Until then, it must not keep the tests alive.
    this.#process.unref();
    this.#process.stdout.unref();
    this.#process.stdin.unref();
  }

  async tell(command) {
    this.#process.stdout.ref();
    const said = await new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#process.stdin.write(`${JSON.stringify(command)}\n`);
    });
    if (this.#waiting.length === 0) {
      this.#process.stdout.unref();
    }
    assert.equal(said.error, undefined);
    return said;
  }

  /** Runs a gateway with `script` while `body` runs. */
  async play(script, body) {
    const started = await this.tell({ start: Array.isArray(script) ? { steps: script } : script });
    const gateway = {
      baseUrl: started.base_url,
      ca: started.ca_pem,
      /** The valid requests so far. */
      seen: async () => (await this.tell({ seen: started.id })).seen.filter((one) => one.method !== '?'),
      otherSeen: async () => (await this.tell({ seen: started.id })).other_seen,
      /** Closes the open connections. */
      closeConnections: () => this.tell({ close: started.id }),
    };
    try {
      return await body(gateway);
    } finally {
      await this.tell({ stop: started.id });
    }
  }
}

/** Runs the real gateway in its development mode while `body` runs. */
export async function withGateway(body) {
  const folder = mkdtempSync(join(tmpdir(), 'actpass-node-'));
  const child = spawn(
    binary('ACTPASS_GATEWAY'),
    ['dev', '--listen', '127.0.0.1:0', '--data', join(folder, 'data.db')],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  try {
    const [line] = await once(createInterface({ input: child.stdout }), 'line');
    const baseUrl = /^listening on (\S+)$/.exec(line)?.[1];
    assert.ok(baseUrl, line);
    return await body({ baseUrl, stop: () => stop(child) });
  } finally {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Terminates a child by its process id and waits for its exit. */
export async function stop(child) {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
  }
}

/** Runs a server that sends `respond(request)` for each request and keeps the requests. */
export async function capturing(respond, body) {
  const captured = [];
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray();
    const one = {
      method: request.method,
      path: request.url,
      headers: request.headers,
      body: Buffer.concat(chunks).toString(),
    };
    captured.push(one);
    response.setHeader('content-type', 'application/json').end(JSON.stringify(respond(one)));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    return await body(`http://127.0.0.1:${server.address().port}`, captured);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Runs a program in the package folder with a limit of `timeout` milliseconds. */
export function run(file, args, { cwd = PACKAGE, timeout = 60_000, env = {} } = {}) {
  return new Promise((resolve) => {
    execFile(
      file,
      args,
      { cwd, timeout, env: { ...process.env, ...env }, encoding: 'utf8' },
      (error, stdout, stderr) => {
        note(stdout, stderr);
        resolve({ code: error ? (error.code ?? error.signal) : 0, stdout, stderr });
      },
    );
  });
}

/** Runs the text of a module in a separate Node process. */
export function runModule(code, { flags = [], ...options } = {}) {
  return run(process.execPath, [...flags, '--input-type=module', '-e', code], options);
}

/** Appends texts to the log, which is searched for secrets after the tests. */
export function note(...texts) {
  const path = process.env.ACTPASS_TEST_LOG;
  if (path) {
    appendFileSync(path, texts.map((text) => `${text}\n`).join(''));
  }
}

/** Every text of `value` that a program could print. */
export function everythingShown(value) {
  const shown = [inspect(value, { depth: 20, showHidden: true, getters: true }), `${value}`];
  for (let error = value; error instanceof Error; error = error.cause) {
    shown.push(`${error}`, error.message, error.stack, JSON.stringify(error, Object.getOwnPropertyNames(error)));
  }
  if (typeof value === 'object' && value !== null && !(value instanceof Error)) {
    shown.push(JSON.stringify(value), ...Object.values(value).map(everythingShown));
  }
  const text = shown.join('\n');
  note(text);
  return text;
}

/** The TypeScript snippets of the first documentation page, verbatim. */
export function pageSnippets() {
  const page = readFileSync(join(ROOT, 'tests', 'examples', 'sdk-page.txt'), 'utf8');
  const between = (from, to) => {
    const [start, end] = [page.indexOf(from), page.indexOf(to)];
    assert.ok(start >= 0 && end > start, from);
    return page.slice(start, end).trim();
  };
  return {
    setup: between('import { ActPass }', 'Decide, then act'),
    guard: between('const { decision, result, error }', 'Decision only'),
    preflight: between('const d = ', 'Passports\n'),
    passports: between('const { token }', 'Python — actpass'),
  };
}

/** The exception that `call` throws. */
export function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  return assert.fail('nothing was thrown');
}

/** The rejection reason of a promise. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('nothing was thrown');
}

/** The names of the vector files without `.json`. */
export function vectorFiles() {
  const areas = readdirSync(VECTORS, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const files = areas.flatMap(({ name: area }) => readdirSync(join(VECTORS, area)).map((file) => `${area}/${file}`));
  assert.deepEqual(
    files.filter((file) => !file.endsWith('.json')),
    [],
  );
  return files.map((file) => file.slice(0, -'.json'.length)).sort();
}
