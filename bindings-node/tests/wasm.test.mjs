/** The engine in wasm, in Node: refused settings and panics. */

import './wasm-engine.mjs';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, mock, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { ActPass, ActPassConfigError, ActPassInternalError, hashPayload, signPayload } from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  answer,
  Hostile,
  newClient,
  PACKAGE,
  VECTORS,
  rejection,
  run,
  runModule,
  withGateway,
} from './support.mjs';
import { instances } from './wasm-engine.mjs';

const { native } = createRequire(import.meta.url)('../dist/native.js');
const hostile = new Hostile();
/** A body in chunks without an end. */
const ENDLESS = JSON.parse(readFileSync(join(VECTORS, 'failures', 'invalid_over_1_mib_endless.json'), 'utf8')).gateway
  .steps[0];
const refund = { ...ACTION, args: { amount: 4900, currency: 'usd' } };

test('the engine is readable', () => {
  assert.equal(newClient('http://127.0.0.1:9').engine, 'wasm');
});

test('the module imports functions of its host only, and compresses to 350 KB', () => {
  const bytes = readFileSync(join(PACKAGE, 'dist', 'actpass.wasm'));
  const imports = WebAssembly.Module.imports(new WebAssembly.Module(bytes));
  const expected = 'abort fetch monotonic panicked random start_timer stop_timer wall_clock';
  assert.equal(
    imports
      .map(({ name }) => name)
      .sort()
      .join(' '),
    expected,
  );
  assert.ok(imports.every(({ module, kind }) => module === 'host' && kind === 'function'));
  const { length } = gzipSync(bytes, { level: 9 });
  assert.ok(length <= 350_000, `${length} bytes`);
  // No paths of the machine that built it.
  assert.ok(!bytes.includes(join(PACKAGE, '..')));
});

test('hashes as the native module does', () => {
  const payload = { b: [1, 2.5, 'é'], a: null };
  const expected = createHash('sha256').update('{"a":null,"b":[1,2.5,"é"]}').digest('hex');
  assert.equal(hashPayload(payload), expected);
  assert.match(signPayload('key', payload), /^[0-9a-f]{64}$/);
  assert.throws(() => hashPayload({ a: 2 ** 53 }), /payload\.a: /);
});

describe('against the hostile gateway', () => {
  const guarded = async (script, settings = {}, action = {}) => {
    let runs = 0;
    return hostile.play(script, async ({ baseUrl, seen, otherSeen }) => {
      const execute = () => {
        runs += 1;
        return 're_1';
      };
      const outcome = await newClient(baseUrl, settings).guard({ ...refund, execute, ...action });
      assert.equal(runs, outcome.executed ? 1 : 0);
      return { outcome, requests: await seen(), others: await otherSeen() };
    });
  };

  test('an allow runs once', async () => {
    const { outcome, requests } = await guarded([answer(ALLOW)]);
    assert.deepEqual([outcome.kind, outcome.result, requests.length], ['returned', 're_1', 1]);
    const headers = Object.fromEntries(requests[0].headers);
    assert.match(headers['user-agent'], /^actpass-node\//);
    assert.equal(headers['content-type'], 'application/json');
  });

  test('a deny runs nothing', async () => {
    const { outcome } = await guarded([answer({ decision: 'deny', reason_code: 'refund.over_limit' })]);
    assert.equal(outcome.decision.reason_code, 'refund.over_limit');
  });

  test('a redirect is not followed', async () => {
    const { outcome, others } = await guarded([{ do: 'redirect', status: 307 }]);
    assert.equal(outcome.error.status, 307);
    assert.deepEqual([outcome.executed, outcome.decision.reason_code, others], [false, 'actpass.gateway_error', []]);
  });

  test('a hanging body ends at the deadline, and the connection is closed', async () => {
    const server = createServer((request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).write('{"decision":');
      server.emit('hanging', response);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const hanging = once(server, 'hanging');
    const actpass = newClient(`http://127.0.0.1:${server.address().port}`, { timeoutMs: 300 });
    const outcome = await actpass.guard({ ...refund, execute: assert.fail });
    assert.equal(outcome.decision.reason_code, 'actpass.timeout');
    const [response] = await hanging;
    if (!response.closed) {
      await once(response, 'close');
    }
    server.close();
  });

  test('a body over 1 MiB is not read to its end', async () => {
    const body = { text: '0123456789abcdef', times: 131_072 };
    for (const step of [{ do: 'respond', status: 200, body_repeat: body }, ENDLESS]) {
      const { outcome } = await guarded([step]);
      assert.equal(outcome.decision.reason_code, 'actpass.invalid_response');
      assert.match(outcome.error.message, /larger than 1048576 bytes/);
    }
  });

  test('an aborted call ends with the reason and runs nothing', () =>
    hostile.play([{ do: 'hang', at: 'request' }], async ({ baseUrl, seen }) => {
      const controller = new AbortController();
      const ended = rejection(newClient(baseUrl).guard({ ...refund, execute: assert.fail, signal: controller.signal }));
      while ((await seen()).length === 0);
      controller.abort(new Error('enough'));
      assert.equal((await ended).message, 'enough');
    }));
});

test(
  'an approved action runs once, and an offline verification accepts its passport',
  { skip: !process.env.ACTPASS_GATEWAY },
  () =>
    withGateway(async (gateway) => {
      const baseUrl = typeof gateway === 'string' ? gateway : gateway.baseUrl;
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl });
      const action = { ...refund, args: { amount: 25_000, currency: 'usd' } };
      const blocked = await actpass.guard({ ...action, execute: assert.fail });
      assert.equal(blocked.decision.decision, 'require_approval');
      const path = `/api/v1/approvals/${blocked.approval.approval_request_id}/approve`;
      const headers = { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' };
      assert.ok((await fetch(baseUrl + path, { method: 'POST', headers, body: '{}' })).ok);
      const outcome = await actpass.resume(blocked.approval, { execute: () => 're_2' });
      assert.equal(outcome.result, 're_2');
      const audience = 'mcp://tests';
      const issued = await actpass.issuePassport({ audience, goal: 'g', allowedTools: ['stripe.refund.create'] });
      const verified = await actpass.verifyPassportOffline({ token: issued.token, audience });
      assert.deepEqual([verified.valid, verified.errors], [true, []]);
      const forged = await actpass.verifyPassportOffline({ token: issued.token, audience: 'mcp://others' });
      assert.equal(forged.valid, false);
    }),
);

describe('the constructor refuses what fetch cannot give', () => {
  for (const [member, value] of Object.entries({ ca: 'any', connectTimeoutMs: 100 })) {
    test(member, () => {
      const make = () => newClient('http://127.0.0.1:9', { [member]: value });
      assert.throws(make, ActPassConfigError);
      assert.throws(make, { message: new RegExp(`^${member}: the engine is wasm, which sends with the host's fetch`) });
    });
  }

  test('a proxy that fetch ignores', async () => {
    const code = `
      import { ActPass } from '@actpass/sdk';
      for (const baseUrl of ['https://gateway.example', 'https://inside.example', 'http://127.0.0.1:9']) {
        try { new ActPass({ apiKey: 'apk_dev', baseUrl }); console.log('made'); } catch (error) { console.log(error.message); }
      }`;
    const env = {
      HTTPS_PROXY: 'http://127.0.0.1:9',
      NO_PROXY: 'inside.example',
      https_proxy: '',
      NODE_USE_ENV_PROXY: '',
    };
    const { stdout } = await runModule(code, { env });
    const [refused, ...others] = stdout.trim().split('\n');
    assert.match(refused, /^HTTPS_PROXY: the engine is wasm, /);
    assert.deepEqual(others, ['made', 'made']);
  });

  test('an unknown engine, and the native one where only wasm is', async () => {
    const code = "import { ActPass } from '@actpass/sdk'; console.log(new ActPass({ apiKey: 'apk_dev' }).engine);";
    const { stderr } = await runModule(code, { env: { ACTPASS_ENGINE: 'fast' } });
    assert.match(stderr, /ACTPASS_ENGINE: expected native or wasm, found "fast"/);
    const edge = `import { ActPass } from ${JSON.stringify(`file://${join(PACKAGE, 'dist', 'edge', 'index.js')}`)}; console.log(ActPass.name);`;
    const refused = await runModule(edge, { env: { ACTPASS_ENGINE: 'native' } });
    assert.match(refused.stderr, /ACTPASS_ENGINE: expected wasm, the only engine here, found "native"/);
  });
});

describe('a browser', () => {
  const inBrowser = (settings) => `
    delete globalThis.process;
    Object.assign(globalThis, { document: {} });
    const { ActPass } = await import(${JSON.stringify(`file://${join(PACKAGE, 'dist', 'edge', 'index.js')}`)});
    try { console.log(new ActPass(${JSON.stringify({ apiKey: 'apk_dev', ...settings })}).engine); }
    catch (error) { console.log(error.name, error.message); }`;
  for (const [settings, expected] of [
    [{}, /^ActPassConfigError dangerAllowBrowser: refused in a browser/],
    [{ dangerAllowBrowser: true }, /^wasm$/m],
    [{ dangerAllowBrowser: true, dangerAllowInsecureHttp: true }, /^ActPassConfigError dangerAllowInsecureHttp: /],
  ]) {
    test(JSON.stringify(settings), async () => {
      const { stdout, stderr } = await runModule(inBrowser(settings), { env: { ACTPASS_ENGINE: '' } });
      assert.match(stdout, expected, stderr);
    });
  }
});

describe('a panic', { skip: !native.hasTestHooks && 'this build has no test hooks' }, () => {
  test('denies every call of the instance, and the instance is replaced', () =>
    hostile.play([{ do: 'hang', at: 'request' }, answer(ALLOW)], async ({ baseUrl, seen }) => {
      const said = mock.method(console, 'error', () => {});
      const before = instances.length;
      const actpass = newClient(baseUrl);
      const pending = actpass.guard({ ...refund, execute: assert.fail });
      while ((await seen()).length === 0);
      const panicked = await actpass.guard({ ...refund, tool: 'actpass.test.panic', execute: assert.fail });
      for (const outcome of [panicked, await pending]) {
        assert.equal(outcome.kind, 'blocked');
        assert.equal(outcome.decision.reason_code, 'actpass.internal');
        assert.ok(outcome.error instanceof ActPassInternalError);
      }
      assert.equal(instances.length, before + 1);
      assert.equal(said.mock.callCount(), 1);
      assert.match(
        said.mock.calls[0].arguments[0],
        /the engine panicked at .*its calls are denied, and it was replaced/,
      );
      const next = await actpass.guard({ ...refund, execute: () => 're_1' });
      assert.equal(next.result, 're_1');
      said.mock.restore();
    }));

  test('runs the action in monitor', async () => {
    const said = mock.method(console, 'error', () => {});
    const actpass = newClient('http://127.0.0.1:9');
    const action = { ...refund, tool: 'actpass.test.panic', mode: 'monitor' };
    const outcome = await actpass.guard({ ...action, execute: () => 're_1' });
    assert.deepEqual([outcome.result, outcome.error.code], ['re_1', 'actpass.internal']);
    said.mock.restore();
  });

  test('voids a permit, and keeps the result of a running action', () =>
    hostile.play([answer(ALLOW), answer(ALLOW)], async ({ baseUrl }) => {
      const said = mock.method(console, 'error', () => {});
      const actpass = newClient(baseUrl);
      const permit = await actpass.authorize(refund);
      const outcome = await actpass.guard({
        ...refund,
        execute: async () => {
          await actpass.guard({ ...refund, tool: 'actpass.test.panic', execute: assert.fail });
          return 're_1';
        },
      });
      assert.deepEqual([outcome.executed, outcome.result], [true, 're_1']);
      assert.throws(() => permit.spend(), ActPassInternalError);
      said.mock.restore();
    }));

  test('in a conversion is an error, and nothing runs', async () => {
    const said = mock.method(console, 'error', () => {});
    const actpass = newClient('http://127.0.0.1:9');
    const error = await rejection(
      actpass.guard({ ...refund, tool: 'actpass.test.panic_in_conversion', execute: assert.fail }),
    );
    assert.ok(error instanceof ActPassInternalError, `${error}`);
    assert.equal(actpass.circuit, 'closed');
    said.mock.restore();
  });
});

test('the package falls back to wasm where no addon loads, and logs it once', async () => {
  assert.ok(existsSync(join(PACKAGE, 'dist', 'actpass.wasm')));
  const code = `
    import { ActPass } from '@actpass/sdk';
    const lines = [];
    const log = (line) => lines.push(line);
    const logger = { error: log, warn: log, info: log, debug: log };
    const engines = [1, 2].map(() => new ActPass({ apiKey: 'apk_dev', logger }).engine);
    console.log(JSON.stringify({ engines, lines }));`;
  const { stdout, stderr } = await run(process.execPath, ['--no-addons', '--input-type=module', '-e', code], {
    env: { ACTPASS_ENGINE: '' },
  });
  const { engines, lines } = JSON.parse(stdout || `{"engines":[],"lines":[${JSON.stringify(stderr)}]}`);
  assert.deepEqual(engines, ['wasm', 'wasm'], lines[0]);
  assert.equal(lines.length, 1);
  assert.match(lines[0], /^actpass: the engine is wasm: cannot load the native module of @actpass\/sdk: /);
});
