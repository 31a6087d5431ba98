/** The launchers of the programs, with a shell script as the program. Each case has its own installation. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';

const ROOT = resolve(import.meta.dirname, '..', '..', '..');
const HERE = `${process.platform}-${process.arch}`;
const USES_GLIBC = process.report.getReport().header.glibcVersionRuntime !== undefined;
const PLATFORM = process.platform === 'linux' ? `${HERE}-${USES_GLIBC ? 'gnu' : 'musl'}` : HERE;

function cases(name, denial) {
  const program = `actpass-${name}`;
  let folder;
  const scope = (...parts) => join(folder, 'node_modules', '@actpass', ...parts);

  before(() => {
    folder = realpathSync(mkdtempSync(join(tmpdir(), 'actpass-gateway-')));
  });

  beforeEach(() => {
    rmSync(scope(), { recursive: true, force: true });
    for (const file of ['bin', 'package.json']) {
      cpSync(join(ROOT, name, 'npm', file), scope(name, file), { recursive: true });
    }
    cpSync(join(ROOT, 'gateway', 'npm', 'program.mjs'), scope(name, 'program.mjs'));
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  function install(platform, script) {
    const programs = scope(`${name}-${platform}`, 'bin');
    mkdirSync(programs, { recursive: true });
    writeFileSync(scope(`${name}-${platform}`, 'package.json'), `{"name": "@actpass/${name}-${platform}"}`);
    writeFileSync(join(programs, program), `#!/bin/sh\n${script}\n`);
    chmodSync(join(programs, program), 0o755);
  }

  function launch(args, { preload = '' } = {}) {
    writeFileSync(join(folder, 'preload.cjs'), preload);
    const launcher = scope(name, 'bin', `${program}.mjs`);
    return spawn(process.execPath, ['--require', join(folder, 'preload.cjs'), launcher, ...args]);
  }

  async function run(args, options) {
    const child = launch(args, options);
    const output = { stdout: '', stderr: '' };
    child.stdout.on('data', (data) => (output.stdout += data));
    child.stderr.on('data', (data) => (output.stderr += data));
    const [code, signal] = await once(child, 'close');
    return { code, signal, ...output };
  }

  test('passes on arguments, output and the exit code', async () => {
    install(PLATFORM, 'echo "$# $1 $2"; echo problem >&2; exit 2');
    assert.deepEqual(await run(['serve', 'a b']), {
      code: 2,
      signal: null,
      stdout: '2 serve a b\n',
      stderr: 'problem\n',
    });
  });

  for (const sent of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
    test(`passes on ${sent}`, async () => {
      install(PLATFORM, `trap 'echo got it; exit 7' ${sent.slice(3)}; echo ready; while :; do sleep 0.01; done`);
      const child = launch([]);
      let output = '';
      child.stdout.on('data', (data) => {
        output += data;
        if (output === 'ready\n') {
          child.kill(sent);
        }
      });
      const [code] = await once(child, 'close');
      assert.equal(code, denial ?? 7);
      assert.equal(output, 'ready\ngot it\n');
    });
  }

  test('shows that a signal ended the program', async () => {
    install(PLATFORM, 'kill -TERM $$');
    const { code, signal } = await run([]);
    assert.deepEqual([code, signal], denial === undefined ? [null, 'SIGTERM'] : [denial, null]);
  });

  test('names the package to install if it is missing', async () => {
    const { code, stderr } = await run(['dev']);
    assert.equal(code, denial ?? 1);
    assert.equal(
      stderr,
      `${program}: the package @actpass/${name}-${PLATFORM} is not installed: install @actpass/${name} again on this ` +
        'platform, with optional dependencies (no --omit=optional) and a lock file that lists this platform\n',
    );
  });

  test('lists the platforms if none is published for this one', async () => {
    const { code, stderr } = await run(['dev'], {
      preload: "Object.defineProperty(process, 'platform', { value: 'sunos' })",
    });
    assert.equal(code, denial ?? 1);
    const { napi } = JSON.parse(readFileSync(join(ROOT, 'bindings-node', 'package.json'), 'utf8'));
    const [, listed, remedy] = stderr.match(/ is built for sunos-\w+; it is built for (.*): (.*)\n$/);
    const names = napi.targets.map((target) => {
      const [processor, , system, abi] = target.split('-');
      const parts = [system.replace('windows', 'win32'), { aarch64: 'arm64', x86_64: 'x64' }[processor], abi];
      return parts.filter((part) => part !== undefined).join('-');
    });
    assert.deepEqual(listed.split(', ').sort(), names.sort());
    assert.equal(remedy, `build it with cargo install --path ${name}`);
  });

  test(
    'runs the static program of musl if the package of glibc is missing',
    {
      skip: process.platform !== 'linux' && 'needs Linux',
    },
    async () => {
      install(`${HERE}-musl`, 'echo static');
      assert.equal((await run([])).stdout, 'static\n');
    },
  );

  test('names a program that cannot be executed', async () => {
    install(PLATFORM, '');
    chmodSync(scope(`${name}-${PLATFORM}`, 'bin', program), 0o644);
    const { code, stderr } = await run([]);
    assert.equal(code, denial ?? 1);
    assert.match(stderr, new RegExp(`^${program}: cannot run \\S+${program}: spawn \\S+ EACCES\\n$`));
  });
}

describe('the launcher', { skip: process.platform === 'win32' && 'needs a shell' }, () => {
  for (const name of ['conformance', 'gateway', 'mcp']) {
    describe(`of @actpass/${name}`, () => cases(name));
  }
  // Hosts run the tool after any other exit code of a hook.
  describe('of @actpass/hook', () => cases('hook', 2));
});
