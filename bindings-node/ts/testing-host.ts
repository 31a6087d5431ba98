/** Servers, processes and files of the test kit. `edge/testing-host.ts` replaces this module in the build for other hosts. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as wait } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { wasm } from './engine.js';
import { herePath, nodeRequire } from './here.js';
import { type Journal, JOURNAL } from './journals.js';
import { wrongSetting } from './json.js';
import { native, type ScriptedGatewayState, wasmFile } from './native.js';
import { scriptedState } from './scripted-state.js';
import type { Respond, ScriptedServer } from './scripted.js';

export { AssertionError } from 'node:assert';

/** The longest wait for the report of an allowed action, in milliseconds. */
const SETTLED_WITHIN = 2000;

/** @internal Creates the state of a scripted gateway. */
export function stateOf(): ScriptedGatewayState {
  if (native.ScriptedGatewayState !== undefined) {
    return new native.ScriptedGatewayState();
  }
  const file = wasmFile('actpass-testing.wasm');
  if (file === undefined) {
    throw wrongSetting(
      `ACTPASS_ENGINE: with wasm, the scripted gateway needs actpass-testing.wasm next to ${herePath()}`,
    );
  }
  return scriptedState(new wasm.Module(readFileSync(file)));
}

/** @internal Serves a scripted gateway on a free port of the loopback interface. */
export async function serve(respond: Respond): Promise<ScriptedServer> {
  const server = createServer((request, response) => {
    // The client closed the connection.
    answer(request, response, respond).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // A gateway that is not closed does not keep the process alive.
  server.unref();
  return {
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, respond: Respond): Promise<void> {
  const { method = 'GET', url = '/' } = request;
  const reply = await respond(method, url, Buffer.concat((await request.toArray()) as Buffer[]).toString());
  if (reply === null) {
    request.socket.destroy();
    return;
  }
  const headers = { 'content-type': 'application/json', 'x-request-id': `req_${crypto.randomUUID()}` };
  response.writeHead(reply.status, headers).end(reply.body);
}

/** @internal Waits without keeping the process alive. */
export async function sleep(milliseconds: number): Promise<void> {
  await wait(milliseconds, undefined, { ref: false });
}

/** @internal Waits, synchronously, for reports of other processes; `false` if the wait that began at `began` has ended. */
export function awaitReports(began: number, milliseconds: number): boolean {
  if (performance.now() - began > SETTLED_WITHIN) {
    return false;
  }
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
  return true;
}

/** The journal of this process. Its gateways share it, because child processes may outlive one. */
let journal: Journal | undefined;

/** @internal Opens the journal of this process. */
export function openJournal(): Journal {
  if (journal === undefined) {
    const folder = mkdtempSync(join(tmpdir(), 'actpass-'));
    journal = join(folder, 'journal.jsonl');
    writeFileSync(journal, '');
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  }
  return journal;
}

/** @internal The position of the next line of a journal. */
export function sizeOf(path: Journal): number {
  return statSync(path).size;
}

/** @internal The lines of a journal from a position on. */
export function linesOf(path: Journal, from: number): string[] {
  return readFileSync(path).subarray(from).toString().split('\n').slice(0, -1);
}

/** @internal The variables that make a process report executions to a journal. */
export function environmentOf(path: Journal): { [variable: string]: string } {
  return { [JOURNAL]: path };
}

/** @internal Sets environment variables; the returned function restores them. */
export function setVariables(variables: { [name: string]: string }): () => void {
  const earlier = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables);
  return () => {
    for (const [name, value] of earlier) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
  };
}

/** @internal A real gateway. */
export interface StartedGateway extends ScriptedServer {
  /** Reads a path of the gateway as its administrator, synchronously like the helpers. */
  read(path: string): { status: number; body: string };
}

/** @internal Starts the real gateway and waits for the line with its URL. */
export async function startGateway(program: string, policy: string | undefined): Promise<StartedGateway> {
  const folder = mkdtempSync(join(tmpdir(), 'actpass-'));
  const log = join(folder, 'gateway.log');
  const data = ['--listen', '127.0.0.1:0', '--data', join(folder, 'actpass.db')];
  const errors = openSync(log, 'w');
  const child = spawn(program, ['dev', ...data, ...(policy === undefined ? [] : ['--policy', policy])], {
    stdio: ['ignore', 'pipe', errors],
  });
  closeSync(errors);
  const kill = () => child.kill();
  process.once('exit', kill);
  const stop = async () => {
    process.removeListener('exit', kill);
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      child.ref();
      kill();
      await ended;
    }
    rmSync(folder, { recursive: true, force: true });
  };
  const line = await firstLine(child);
  const baseUrl = /^listening on (\S+)$/.exec(line)?.[1];
  if (baseUrl === undefined) {
    const reason = readFileSync(log, 'utf8').trim() || line;
    await stop();
    throw wrongSetting(`${program}: expected a gateway that starts, found: ${reason}`);
  }
  child.unref();
  (child.stdout as Socket).unref();
  return {
    baseUrl,
    stop,
    read(path) {
      const read = `fetch(process.argv[1], { headers: { authorization: 'Bearer apdv_dev' } })
        .then(async (response) => console.log(JSON.stringify({ status: response.status, body: await response.text() })))`;
      const url = baseUrl + path;
      const { stdout, stderr } = spawnSync(process.execPath, ['-e', read, url], { encoding: 'utf8', timeout: 10_000 });
      return (stdout ? JSON.parse(stdout) : { status: 0, body: stderr }) as { status: number; body: string };
    },
  };
}

/** Returns the first line of output of `child`, or the reason why it is missing. */
function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(`${error}`));
    const lines = createInterface({ input: child.stdout as Readable });
    lines.once('line', resolve);
    lines.once('close', () => resolve('it ended without output'));
  });
}

/** @internal Returns the path of the installed gateway. */
export async function programOf(): Promise<string> {
  const program = (await ofPackage()) ?? onPath();
  if (program === undefined) {
    throw wrongSetting(
      'no gateway is installed: npm install --save-dev @actpass/gateway, or give the path of the program',
    );
  }
  return program;
}

/** Returns the program of the package that is installed for the program in the working directory, or for this package. */
async function ofPackage(): Promise<string | undefined> {
  for (const from of [join(process.cwd(), 'package.json'), herePath()]) {
    let path;
    try {
      path = nodeRequire(from).resolve('@actpass/gateway');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') {
        throw error;
      }
      continue;
    }
    // Not `require`, which the oldest supported Node lacks for ES modules.
    return ((await import(pathToFileURL(path).href)) as { gatewayPath(): string }).gatewayPath();
  }
  return undefined;
}

function onPath(): string | undefined {
  const name = process.platform === 'win32' ? 'actpass-gateway.exe' : 'actpass-gateway';
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}
