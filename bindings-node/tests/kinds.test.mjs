/** Kinds and members of an outcome, `unwrap`, and the documentation page of both. */

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { inspect } from 'node:util';
import { ActionBlockedError, ActPassConnectionError, ActPassError } from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  answer,
  CREDENTIAL,
  Hostile,
  newClient,
  PACKAGE,
  pageSnippets,
  rejection,
  run,
  withGateway,
} from './support.mjs';

const hostile = new Hostile();
const own = new Error('the card is closed');
const HELD = { decision: 'require_approval', reason_code: 'refund.medium', approval_request_id: 'apr_1' };

describe('kind', () => {
  const cases = {
    returned: [answer(ALLOW), {}, () => 're_1'],
    failed: [answer(ALLOW), {}, () => Promise.reject(own)],
    blocked: [answer(HELD), {}, () => assert.fail('it ran')],
  };
  for (const [kind, [step, options, execute]] of Object.entries(cases)) {
    test(`${kind}: every documented member can be destructured`, () =>
      hostile.play([step], async ({ baseUrl }) => {
        const outcome = await newClient(baseUrl).guard({ ...ACTION, ...options, execute });
        const { decision, result, error, executed, approval, evidence, evidenceError, unwrap } = outcome;
        assert.equal(outcome.kind, kind);
        assert.equal(executed, kind !== 'blocked');
        assert.equal(decision.decision, kind === 'blocked' ? 'require_approval' : 'allow');
        assert.equal(result, kind === 'returned' ? 're_1' : undefined);
        assert.equal(error, kind === 'failed' ? own : undefined);
        assert.equal(approval?.approval_request_id, kind === 'blocked' ? 'apr_1' : undefined);
        assert.deepEqual([evidence, evidenceError], [undefined, undefined]);
        assert.equal(typeof unwrap, 'function');
        assert.ok(!Object.keys(outcome).includes('unwrap') && !inspect(outcome).includes('unwrap'));
        assert.deepEqual(structuredClone(JSON.parse(JSON.stringify(outcome))).kind, kind);
      }));
  }

  test('returned: includes the error of a failed gate in monitor', () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, mode: 'monitor', execute: () => 'ran' });
      assert.deepEqual([outcome.kind, outcome.result], ['returned', 'ran']);
      assert.ok(outcome.error instanceof ActPassConnectionError);
      assert.equal(outcome.unwrap(), 'ran');
    }));

  test('failed: replaces an undefined reason; other falsy reasons stay unchanged', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const nothing = [
        () => Promise.reject(),
        () => {
          throw undefined;
        },
        async () => {
          await null;
          throw undefined;
        },
        () => ({ then: (_, reject) => reject() }),
      ];
      for (const execute of nothing) {
        const outcome = await actpass.guard({ ...ACTION, execute });
        assert.equal(outcome.kind, 'failed');
        assert.ok(!('result' in outcome));
        assert.ok(outcome.error instanceof Error && !(outcome.error instanceof ActPassError));
        assert.equal(outcome.error.message, 'execute threw undefined, so the cause is unknown');
        assert.throws(outcome.unwrap, (error) => error === outcome.error);
      }
      for (const value of [null, false, 0, '', Number.NaN]) {
        const outcome = await actpass.guard({ ...ACTION, execute: () => Promise.reject(value) });
        assert.equal(outcome.kind, 'failed');
        assert.ok(Object.is(outcome.error, value));
      }
    }));
});

describe('unwrap', () => {
  test('returns the same value', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      for (const value of [{}, undefined, null, () => 1]) {
        const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => value });
        assert.equal(outcome.unwrap(), value);
      }
    }));

  test('throws the same error', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      for (const value of [own, 'text', null, 7]) {
        const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => Promise.reject(value) });
        assert.throws(outcome.unwrap, (error) => error === value);
      }
    }));

  test('throws an ActionBlockedError with all members of the block', () =>
    hostile.play([answer(HELD)], async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => assert.fail('it ran') });
      const error = await rejection((async () => outcome.unwrap())());
      assert.ok(error instanceof ActionBlockedError);
      assert.deepEqual([error.code, error.kind, error.operation], ['refund.medium', 'blocked', 'guard']);
      assert.deepEqual([error.tool, error.approval, error.decision], [ACTION.tool, outcome.approval, outcome.decision]);
      const resumed = await newClient(baseUrl).resume(outcome.approval, { execute: () => assert.fail('it ran') });
      assert.throws(resumed.unwrap, (blocked) => blocked.tool === ACTION.tool && blocked.operation === 'resume');
    }));

  test('throws an ActionBlockedError whose cause is the gate error', () =>
    hostile.play([answer({}, { status: 503 })], async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => assert.fail('it ran') });
      assert.throws(outcome.unwrap, (error) => {
        assert.deepEqual([error.code, error.status, error.retryable], ['actpass.gateway_error', 503, true]);
        return error.cause === outcome.error;
      });
    }));

  test('throws an error whose JSON has its message, its members and its cause', () =>
    hostile.play([answer({}, { status: 503, headers: { 'x-request-id': 'req_1' } })], async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => assert.fail('it ran') });
      const error = await rejection((async () => outcome.unwrap())());
      const { decision, cause, developerText, ...members } = JSON.parse(JSON.stringify(error));
      assert.deepEqual([decision, developerText], [outcome.decision, error.developerText]);
      assert.deepEqual(members, {
        name: 'ActionBlockedError',
        message: error.message,
        code: 'actpass.gateway_error',
        kind: 'blocked',
        status: 503,
        body: '{}',
        operation: 'guard',
        requestId: 'req_1',
        retryable: true,
        tool: ACTION.tool,
      });
      assert.deepEqual([cause.name, cause.message], ['ActPassStatusError', outcome.error.message]);
      assert.equal(JSON.parse(JSON.stringify(outcome)).error.message, outcome.error.message);
    }));

  test('shows no credential', () =>
    hostile.play([answer({ ...HELD, credential: { token: CREDENTIAL } })], async ({ baseUrl }) => {
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute: () => assert.fail('it ran') });
      assert.throws(outcome.unwrap, (error) => !inspect(error, { depth: 9, showHidden: true }).includes('_secret'));
    }));
});

describe('the documentation page', () => {
  const { setup, guard, preflight, passports } = pageSnippets();
  /** The page with the declarations that it assumes. */
  const program = `${setup}
declare global { var said: unknown[]; }
globalThis.said = [];
const stripe = { refunds: { create: async (refund: { charge: string; amount: number }) => ({ id: 're_1', ...refund }) } };
const notify = async (text: string) => { said.push(['notify', text]); };
const log = { warn: (...given: unknown[]) => { said.push(['warn', ...given]); } };
async function guard() {
${guard}
}
async function preflight() {
${preflight}
return [d.decision, d.reason_code, d.risk_tier, d.explain.matched_rules] as const;
}
async function passports() {
${passports}
}
const end = async (call: () => Promise<unknown>) => {
  try { return await call(); } catch (error) { return \`\${error}\`; }
};
console.log(JSON.stringify({ guard: await end(guard), preflight: await end(preflight), passports: await end(passports), said }));
`;
  const compilers = { newest: 'typescript', 5.9: 'typescript-5.9', 5.2: 'typescript-5.2' };
  let folder;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'actpass-page-'));
    mkdirSync(join(folder, 'node_modules', '@actpass'), { recursive: true });
    symlinkSync(PACKAGE, join(folder, 'node_modules', '@actpass', 'sdk'));
    for (const name of ['@types', 'undici-types']) {
      symlinkSync(join(PACKAGE, 'node_modules', name), join(folder, 'node_modules', name));
    }
    writeFileSync(join(folder, 'package.json'), '{"type": "module"}');
    writeFileSync(join(folder, 'page.ts'), program);
    for (const file of ['good', 'bad']) {
      cpSync(join(PACKAGE, 'tests', 'types', `${file}.ts`), join(folder, `${file}.ts`));
    }
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  for (const [version, name] of Object.entries(compilers)) {
    const tsc = join(createRequire(import.meta.url).resolve(`${name}/package.json`), '..', 'bin', 'tsc');
    const flags = ['--strict', '--target', 'es2022', '--module', 'nodenext', '--types', 'node', '--preserveSymlinks'];
    const compile = async (...given) => {
      const done = await run(process.execPath, [tsc, ...flags, ...given], { cwd: folder, timeout: 240_000 });
      assert.deepEqual([done.code, done.stdout], [0, '']);
    };
    test(`compiles under --strict with TypeScript ${version}`, () => compile('page.ts'));
    if (name !== 'typescript') {
      // package.test.mjs compiles them with the newest version.
      test(`has type tests that compile with TypeScript ${version}`, () =>
        compile('--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--noEmit', 'good.ts', 'bad.ts'));
    }
  }

  const play = async (baseUrl) => {
    const env = { ACTPASS_API_KEY: 'apk_dev', ACTPASS_API_BASE_URL: baseUrl };
    const done = await run(process.execPath, ['page.js'], { cwd: folder, env });
    assert.deepEqual([done.code, done.stderr], [0, '']);
    return JSON.parse(done.stdout);
  };

  test('runs against the real gateway, running or stopped', () =>
    withGateway(async ({ baseUrl, stop }) => {
      const shown = await play(baseUrl);
      assert.deepEqual(shown.guard, { id: 're_1', charge: 'ch_123', amount: 4900 });
      assert.equal(shown.preflight.length, 4);
      assert.equal(typeof shown.preflight[1], 'string');
      assert.ok(Array.isArray(shown.preflight[3]));
      assert.deepEqual(shown.said, []);
      assert.equal(shown.passports, undefined);
      await stop();
      const gone = await play(baseUrl);
      assert.equal(gone.guard, undefined);
      assert.equal(gone.said[0][1], 'actpass.unreachable');
      assert.match(gone.preflight, /^ActPassConnectionError: preflight: /);
    }));

  test('handles a denial without explanation', () =>
    hostile.play([answer({ decision: 'deny' })], async ({ baseUrl }) => {
      const { guard, preflight, said } = await play(baseUrl);
      assert.equal(guard, undefined);
      assert.deepEqual(said, [['warn', 'unspecified', '']]);
      assert.deepEqual(preflight, ['deny', 'unspecified', null, []]);
    }));

  test('handles a required approval without explanation', () =>
    hostile.play([answer({ decision: 'require_approval', approval_request_id: 'apr_1' })], async ({ baseUrl }) => {
      assert.deepEqual((await play(baseUrl)).said, [['notify', 'Held for review: apr_1']]);
    }));
});
