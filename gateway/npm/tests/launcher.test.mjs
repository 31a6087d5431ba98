/** The launcher, with a shell script instead of the gateway's program. Each case has its own installation. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';

const PACKAGE = resolve(import.meta.dirname, '..');
const HERE = `${process.platform}-${process.arch}`;
const USES_GLIBC = process.report.getReport().header.glibcVersionRuntime !== undefined;
const PLATFORM = process.platform === 'linux' ? `${HERE}-${USES_GLIBC ? 'gnu' : 'musl'}` : HERE;

describe('the launcher', { skip: process.platform === 'win32' && 'needs a shell' }, () => {
  let folder;
  const scope = (...parts) => join(folder, 'node_modules', '@actpass', ...parts);

  before(() => {
    folder = realpathSync(mkdtempSync(join(tmpdir(), 'actpass-gateway-')));
  });

  beforeEach(() => {
    rmSync(scope(), { recursive: true, force: true });
    for (const name of ['bin', 'index.mjs', 'package.json']) {
      cpSync(join(PACKAGE, name), scope('gateway', name), { recursive: true });
    }
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  function install(platform, script) {
    const programs = scope(`gateway-${platform}`, 'bin');
    mkdirSync(programs, { recursive: true });
    writeFileSync(scope(`gateway-${platform}`, 'package.json'), `{"name": "@actpass/gateway-${platform}"}`);
    writeFileSync(join(programs, 'actpass-gateway'), `#!/bin/sh\n${script}\n`);
    chmodSync(join(programs, 'actpass-gateway'), 0o755);
  }

  function launch(args, { preload = '' } = {}) {
    writeFileSync(join(folder, 'preload.cjs'), preload);
    const launcher = scope('gateway', 'bin', 'actpass-gateway.mjs');
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

  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
    test(`passes on ${name}`, async () => {
      install(PLATFORM, `trap 'echo got it; exit 7' ${name.slice(3)}; echo ready; while :; do sleep 0.01; done`);
      const child = launch([]);
      let output = '';
      child.stdout.on('data', (data) => {
        output += data;
        if (output === 'ready\n') {
          child.kill(name);
        }
      });
      const [code] = await once(child, 'close');
      assert.equal(code, 7);
      assert.equal(output, 'ready\ngot it\n');
    });
  }

  test('ends by the signal that ended the program', async () => {
    install(PLATFORM, 'kill -TERM $$');
    const { code, signal } = await run([]);
    assert.deepEqual([code, signal], [null, 'SIGTERM']);
  });

  test('names the package to install if it is missing', async () => {
    const { code, stderr } = await run(['dev']);
    assert.equal(code, 1);
    assert.equal(
      stderr,
      `actpass-gateway: the package @actpass/gateway-${PLATFORM} is not installed: install @actpass/gateway again on this ` +
        'platform, with optional dependencies (no --omit=optional) and a lock file that lists this platform\n',
    );
  });

  test('lists the platforms if none is published for this one', async () => {
    const { code, stderr } = await run(['dev'], {
      preload: "Object.defineProperty(process, 'platform', { value: 'sunos' })",
    });
    assert.equal(code, 1);
    assert.match(stderr, /^actpass-gateway: no gateway is built for sunos-\w+; gateways are built for darwin-arm64, /);
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
    chmodSync(scope(`gateway-${PLATFORM}`, 'bin', 'actpass-gateway'), 0o644);
    const { code, stderr } = await run([]);
    assert.equal(code, 1);
    assert.match(stderr, /^actpass-gateway: cannot run \S+actpass-gateway: spawn \S+ EACCES\n$/);
  });
});
