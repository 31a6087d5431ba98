/** Errors and values across realms: `node:vm` contexts (as in Jest), threads, and copies of the package. */

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import vm from 'node:vm';
import { Worker } from 'node:worker_threads';
import * as sdk from '@actpass/sdk';
import { readFileSync } from 'node:fs';
import { ACTION, ALLOW, answer, Hostile, newClient, PACKAGE } from './support.mjs';

const hostile = new Hostile();
const require = createRequire(import.meta.url);

/** Loads the package into a separate realm, like Jest: only its own modules run there, not Node's and the addon. */
function inContext() {
  const context = vm.createContext({
    ...Object.fromEntries(
      ['AbortController', 'AbortSignal', 'Buffer', 'console', 'performance', 'process'].map((name) => [
        name,
        globalThis[name],
      ]),
    ),
    ...Object.fromEntries(
      ['setImmediate', 'setTimeout', 'structuredClone', 'URL'].map((name) => [name, globalThis[name]]),
    ),
  });
  const loaded = new Map();
  const load = (path) => {
    if (path.endsWith('.node')) {
      return require(path);
    }
    if (!loaded.has(path)) {
      const module = { exports: {} };
      loaded.set(path, module);
      const wrapper = vm.runInContext(
        `(function (exports, require, module, __filename, __dirname) {${readFileSync(path, 'utf8')}\n})`,
        context,
        { filename: path },
      );
      const of = createRequire(path);
      const required = Object.assign((name) => (isBuiltin(name) ? require(name) : load(of.resolve(name))), {
        resolve: of.resolve,
      });
      wrapper(module.exports, required, module, path, dirname(path));
    }
    return loaded.get(path).exports;
  };
  context.sdk = load(join(PACKAGE, 'dist', 'index.js'));
  context.ACTION = ACTION;
  return (code) => vm.runInContext(code, context);
}

describe('another realm', () => {
  const evaluate = inContext();

  test('has its own error classes for errors of the native module', () => {
    const error = evaluate(`(() => { try { new sdk.ActPass({ apiKey: '' }) } catch (error) { return error } })()`);
    assert.ok(!(error instanceof Error), 'the error belongs to the main realm');
    assert.equal(error.name, 'ActPassConfigError');
    assert.equal(error.message, 'apiKey: expected a key, found an empty string');
    assert.equal(error.code, 'actpass.invalid_config');
    assert.ok(evaluate('(error) => error instanceof sdk.ActPassConfigError && error instanceof Error')(error));
    const hashed = evaluate(`(() => { try { sdk.hashPayload(2 ** 60) } catch (error) { return error } })()`);
    assert.match(`${hashed.name}: ${hashed.message}`, /^ActPassArgumentError: payload: the integer /);
  });

  test('throws errors that instanceof recognizes in the main realm', () => {
    const error = evaluate(`(() => { try { new sdk.ActPass({ apiKey: '' }) } catch (error) { return error } })()`);
    assert.ok(error instanceof sdk.ActPassError && error instanceof sdk.ActPassConfigError);
    assert.ok(!(error instanceof sdk.ActPassArgumentError) && !(error instanceof sdk.ActPassTimeoutError));
    class Ours extends sdk.ActPassConfigError {}
    assert.ok(!(error instanceof Ours));
    assert.ok(new Ours('x') instanceof Ours && new Ours('x') instanceof sdk.ActPassError);
    for (const other of [
      null,
      undefined,
      7,
      'x',
      {},
      new Error('x'),
      new Proxy(
        {},
        {
          getPrototypeOf: () => {
            throw 1;
          },
        },
      ),
    ]) {
      assert.ok(!isError(other));
    }
  });

  const isError = (value) => {
    try {
      return value instanceof sdk.ActPassError;
    } catch {
      return false;
    }
  };

  test('accepts literals and dates of either realm, and keeps thrown errors the same', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const outcome = await evaluate(`async (baseUrl, value) => {
        const actpass = new sdk.ActPass({ apiKey: 'apk_dev', baseUrl, ca: undefined });
        const own = new TypeError('own');
        const threw = await actpass.guard({ ...ACTION, args: { at: new Date(0), value }, execute: () => { throw own } });
        const returned = await actpass.guard({ ...ACTION, args: { list: [{ a: 1 }] }, execute: () => value });
        return { threw, isSame: threw.error === own, returned, value };
      }`)(baseUrl, { literal: [new Date(0)] });
      assert.deepEqual([outcome.threw.kind, outcome.isSame], ['failed', true]);
      assert.equal(outcome.returned.result, outcome.value);
    }));

  test('names invalid values of another realm', async () => {
    const actpass = newClient('http://127.0.0.1:9');
    for (const [code, message] of [
      ['({ at: new Date(NaN) })', /args\.at: .*found an invalid Date; /],
      ['({ a: new Map() })', /args\.a: .*found an instance of Map; pass Object\.fromEntries/],
      ['({ a: new Set() })', /args\.a: .*found an instance of Set; pass \[\.\.\.set\]/],
      ['({ a: new Uint8Array(1) })', /args\.a: .*found an instance of Uint8Array; /],
      ['({ a: Promise.resolve(1) })', /args\.a: .*found an instance of Promise; await/],
      ['({ a: new (class Order {})() })', /args\.a: .*found an instance of Order; /],
      ['({ a: [, 1] })', /args\.a\[0\]: .*found undefined; /],
    ]) {
      await assert.rejects(actpass.preflight({ ...ACTION, args: vm.runInNewContext(code) }), message);
    }
    const ca = vm.runInNewContext('new Uint8Array([45, 45])');
    assert.throws(
      () => newClient('http://127.0.0.1:9', { ca }),
      /^ActPassConfigError: ca: expected certificates in PEM/,
    );
  });

  test('passes arguments that protected functions copy', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const given = vm.runInNewContext(
        '({ list: [1], at: new Date(5), byId: new Map([["a", [1]]]), tags: new Set([1]) })',
      );
      const options = { tool: 't', goal: 'g', args: ({ list }) => ({ list }) };
      const ran = await newClient(baseUrl).protect(async (value) => value, options)(given);
      assert.deepEqual([ran.list, ran.at.getTime(), ran.byId.get('a'), [...ran.tags]], [[1], 5, [1], [1]]);
      for (const name of ['list', 'at', 'byId', 'tags']) {
        assert.notEqual(ran[name], given[name]);
      }
    }));

  test('accepts an abort signal that is not an AbortSignal instance', () =>
    hostile.play([{ do: 'hang', at: 'request' }], async ({ baseUrl, seen }) => {
      const listeners = new Set();
      const signal = {
        aborted: false,
        reason: undefined,
        addEventListener: (_, listener) => listeners.add(listener),
        removeEventListener: (_, listener) => listeners.delete(listener),
      };
      const call = newClient(baseUrl).preflight({ ...ACTION, signal });
      while ((await seen()).length === 0);
      Object.assign(signal, { aborted: true, reason: 'left' });
      [...listeners].forEach((listener) => listener());
      assert.equal(await call.catch((reason) => reason), 'left');
    }));
});

test('a worker has typed errors of its native module', async () => {
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
    const sdk = require(${JSON.stringify(join(PACKAGE, 'dist', 'index.js'))});
    const named = (call) => { try { call() } catch (error) {
      return [error instanceof sdk.ActPassError, error.name, error.code, error.message];
    } };
    parentPort.postMessage([
      named(() => new sdk.ActPass({ apiKey: '' })),
      named(() => sdk.hashPayload(2 ** 60)),
      named(() => sdk.canonicalOutcome({ executed: true, decision: {} })),
    ]);`,
    { eval: true },
  );
  const [config, hash, outcome] = await new Promise((resolve, reject) => {
    worker.once('message', resolve).once('error', reject);
  });
  assert.deepEqual(config.slice(0, 3), [true, 'ActPassConfigError', 'actpass.invalid_config']);
  assert.deepEqual(hash.slice(0, 3), [true, 'ActPassArgumentError', 'actpass.invalid_argument']);
  assert.deepEqual(outcome.slice(0, 2), [true, 'ActPassArgumentError']);
  await worker.terminate();
});

describe('a second copy of the package', () => {
  let folder;
  let copy;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'actpass-copy-'));
    cpSync(join(PACKAGE, 'dist'), join(folder, 'dist'), { recursive: true });
    cpSync(join(PACKAGE, 'package.json'), join(folder, 'package.json'));
    copy = createRequire(join(folder, 'x.js'))('./dist/index.js');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('has other error classes, which instanceof recognizes in both directions', async () => {
    assert.notEqual(copy.ActPassError, sdk.ActPassError);
    const theirs = await new copy.ActPass({ apiKey: 'apk_dev' }).preflight({ goal: '' }).catch((error) => error);
    assert.ok(theirs instanceof sdk.ActPassArgumentError && theirs instanceof sdk.ActPassConfigError);
    assert.ok(!(theirs instanceof sdk.ActPassStatusError));
    const ours = await newClient('http://127.0.0.1:9')
      .preflight({ goal: '' })
      .catch((error) => error);
    assert.ok(ours instanceof copy.ActPassArgumentError && !(ours instanceof copy.ActionBlockedError));
  });

  test('serializes outcomes of both copies equally', () =>
    hostile.play([answer({ decision: 'deny', reason_code: 'x' })], async ({ baseUrl }) => {
      const action = { ...ACTION, execute: () => assert.fail('it ran') };
      const theirs = await new copy.ActPass({ apiKey: 'apk_dev', baseUrl }).guard(action);
      const ours = await newClient(baseUrl).guard(action);
      assert.equal(sdk.canonicalOutcome(theirs), copy.canonicalOutcome(ours));
      assert.throws(theirs.unwrap, (error) => error instanceof sdk.ActionBlockedError);
    }));
});
