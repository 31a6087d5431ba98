/** A local gateway for the examples, and a person who approves in another process. */

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

/** Runs `body` with the URL of a new gateway; `program` is the path of `actpass-gateway`. */
export async function withGateway(program, body) {
  const command = (folder) => ['dev', '--listen', '127.0.0.1:0', '--data', join(folder, 'dev.db')];
  await withProgram(program, command, body);
}

/** Runs `body` with the URL of a new gateway with these settings: TOML without the address and the data file. */
export async function withSettings(program, settings, body) {
  const command = async (folder) => {
    const config = join(folder, 'gateway.toml');
    await writeFile(config, `listen = "127.0.0.1:0"\ndata = "gateway.db"\n${settings}`);
    return ['serve', '--config', config];
  };
  await withProgram(program, command, body);
}

async function withProgram(program, command, body) {
  const folder = await mkdtemp(join(tmpdir(), 'actpass-'));
  const child = spawn(program, await command(folder), { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    const [line] = await once(createInterface({ input: child.stdout }), 'line');
    await body(line.split(' ').at(-1));
  } finally {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
    await rm(folder, { recursive: true, force: true });
  }
}

/** The program of the person's process: it approves every pending request with the operator's key. */
const APPROVE = `
  const [approvals] = process.argv.slice(1);
  const headers = { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' };
  const { approvals: pending } = await (await fetch(approvals, { headers })).json();
  for (const { id, args } of pending) {
    await fetch(approvals + '/' + id + '/approve', { method: 'POST', headers, body: '{}' });
    console.log('approved in another process:', JSON.stringify(args));
  }`;

/** Approves the pending requests, in another process. */
export async function approveElsewhere(baseUrl) {
  const node = ['--input-type=module', '-e', APPROVE, `${baseUrl}/api/v1/approvals`];
  const { stdout } = await promisify(execFile)(process.execPath, node);
  process.stdout.write(stdout);
}
