/** The published package: packed, installed into an empty folder, and imported there. */

import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PACKAGE, pageSnippets, run, withGateway } from './support.mjs';

const { setup, guard } = pageSnippets();
/** The page's first two snippets; its guard is the body of a function, because it contains \`return\`. */
const PAGE = `${setup}
const log = console;
const notify = console.log;
async function refund() {
${guard}
}
console.log(JSON.stringify(await refund()));`;
const JAVASCRIPT = PAGE.replace('ACTPASS_API_KEY!', 'ACTPASS_API_KEY');
const STRIPE = 'const stripe = { refunds: { create: async (refund) => refund } };';
const TSC = createRequire(import.meta.url)
  .resolve('typescript/package.json')
  .replace('package.json', 'bin/tsc');
const STRICT = [
  '--strict',
  '--exactOptionalPropertyTypes',
  '--noUncheckedIndexedAccess',
  '--target',
  'es2022',
  '--types',
  'node',
];

let folder;
const npm = (...args) => run('npm', [...args, '--no-audit', '--no-fund', '--offline'], { cwd: folder });
const installed = (...parts) => join(folder, 'node_modules', '@actpass', 'sdk', ...parts);

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'actpass-user-'));
  const packed = await run('npm', ['pack', '--silent', '--pack-destination', folder]);
  assert.equal(packed.code, 0, packed.stderr);
  const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz'));
  writeFileSync(join(folder, 'package.json'), '{"name": "user", "private": true}');
  const done = await npm('install', join(folder, tarball));
  assert.equal(done.code, 0, done.stderr);
  mkdirSync(join(folder, 'node_modules', '@types'));
  symlinkSync(join(PACKAGE, 'node_modules', '@types', 'node'), join(folder, 'node_modules', '@types', 'node'));
  symlinkSync(join(PACKAGE, 'node_modules', 'undici-types'), join(folder, 'node_modules', 'undici-types'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

function write(name, text) {
  writeFileSync(join(folder, name), text);
  return name;
}

test('the package contains the required files only', () => {
  const files = readdirSync(installed(), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name);
  for (const wanted of [
    'package.json',
    'README.md',
    'LICENSE-MIT',
    'LICENSE-APACHE',
    'index.js',
    'index.mjs',
    'index.d.ts',
    'index.d.mts',
  ]) {
    assert.ok(files.includes(wanted), wanted);
  }
  assert.deepEqual(
    files.filter((name) => /\.(rs|toml|test\.mjs|map)$/.test(name) || /^tsconfig|lock/.test(name)),
    [],
  );
  assert.equal(files.filter((name) => name.endsWith('.node')).length, 1);
});

describe('the first documentation page runs with and without a gateway', () => {
  const programs = {
    'an ES module': () => write('esm.mjs', `${STRIPE}\n${JAVASCRIPT}`),
    CommonJS: () => {
      const required = JAVASCRIPT.replace(/import (.*) from (.*);/, 'const $1 = require($2);');
      return write('cjs.cjs', `(async () => {\n${STRIPE}\n${required}\n})();`);
    },
    'TypeScript under --strict': async () => {
      write('typed.mts', `${STRIPE.replace('(refund)', '(refund: object)')}\n${PAGE}`);
      const compiled = await run(process.execPath, [TSC, ...STRICT, '--module', 'nodenext', 'typed.mts'], {
        cwd: folder,
      });
      assert.equal(compiled.code, 0, compiled.stdout);
      return 'typed.mjs';
    },
  };
  for (const [name, make] of Object.entries(programs)) {
    test(name, async () => {
      const program = await make();
      await withGateway(async ({ baseUrl, stop }) => {
        const env = { ACTPASS_API_KEY: 'apk_dev', ACTPASS_API_BASE_URL: baseUrl };
        const allowed = await run(process.execPath, [program], { cwd: folder, env });
        assert.deepEqual([allowed.stdout, allowed.stderr], ['{"charge":"ch_123","amount":4900}\n', '']);
        await stop();
        const blocked = await run(process.execPath, [program], { cwd: folder, env });
        assert.equal(blocked.stdout, 'undefined\n');
        assert.match(blocked.stderr, /^actpass\.unreachable The gateway's host /);
      });
    });
  }
});

test('import and require return the same implementation', async () => {
  write(
    'both.mjs',
    `import { createRequire } from 'node:module';
    import * as imported from '@actpass/sdk';
    const required = createRequire(import.meta.url)('@actpass/sdk');
    const names = Object.keys(imported).filter((name) => name !== 'default' && name !== 'module.exports');
    console.log(names.length > 10, names.every((name) => imported[name] === required[name]));
    console.log(Object.keys(required).filter((name) => !names.includes(name)).join());`,
  );
  assert.equal((await run(process.execPath, ['both.mjs'], { cwd: folder })).stdout, 'true true\n\n');
});

describe('a subpath', () => {
  const { exports } = JSON.parse(readFileSync(join(PACKAGE, 'package.json'), 'utf8'));
  const subpaths = Object.keys(exports).filter((subpath) => !['.', './package.json'].includes(subpath));
  // The adapter of LangChain extends classes of its framework.
  const standalone = subpaths.filter((subpath) => subpath !== './langchain');

  test('has every file that it names', () => {
    assert.deepEqual(subpaths, [
      ...['ai', 'claude-agent', 'langchain', 'mastra', 'mcp', 'openai-agents', 'testing'].map((name) => `./${name}`),
    ]);
    const filesOf = (entry) => (typeof entry === 'string' ? [entry] : Object.values(entry).flatMap(filesOf));
    const missing = filesOf(exports).filter((file) => !existsSync(installed(file)));
    assert.deepEqual(missing, []);
  });

  for (const subpath of standalone) {
    test(`${subpath} loads without a framework, by import and by require, with the same names and classes`, async () => {
      const name = `@actpass/sdk${subpath.slice(1)}`;
      const program = `import { createRequire } from 'node:module';
        import * as imported from '${name}';
        const required = createRequire(import.meta.url)('${name}');
        const names = (module) => Object.keys(module).filter((one) => !['default', 'module.exports'].includes(one)).sort().join();
        console.log(names(imported) !== '', names(imported) === names(required));`;
      const done = await run(process.execPath, [write('subpath.mjs', program)], { cwd: folder });
      assert.deepEqual([done.code, done.stdout], [0, 'true true\n'], done.stderr);
    });
  }

  test('compiles without a framework', async () => {
    const imports = standalone.map((subpath, at) => `export * as it${at} from '@actpass/sdk${subpath.slice(1)}';`);
    for (const [extension, module] of [
      ['mts', ['--module', 'nodenext']],
      ['cts', ['--module', 'nodenext']],
      ['ts', ['--module', 'esnext', '--moduleResolution', 'bundler']],
    ]) {
      const name = write(`subpaths.${extension}`, imports.join('\n'));
      const done = await run(process.execPath, [TSC, ...STRICT, ...module, '--noEmit', name], { cwd: folder });
      assert.deepEqual([done.code, done.stdout], [0, ''], extension);
    }
  });
});

describe('type tests', () => {
  for (const program of ['good', 'bad']) {
    for (const [kind, extension, options] of [
      ['an ES module', 'mts', ['--module', 'nodenext']],
      ['CommonJS', 'cts', ['--module', 'nodenext']],
      ['a bundler', 'ts', ['--module', 'esnext', '--moduleResolution', 'bundler']],
    ]) {
      test(`${program}.ts as ${kind}`, async () => {
        const name = `${program}.${extension}`;
        cpSync(join(PACKAGE, 'tests', 'types', `${program}.ts`), join(folder, name));
        const done = await run(process.execPath, [TSC, ...STRICT, ...options, '--noEmit', name], { cwd: folder });
        assert.deepEqual([done.code, done.stdout], [0, '']);
      });
    }
  }

  test('every export has documentation', () => {
    let documented = 0;
    const dist = installed('dist');
    for (const file of readdirSync(dist, { recursive: true }).filter((name) => name.endsWith('.d.ts'))) {
      const lines = readFileSync(join(dist, file), 'utf8').split('\n');
      for (const [at, line] of lines.entries()) {
        // An adapter has types of the parts of its framework that it uses.
        const isMember =
          !file.startsWith('integrations') &&
          /^ {4}(readonly )?[a-zA-Z]\w*(<.*)?[?:(]/.test(line) &&
          !/^ {4}constructor/.test(line);
        if (/^export (declare )?(class|function|interface|type) \w/.test(line) || isMember) {
          documented += 1;
          const overload = isMember && lines[at - 1].trim().startsWith(line.trim().split('<')[0].split('(')[0]);
          assert.ok(lines[at - 1].trim().endsWith('*/') || overload, `${file}:${at + 1}: ${line}`);
        }
      }
    }
    assert.ok(documented > 150, `${documented}`);
  });
});

describe('OpenTelemetry installed next to the package', () => {
  const OBSERVED = join('observed', 'node_modules', '@opentelemetry', 'api');
  const program = (api, sdk) => `(async () => {
    const { trace } = ${api};
    const started = [];
    const span = { spanContext: () => ({}), setAttribute() {}, setStatus() {}, end() {} };
    trace.setGlobalTracerProvider({ getTracer: () => ({ startSpan: (name) => (started.push(name), span) }) });
    const { ActPass } = ${sdk};
    const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:9', maxRetries: 0 });
    await actpass.guard({ goal: 'g', tool: 't', args: {}, execute: () => 1 });
    console.log(started.join());
  })();`;
  const programs = {
    mjs: program("await import('@opentelemetry/api')", "await import('@actpass/sdk')"),
    cjs: program("require('@opentelemetry/api')", "require('@actpass/sdk')"),
  };

  before(() => {
    mkdirSync(join(folder, OBSERVED), { recursive: true });
    cpSync(installed(), join(folder, 'observed', 'node_modules', '@actpass', 'sdk'), { recursive: true });
  });

  for (const [extension, text] of Object.entries(programs)) {
    test(`is found by a program in .${extension}`, async () => {
      cpSync(join(PACKAGE, 'node_modules', '@opentelemetry', 'api'), join(folder, OBSERVED), { recursive: true });
      const done = await run(process.execPath, [write(join('observed', `main.${extension}`), text)], { cwd: folder });
      assert.deepEqual([done.stdout, done.stderr], ['actpass.guard\n', '']);
    });
  }

  test('is looked up once if it is missing', async () => {
    const missing = `const Module = require('node:module');
      const resolve = Module._resolveFilename;
      let lookups = 0;
      Module._resolveFilename = (name, ...others) => {
        lookups += name === '@opentelemetry/api' ? 1 : 0;
        return resolve(name, ...others);
      };
      const { ActPass } = require('@actpass/sdk');
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:9', maxRetries: 0 });
      const guard = () => actpass.guard({ goal: 'g', tool: 't', args: {}, execute: () => 1 });
      guard().then(guard).then(guard).then(() => console.log(lookups));`;
    const done = await run(process.execPath, [write('missing.cjs', missing)], { cwd: folder });
    assert.deepEqual([done.stdout, done.stderr], ['2\n', '']);
  });

  for (const [name, text, said] of [
    ['is damaged', "throw new Error('of the package')", 'Error: of the package'],
    ['is too old', 'exports.trace = exports.context = {}', 'Error: @opentelemetry/api: expected version 1.3 or later'],
  ]) {
    test(`changes no outcome if it ${name}`, async () => {
      rmSync(join(folder, OBSERVED), { recursive: true });
      mkdirSync(join(folder, OBSERVED));
      write(join(OBSERVED, 'index.js'), text);
      const blocked = programs.cjs.replace(/const { trace }.*|trace\.set.*/g, '').replace('started.join()', "'done'");
      const done = await run(process.execPath, [write(join('observed', 'main.cjs'), blocked)], { cwd: folder });
      assert.equal(done.stdout, 'done\n');
      assert.ok(done.stderr.endsWith(`not reported: ${said}\n`), done.stderr);
    });
  }
});

test('publishes the package without a binary, and a package for each platform', async () => {
  const published = join(folder, 'published');
  const laidOut = await run(process.execPath, [join(PACKAGE, 'scripts', 'platforms.mjs'), published]);
  assert.deepEqual([laidOut.code, laidOut.stdout], [0, '7 platforms\n']);
  const manifest = (platform) => JSON.parse(readFileSync(join(published, platform, 'package.json'), 'utf8'));
  assert.deepEqual(
    readdirSync(published)
      .filter((platform) => platform !== 'sdk')
      .map((platform) => manifest(platform).name),
    Object.keys(manifest('sdk').optionalDependencies).sort(),
  );
  const { name, os, cpu, libc, main } = manifest('linux-arm64-musl');
  assert.deepEqual(
    { name, os, cpu, libc, main },
    {
      name: '@actpass/sdk-linux-arm64-musl',
      os: ['linux'],
      cpu: ['arm64'],
      libc: ['musl'],
      main: 'actpass.linux-arm64-musl.node',
    },
  );

  const binary = readdirSync(join(PACKAGE, 'dist')).find((file) => file.endsWith('.node'));
  const platform = binary.split('.')[1];
  assert.equal(manifest(platform).main, binary);
  cpSync(join(PACKAGE, 'dist', binary), join(published, platform, binary));
  const tarballs = [];
  for (const directory of ['sdk', platform]) {
    const packed = await run('npm', ['pack', '--silent', '--pack-destination', published], {
      cwd: join(published, directory),
    });
    tarballs.push(join(published, packed.stdout.trim()));
  }
  const elsewhere = join(folder, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'package.json'), '{"name": "elsewhere", "private": true}');
  const options = ['--no-audit', '--no-fund', '--offline'];
  const done = await run('npm', ['install', ...tarballs, ...options], { cwd: elsewhere });
  assert.equal(done.code, 0, done.stderr);
  const used = await run(process.execPath, ['-p', "require('@actpass/sdk').hashPayload({}).length"], {
    cwd: elsewhere,
  });
  assert.equal(used.stdout, '64\n');
});
