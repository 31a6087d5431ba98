/**
 * Runs the smoke set of the wasm engine in hosts without native addons, and in the bundles of four bundlers, against the real
 * gateway and the hostile one.
 *
 * usage: run.mjs [NAME...]   NAME is a part of a host's name
 *
 * The tools are the packages in package.json, installed into target/environments/edge. A missing Chromium is reported as skipped, and
 * is an error if CI=true.
 */

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const HERE = import.meta.dirname;
const ROOT = resolve(HERE, '..', '..', '..');
const FOLDER = join(ROOT, 'target', 'environments', 'edge');
const GATEWAY = process.env.ACTPASS_GATEWAY ?? join(ROOT, 'target', 'debug', 'actpass-gateway');
const HOSTILE = process.env.ACTPASS_HOSTILE_GATEWAY ?? join(ROOT, 'target', 'debug', 'actpass-hostile-gateway');
/** The commands end after this time, in milliseconds. */
const LONGEST = 120_000;
const EXPECTED = {
  engine: 'wasm',
  allow: 4900,
  deny: 'refund.over_limit',
  approval: ['require_approval', 200, 'approved'],
  redirect: 'actpass.gateway_error',
  hang: 'actpass.timeout',
  oversize: 'actpass.invalid_response',
  passport: true,
  refused: 'ActPassConfigError ca',
  hash: '',
  ran: [4900, 'approved'],
  kit: {
    results: [1, 'refund.over_limit', 'actpass.unreachable', 'test.require_approval', 4, 'test.require_approval'],
    asked: [1, 2, 3, 4, 4, 5],
    failure:
      'ERR_ASSERTION expected stripe.refund.create 0 times; ran: ["stripe.refund.create","stripe.refund.create"]',
    closed: 'actpass.unreachable',
    real: 'ActPassConfigError',
  },
};
/** The adapter of the AI SDK, in the hosts that run it. */
const ADAPTER = { refunded: [4900], allowed: true, denied: true, text: 'done' };

const names = process.argv.slice(2);
mkdirSync(FOLDER, { recursive: true });
cpSync(join(HERE, 'package.json'), join(FOLDER, 'package.json'));
if (existsSync(join(HERE, 'package-lock.json'))) {
  cpSync(join(HERE, 'package-lock.json'), join(FOLDER, 'package-lock.json'));
}
const mark = join(FOLDER, '.installed');
const manifest = readFileSync(join(HERE, 'package.json'), 'utf8');
if (!existsSync(mark) || readFileSync(mark, 'utf8') !== manifest) {
  execFileSync(
    'npm',
    [existsSync(join(FOLDER, 'package-lock.json')) ? 'ci' : 'install', '--silent', '--no-audit', '--no-fund'],
    {
      cwd: FOLDER,
      stdio: 'inherit',
    },
  );
  writeFileSync(mark, manifest);
}
const require = createRequire(join(FOLDER, 'main.cjs'));
const load = async (name) => {
  const found = await import(pathToFileURL(require.resolve(name)));
  return found.default?.build || found.default?.rollup ? found.default : { ...found.default, ...found };
};
const tool = (name) => join(FOLDER, 'node_modules', '.bin', name);

// The package as it is published, without a native module.
const sdk = join(FOLDER, 'node_modules', '@actpass', 'sdk');
rmSync(sdk, { recursive: true, force: true });
cpSync(join(ROOT, 'bindings-node', 'dist'), join(sdk, 'dist'), {
  recursive: true,
  filter: (path) => !path.endsWith('.node'),
});
cpSync(join(ROOT, 'bindings-node', 'package.json'), join(sdk, 'package.json'));
for (const name of ['smoke.mjs', 'smoke-ai.mjs']) {
  cpSync(join(HERE, name), join(FOLDER, name));
}
/** The modules in wasm. */
const MODULES = ['actpass.wasm', 'actpass-testing.wasm'];
const source = (name, text) => {
  const path = join(FOLDER, name);
  writeFileSync(path, text);
  return path;
};
const IMPORTS = `import * as sdk from '@actpass/sdk';
import * as testing from '@actpass/sdk/testing';
import { smoke } from './smoke.mjs';
`;

const children = [];
const started = (file, args, stdio) => {
  const child = spawn(file, args, { stdio });
  children.push(child);
  return child;
};
const data = mkdtempSync(join(tmpdir(), 'actpass-edge-'));

async function realGateway() {
  const child = started(
    GATEWAY,
    ['dev', '--listen', '127.0.0.1:0', '--data', join(data, 'data.db')],
    ['ignore', 'pipe', 'ignore'],
  );
  const [line] = await once(createInterface({ input: child.stdout }), 'line');
  return /^listening on (\S+)$/.exec(line)[1];
}

async function hostileGateways() {
  const child = started(HOSTILE, [], ['pipe', 'pipe', 'inherit']);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const start = async (step) => {
    child.stdin.write(`${JSON.stringify({ start: { steps: [step] } })}\n`);
    return JSON.parse((await lines.next()).value).base_url;
  };
  return {
    redirect: await start({ do: 'redirect', status: 307 }),
    hang: await start({ do: 'hang', at: 'body' }),
    oversize: await start({
      do: 'respond',
      status: 200,
      body_repeat: { text: '0123456789abcdef', times: 131_072 },
    }),
  };
}

const gateways = { real: await realGateway(), ...(await hostileGateways()) };
const GIVEN = JSON.stringify(gateways);
const run = async (file, args, env = {}) => {
  const kept = Object.entries(process.env).filter(([name]) => !/^(ACTPASS_|NODE_|npm_)/.test(name));
  const options = { cwd: FOLDER, env: { ...Object.fromEntries(kept), ...env }, timeout: LONGEST };
  return (await promisify(execFile)(file, args, options)).stdout.trim().split('\n').at(-1);
};
const SMOKE = `smoke(sdk, testing, ${GIVEN})`;
const WITH_ADAPTER = `${IMPORTS}import { smokeAi } from './smoke-ai.mjs';\n`;
const SMOKE_ADAPTER = `smoke(sdk, testing, ${GIVEN}, smokeAi)`;
const MAIN = `${WITH_ADAPTER}console.log(await ${SMOKE_ADAPTER});\n`;

/** Bundles with esbuild. */
async function esbuilt(entry, outfile, options) {
  const { build } = await load('esbuild');
  await build({ entryPoints: [entry], outfile, bundle: true, format: 'esm', logLevel: 'error', ...options });
  return outfile;
}

async function inNode() {
  return run(process.execPath, [source('node.mjs', MAIN)], { ACTPASS_ENGINE: 'wasm' });
}

async function inWorkerd() {
  const worker = `${WITH_ADAPTER}export default { fetch: async () => new Response(await ${SMOKE_ADAPTER}) };\n`;
  const out = join(FOLDER, 'workerd');
  rmSync(out, { recursive: true, force: true });
  // As wrangler does it: modules of wasm stay imports.
  const wasm = {
    name: 'wasm',
    setup: (build) =>
      build.onResolve({ filter: /\.wasm$/ }, ({ path }) => ({ path: `./${basename(path)}`, external: true })),
  };
  await esbuilt(source('worker.mjs', worker), join(out, 'worker.mjs'), {
    conditions: ['workerd', 'worker', 'browser'],
    plugins: [wasm],
  });
  const { Miniflare } = await load('miniflare');
  const miniflare = new Miniflare({
    compatibilityDate: '2025-09-01',
    modules: [
      { type: 'ESModule', path: 'worker.mjs', contents: readFileSync(join(out, 'worker.mjs'), 'utf8') },
      ...MODULES.map((path) => ({ type: 'CompiledWasm', path, contents: readFileSync(join(sdk, 'dist', path)) })),
    ],
  });
  try {
    return await (await miniflare.dispatchFetch('http://localhost/')).text();
  } finally {
    await miniflare.dispose();
  }
}

async function inDeno() {
  const deno = async (name, text, ...permissions) => {
    const options = [
      '--no-prompt',
      '--cached-only',
      '--node-modules-dir=manual',
      '--allow-net=127.0.0.1',
      ...permissions,
    ];
    return JSON.parse(await run(tool('deno'), ['run', ...options, source(name, text)]));
  };
  const plain = await deno('deno.mjs', `${IMPORTS}console.log(await ${SMOKE});\n`);
  // The AI SDK reads the name of the computer when it is loaded.
  const client = `new sdk.ActPass({ apiKey: 'apk_dev', baseUrl: '${gateways.real}' })`;
  const main = `${WITH_ADAPTER}console.log(JSON.stringify(await smokeAi(${client})));\n`;
  return JSON.stringify({ ...plain, adapter: await deno('deno-ai.mjs', main, '--allow-sys', '--allow-env') });
}

async function inBun() {
  return run(tool('bun'), [source('bun.mjs', MAIN)], { ACTPASS_ENGINE: 'wasm' });
}

async function inEdgeRuntime() {
  const globalOf = (path) => `wasm_${/([\w-]+)\.wasm/.exec(path)[1].replace('-', '_')}`;
  // As Next.js does it: `?module` is a compiled module among the globals.
  const wasm = {
    name: 'wasm',
    setup: (build) => {
      build.onResolve({ filter: /\.wasm\?module$/ }, ({ path }) => ({ path: globalOf(path), namespace: 'wasm' }));
      build.onLoad({ filter: /.*/, namespace: 'wasm' }, ({ path }) => ({ contents: `export default ${path};` }));
    },
  };
  const entry = source(
    'edge.mjs',
    `${WITH_ADAPTER}addEventListener('fetch', (event) => event.respondWith(${SMOKE_ADAPTER}.then((text) => new Response(text))));\n`,
  );
  const out = await esbuilt(entry, join(FOLDER, 'edge-runtime', 'edge.js'), {
    format: 'iife',
    conditions: ['edge-light', 'worker', 'browser'],
    plugins: [wasm],
  });
  const { EdgeRuntime } = await load('edge-runtime');
  const module = (name) => new WebAssembly.Module(readFileSync(join(sdk, 'dist', name)));
  const modules = Object.fromEntries(MODULES.map((name) => [globalOf(name), module(name)]));
  const runtime = new EdgeRuntime({ extend: (context) => Object.assign(context, modules) });
  runtime.evaluate(readFileSync(out, 'utf8'));
  return (await runtime.dispatchFetch('http://localhost/')).text();
}

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

/** Runs a bundle in Chromium, in a page whose origin is the server of the bundle. */
async function inChromium(folder, script) {
  const { default: puppeteer } = await import(pathToFileURL(require.resolve('puppeteer-core')));
  const server = createServer((request, response) => {
    const name = new URL(request.url, 'http://localhost').pathname.slice(1);
    const isScript = name !== '' && existsSync(join(folder, name));
    response.writeHead(isScript || name === '' ? 200 : 404, {
      'content-type': isScript ? 'text/javascript' : 'text/html',
    });
    response.end(isScript ? readFileSync(join(folder, name)) : '<!doctype html><title>smoke</title>');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // As the page of an extension with permissions for the gateway's host: requests need no CORS.
  const args = ['--no-sandbox', '--disable-web-security', '--disable-dev-shm-usage'];
  const browser = await puppeteer.launch({ executablePath: CHROMIUM, args, headless: true, protocolTimeout: LONGEST });
  try {
    const page = await browser.newPage();
    const problems = [];
    page.on('pageerror', (error) => problems.push(`${error.message}`));
    page.on('console', (message) => problems.push(message.text()));
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    await page.addScriptTag({ url: `/${script}`, type: 'module' });
    try {
      await page.waitForFunction('globalThis.done !== undefined', { timeout: LONGEST });
    } catch (error) {
      throw new Error(`${error.message}; the page said: ${problems.join('; ')}`);
    }
    return await page.evaluate('globalThis.done');
  } finally {
    await browser.close();
    server.close();
  }
}

const DONE = '.then((text) => { globalThis.done = text; }, (error) => { globalThis.done = String(error.stack); });\n';

function bundled(name, bundle, page = IMPORTS + SMOKE) {
  return async () => {
    const out = join(FOLDER, `out-${name}`);
    rmSync(out, { recursive: true, force: true });
    await bundle(source(`page-${name}.mjs`, page + DONE), out);
    const { size } = { size: readFileSync(join(out, 'main.js')).length };
    console.log(`  the bundle of ${name} has ${Math.round(size / 1024)} KiB`);
    return inChromium(out, 'main.js');
  };
}

const withWebpack = bundled('webpack', async (entry, path) => {
  const { default: webpack } = await import(pathToFileURL(require.resolve('webpack')));
  const compiler = webpack({
    entry,
    mode: 'production',
    target: 'web',
    experiments: { outputModule: true },
    output: { path, filename: 'main.js', module: true },
    performance: { hints: false },
  });
  const stats = await promisify(compiler.run.bind(compiler))();
  assert.ok(!stats.hasErrors() && !stats.hasWarnings(), stats.toString());
});
const withEsbuild = bundled(
  'esbuild',
  (entry, out) => esbuilt(entry, join(out, 'main.js'), { platform: 'browser', minify: true }),
  WITH_ADAPTER + SMOKE_ADAPTER,
);
const withVite = bundled('vite', async (entry, outDir) => {
  const { build } = await import(pathToFileURL(join(FOLDER, 'node_modules', 'vite', 'dist', 'node', 'index.js')));
  await build({
    root: FOLDER,
    configFile: false,
    logLevel: 'error',
    build: { outDir, emptyOutDir: false, rollupOptions: { input: entry, output: { entryFileNames: 'main.js' } } },
  });
});
const withRollup = bundled('rollup', async (entry, out) => {
  const { rollup } = await import(pathToFileURL(join(FOLDER, 'node_modules', 'rollup', 'dist', 'es', 'rollup.js')));
  const { nodeResolve } = await import(
    pathToFileURL(join(FOLDER, 'node_modules', '@rollup', 'plugin-node-resolve', 'dist', 'es', 'index.js'))
  );
  const bundle = await rollup({ input: entry, plugins: [nodeResolve({ browser: true })] });
  await bundle.write({ file: join(out, 'main.js'), format: 'es' });
  await bundle.close();
});

const HOSTS = {
  'Node with ACTPASS_ENGINE=wasm': inNode,
  workerd: inWorkerd,
  Deno: inDeno,
  'Bun with ACTPASS_ENGINE=wasm': inBun,
  'edge-runtime': inEdgeRuntime,
  'Chromium, webpack': withWebpack,
  'Chromium, esbuild': withEsbuild,
  'Chromium, Vite': withVite,
  'Chromium, Rollup': withRollup,
};

/** Each bundles for the same browser as esbuild. */
const WITHOUT_ADAPTER = ['Chromium, webpack', 'Chromium, Vite', 'Chromium, Rollup'];

let failed = 0;
try {
  for (const [name, host] of Object.entries(HOSTS)) {
    if (names.length > 0 && !names.some((part) => name.includes(part))) {
      continue;
    }
    if (name.startsWith('Chromium') && CHROMIUM === undefined) {
      console.log(`SKIPPED: ${name}: no Chromium`);
      failed += process.env.CI === 'true' ? 1 : 0;
      continue;
    }
    try {
      const text = await host();
      const result = JSON.parse(text.startsWith('{') ? text : JSON.stringify({ failed: text }));
      assert.match(`${result.hash}`, /^[0-9a-f]{64}$/, text);
      const { adapter, ...others } = result;
      assert.deepEqual({ ...others, hash: '' }, EXPECTED);
      assert.deepEqual(adapter, WITHOUT_ADAPTER.includes(name) ? undefined : ADAPTER);
      console.log(`passed: ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED: ${name}: ${error.stack ?? error} ${error.stderr ?? ''}`);
    }
  }
} finally {
  for (const child of children) {
    child.kill();
  }
  rmSync(data, { recursive: true, force: true });
}
process.exit(failed > 0 ? 1 : 0);
