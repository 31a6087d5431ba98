/** Errors of loading the native module: each case in a separate process, in a package with the published layout. */

import assert from 'node:assert/strict';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PACKAGE, run } from './support.mjs';

const DIST = join(PACKAGE, 'dist');
const BINARY = readdirSync(DIST).find((name) => name.endsWith('.node'));
const PLATFORM = BINARY.split('.')[1];
const MANIFEST = JSON.parse(readFileSync(join(PACKAGE, 'package.json'), 'utf8'));
const NODE_MAJOR = Number(process.versions.node.split('.')[0]);
const PERMISSION = NODE_MAJOR >= 24 ? '--permission' : '--experimental-permission';
/** Prints the error of loading the package. */
const ATTEMPT = `
  const shown = (error) => console.log(JSON.stringify({
    code: error.code, kind: error.kind, name: error.name, message: error.message,
    ours: error instanceof require('./node_modules/@actpass/sdk/dist/errors.js').ActPassError,
    cause: error.cause?.message, causes: error.cause?.errors.length,
  }));
  try { require('@actpass/sdk'); console.log('{"loaded":true}'); } catch (error) { shown(error); }
`;

let folder;
const sdk = (...parts) => join(folder, 'node_modules', '@actpass', 'sdk', ...parts);
const binary = () => join(folder, 'node_modules', '@actpass', `sdk-${PLATFORM}`, BINARY);

/** The package without a binary, and the package of this platform. */
function layOut() {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, 'node_modules', '@actpass', `sdk-${PLATFORM}`), { recursive: true });
  // Otherwise Node reads a package.json of a parent folder.
  writeFileSync(join(folder, 'package.json'), '{"private": true}');
  cpSync(DIST, sdk('dist'), { recursive: true, filter: (path) => !path.endsWith('.node') });
  cpSync(join(PACKAGE, 'package.json'), sdk('package.json'));
  cpSync(join(DIST, BINARY), binary());
  writeFileSync(
    join(binary(), '..', 'package.json'),
    JSON.stringify({ name: `@actpass/sdk-${PLATFORM}`, main: BINARY }),
  );
}

/** Replaces a text in the binary with a text of the same length. */
function patch(from, to) {
  assert.equal(from.length, to.length);
  const bytes = readFileSync(binary());
  let found = 0;
  for (let at = bytes.indexOf(from); at >= 0; at = bytes.indexOf(from, at + 1)) {
    bytes.write(to, at);
    found += 1;
  }
  assert.ok(found > 0, `${from} is not in the binary`);
  rmSync(binary());
  writeFileSync(binary(), bytes);
}

async function attempt({ prelude = '', flags = [], env = {} } = {}) {
  writeFileSync(join(folder, 'attempt.cjs'), `${prelude}\n${ATTEMPT}`);
  const { stdout, stderr } = await run(process.execPath, [...flags, 'attempt.cjs'], {
    cwd: folder,
    // Without it, wasm replaces a native module that cannot be loaded.
    env: { ACTPASS_ENGINE: 'native', ...env },
  });
  assert.match(stdout, /^\{/, stderr);
  return JSON.parse(stdout.split('\n')[0]);
}

/** Fails unless the error is an ActPass error with this code and contains this text on one line. */
async function refuses(code, says, options) {
  const error = await attempt(options);
  assert.equal(error.code, code, error.message);
  assert.match(error.message, says);
  assert.match(error.message, /^cannot load the native module of @actpass\/sdk: [^\n]*$/);
  assert.deepEqual([error.ours, error.kind, error.name], [true, 'native', 'ActPassError']);
  return error;
}

const on = (platform, arch) =>
  `Object.defineProperty(process, 'platform', { value: '${platform}' });
   Object.defineProperty(process, 'arch', { value: '${arch}' });`;
const onMusl = `process.report.getReport = () => ({ header: {}, sharedObjects: ['/lib/ld-musl-x86_64.so.1'] });`;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'actpass-loader-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

test('loads the binary from the platform package or from the dist folder', async () => {
  layOut();
  assert.deepEqual(await attempt(), { loaded: true });
  cpSync(binary(), sdk('dist', BINARY));
  rmSync(binary());
  assert.deepEqual(await attempt(), { loaded: true });
});

test('JavaScript and the manifest have the same version', () => {
  layOut();
  assert.match(readFileSync(sdk('dist', 'version.js'), 'utf8'), new RegExp(`VERSION = '${MANIFEST.version}'`));
});

test('the loader lists every published platform', () => {
  const listed = /const BUILT = \[([^\]]*)\]/.exec(readFileSync(join(PACKAGE, 'ts', 'load.ts'), 'utf8'))[1];
  const targets = MANIFEST.napi.targets.map((target) => {
    const [processor, , system, abi] = target.split('-');
    const os = { apple: 'darwin', pc: 'win32', unknown: 'linux' }[target.split('-')[1]];
    return [os, { aarch64: 'arm64', x86_64: 'x64' }[processor], ...(system === 'darwin' ? [] : [abi])].join('-');
  });
  assert.deepEqual([...listed.matchAll(/'(.*?)'/g)].map(([, name]) => name).sort(), targets.sort());
  const source = readFileSync(join(DIST, 'load.js'), 'utf8');
  for (const platform of targets) {
    assert.ok(source.includes(`require('./actpass.${platform}.node')`), platform);
    assert.ok(source.includes(`require('@actpass/sdk-${platform}')`), platform);
  }
});

describe('the error reports', () => {
  test('an unsupported platform', async () => {
    layOut();
    for (const [platform, arch] of [
      ['freebsd', 'x64'],
      ['linux', 'riscv64'],
      ['linux', 'arm'],
      ['win32', 'ia32'],
      ['sunos', 'x64'],
      ['android', 'arm64'],
    ]) {
      const says = new RegExp(
        `no binary is built for ${platform}-${arch}; binaries are built for darwin-arm64, .*linux-x64-musl`,
      );
      await refuses('actpass.native_platform', says, { prelude: on(platform, arch) });
    }
  });

  test('a missing platform package', async () => {
    layOut();
    rmSync(join(binary(), '..'), { recursive: true });
    const says = new RegExp(`the package @actpass/sdk-${PLATFORM} is not installed: .*--omit=optional`);
    const { causes } = await refuses('actpass.native_missing', says);
    assert.ok(causes >= 1);
    for (const [platform, arch, name] of [
      ['darwin', 'arm64', '@actpass/sdk-darwin-arm64'],
      ['win32', 'x64', '@actpass/sdk-win32-x64-msvc'],
      ['linux', 'arm64', '@actpass/sdk-linux-arm64-gnu'],
    ]) {
      await refuses('actpass.native_missing', new RegExp(`the package ${name} is not installed`), {
        prelude: on(platform, arch),
      });
    }
    await refuses('actpass.native_missing', /the package @actpass\/sdk-linux-x64-musl is not installed/, {
      prelude: on('linux', 'x64') + onMusl,
    });
  });

  test('a deleted file of the platform package', async () => {
    layOut();
    rmSync(binary());
    await refuses('actpass.native_missing', /is not installed/);
  });

  test('a bundle without the binary; a binary next to the bundle is loaded', async () => {
    layOut();
    const bundle = join(folder, 'bundle', 'out');
    cpSync(sdk('dist'), bundle, { recursive: true });
    rmSync(join(binary(), '..'), { recursive: true });
    const prelude = `const Module = require('node:module'); const resolve = Module._resolveFilename;
      Module._resolveFilename = (name, ...rest) =>
        name === '@actpass/sdk' ? ${JSON.stringify(join(bundle, 'index.js'))} : resolve(name, ...rest);`;
    const left = await attempt({ prelude });
    assert.equal(left.code, 'actpass.native_not_bundled', left.message);
    assert.match(left.message, /left out of the bundle .*out.load\.js|left out of the bundle .*out.here\.js/);
    assert.ok(left.message.includes(`actpass.${PLATFORM}.node next to it`), left.message);
    cpSync(join(DIST, BINARY), join(bundle, BINARY.replace('.node', '-5HKQ2.node')));
    assert.deepEqual(await attempt({ prelude }), { loaded: true });
  });

  test('addons disabled by a flag or NODE_OPTIONS', async () => {
    layOut();
    await refuses('actpass.native_addons_disabled', /start Node without --no-addons/, { flags: ['--no-addons'] });
    await refuses('actpass.native_addons_disabled', /NODE_OPTIONS/, { env: { NODE_OPTIONS: '--no-addons' } });
  });

  test('addons forbidden by the permission model', async () => {
    layOut();
    await refuses('actpass.native_permission', /--allow-addons/, { flags: [PERMISSION, '--allow-fs-read=*'] });
    assert.deepEqual(await attempt({ flags: [PERMISSION, '--allow-fs-read=*', '--allow-addons'] }), { loaded: true });
  });

  test('different versions', async () => {
    layOut();
    writeFileSync(sdk('dist', 'version.js'), "exports.VERSION = '2.7.1';");
    const says = new RegExp(
      `has the version ${MANIFEST.version}, the JavaScript code 2\\.7\\.1: install .* same version`,
    );
    await refuses('actpass.native_version', says);
  });

  test('an older or unrelated module in place of the binary', async () => {
    layOut();
    rmSync(binary());
    const main = join(binary(), '..', 'index.js');
    writeFileSync(join(binary(), '..', 'package.json'), JSON.stringify({ name: 'x', main: 'index.js' }));
    writeFileSync(main, 'exports.Client = class {};');
    await refuses('actpass.native_version', /has the version before 2\.0\.0/);
    for (const other of ['{}', 'null', '() => {}', '7']) {
      writeFileSync(main, `module.exports = ${other};`);
      await refuses('actpass.native_corrupt', /install @actpass\/sdk again/);
    }
  });

  test('a damaged file', async () => {
    for (const damage of [
      () => truncateSync(binary(), 0),
      () => truncateSync(binary(), 7),
      () => truncateSync(binary(), 100),
      () => truncateSync(binary(), 100_000),
      () => writeFileSync(binary(), 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'),
      () => writeFileSync(binary(), '<!doctype html><title>404</title>'.padEnd(5000)),
      () => writeFileSync(binary(), Buffer.alloc(5000)),
    ]) {
      layOut();
      damage();
      await refuses('actpass.native_corrupt', /is damaged .*: install @actpass\/sdk again/);
    }
  });
});

describe(
  'on Linux with glibc, the error reports',
  { skip: PLATFORM !== 'linux-x64-gnu' && 'needs linux-x64-gnu' },
  () => {
    test('a file for another operating system', async () => {
      const machO = Buffer.alloc(5000);
      machO.writeUInt32LE(0xfeedfacf, 0);
      machO.writeUInt32LE(0x01000007, 4);
      const pe = Buffer.alloc(5000);
      pe.write('MZ');
      pe.writeUInt32LE(128, 60);
      pe.write('PE\0\0', 128);
      pe.writeUInt16LE(0x8664, 132);
      for (const [format, bytes] of Object.entries({ 'Mach-O': machO, PE: pe })) {
        layOut();
        writeFileSync(binary(), bytes);
        await refuses('actpass.native_corrupt', new RegExp(`is ${format}, no library of linux`));
      }
    });

    test('a file for another processor', async () => {
      for (const [machine, name] of [
        [0xb7, 'arm64'],
        [0x28, 'arm'],
        [0x03, 'ia32'],
      ]) {
        layOut();
        const bytes = readFileSync(binary());
        bytes.writeUInt16LE(machine, 18);
        rmSync(binary());
        writeFileSync(binary(), bytes);
        await refuses('actpass.native_processor', new RegExp(`is built for ${name}, this Node runs on x64`));
      }
    });

    test('the required glibc version', async () => {
      layOut();
      patch('GLIBC_2.34\0', 'GLIBC_2.99\0');
      await refuses('actpass.native_libc', /glibc 2\.99 or later is needed, found 2\.\d+: run on a newer Linux/);
    });

    test('a glibc package on a musl Node', async () => {
      layOut();
      patch('libgcc_s.so.1\0', 'libgcc_x.so.1\0');
      const says = /this Node uses musl: install @actpass\/sdk-linux-x64-musl instead of @actpass\/sdk-linux-x64-gnu/;
      await refuses('actpass.native_libc', says, { prelude: onMusl });
    });

    test('other messages of the dynamic linker', async () => {
      layOut();
      patch('libgcc_s.so.1\0', 'libgcc_x.so.1\0');
      await refuses('actpass.native_failed', /libgcc_x\.so\.1: cannot open shared object file/);
    });
  },
);

test('import and workers get the same error', async () => {
  layOut();
  rmSync(join(binary(), '..'), { recursive: true });
  const env = { ACTPASS_ENGINE: 'native' };
  writeFileSync(join(folder, 'import.mjs'), "import('@actpass/sdk').catch((error) => console.log(error.code));");
  assert.equal((await run(process.execPath, ['import.mjs'], { cwd: folder, env })).stdout, 'actpass.native_missing\n');
  layOut();
  writeFileSync(
    join(folder, 'worker.mjs'),
    `import { Worker } from 'node:worker_threads';
     new Worker("require('@actpass/sdk')", { eval: true, execArgv: ['--no-addons'] })
       .on('error', (error) => console.log(error.code));`,
  );
  const worker = await run(process.execPath, ['worker.mjs'], { cwd: folder, env });
  assert.equal(worker.stdout, 'actpass.native_addons_disabled\n', worker.stderr);
});

test('the README lists every error code', () => {
  const source = readFileSync(join(PACKAGE, 'ts', 'load.ts'), 'utf8');
  const codes = [.../^ {2}\| '(\w+)'/gm[Symbol.matchAll](source)].map(([, reason]) => `actpass.native_${reason}`);
  const readme = readFileSync(join(PACKAGE, 'README.md'), 'utf8');
  const listed = new Set([...readme.matchAll(/`(actpass\.native_\w+)`/g)].map(([, code]) => code));
  assert.deepEqual([...listed].sort(), codes.sort());
  assert.ok(codes.length >= 10);
});
