/** The test kit: scripted and real gateways, and their reports of executions in several processes. */

import assert, { AssertionError } from 'node:assert/strict';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { ActPass, ActPassArgumentError, ActPassConfigError } from '@actpass/sdk';
import * as testing from '@actpass/sdk/testing';
import * as edge from '../dist/edge/testing.js';
import { PACKAGE, rejection, ROOT, run, runModule } from './support.mjs';

const { allow, deny, installedGateway, RealGateway, requireApproval, respond, ScriptedGateway, UnknownExecution } =
  testing;
const { unreachable, warn } = testing;
const REFUND = 'stripe.refund.create';
const action = (amount = 4900, members = {}) => ({
  goal: 'resolve_refund_request',
  tool: REFUND,
  args: { amount, currency: 'usd' },
  ...members,
});
const unknown = (call) => assert.throws(call, { code: 'ERR_ASSERTION', name: 'UnknownExecution' });
const fails = (call, message) => assert.throws(call, { code: 'ERR_ASSERTION', name: 'AssertionError', message });

/** Tests a build of the kit. Without servers and processes, the engine calls the gateway instead of `fetch`. */
function scriptedGateway({ ScriptedGateway }, hasProcesses) {
  let gateway;
  let actpass;
  let runs;
  const refund = (amount, members) =>
    actpass.guard({
      ...action(amount, members),
      execute: () => {
        runs += 1;
        return 're_1';
      },
    });

  beforeEach(async () => {
    gateway = await ScriptedGateway.start();
    actpass = gateway.client();
    runs = 0;
  });
  afterEach(() => gateway.close());

  test('denies an action without a script', async () => {
    const { kind, decision } = await refund();
    assert.deepEqual([kind, decision.decision, decision.reason_code, runs], ['blocked', 'deny', 'test.unscripted', 0]);
    gateway.assertNotExecuted();
    gateway.assertAsked(REFUND, 1);
  });

  test('answers by tool, or for every tool', async () => {
    gateway.allow(REFUND, { reasonCode: 'refund.small', credential: 'sk_test', members: { risk_tier: 'low' } });
    const outcome = await actpass.guard({ ...action(), execute: ({ credential }) => credential.token });
    assert.equal(outcome.result, 'sk_test');
    assert.deepEqual([outcome.decision.reason_code, outcome.decision.risk_tier], ['refund.small', 'low']);
    gateway.deny(undefined, { summary: 'No refunds.', nextSteps: ['Call a person.'] });
    const denied = await refund();
    assert.deepEqual([denied.decision.reason_code, runs], ['test.deny', 0]);
    assert.deepEqual(denied.decision.explain, {
      summary: 'No refunds.',
      matched_rules: [],
      next_steps: ['Call a person.'],
    });
    gateway.assertExecuted(REFUND, 1);
    assert.deepEqual(
      gateway.actions.map(({ tool, args }) => [tool, args.amount]),
      [
        [REFUND, 4900],
        [REFUND, 4900],
      ],
    );
  });

  test('warn runs in the mode warn only', async () => {
    gateway.warn();
    await refund();
    assert.deepEqual([runs, gateway.executed], [0, []]);
    await refund(1, { mode: 'warn' });
    assert.deepEqual([runs, gateway.executed], [1, [REFUND]]);
  });

  test('is unreachable, and monitor runs', async () => {
    gateway.unreachable();
    assert.equal((await refund()).decision.reason_code, 'actpass.unreachable');
    gateway.assertNotExecuted();
    await refund(1, { mode: 'monitor' });
    gateway.assertExecuted(REFUND, 1);
    await rejection(actpass.preflight(action(2, { mode: 'monitor' })));
    assert.equal(runs, 1);
    gateway.assertExecuted(REFUND, 1);
  });

  test('answers in a sequence, also with errors', async () => {
    gateway.answerNext(allow(), respond(500, {}), deny(), unreachable(), warn(), requireApproval({ id: 'apr_7' }));
    const words = [];
    for (let at = 0; at < 7; at += 1) {
      words.push((await refund(at)).decision.reason_code);
    }
    assert.deepEqual(words, [
      'test.allow',
      'actpass.gateway_error',
      'test.deny',
      'actpass.unreachable',
      'test.warn',
      'test.require_approval',
      'test.unscripted',
    ]);
    gateway.assertExecuted(REFUND, 1);
    assert.equal(runs, 1);
  });

  test('strict runs, because the decision is bound to its request', async () => {
    gateway.allow();
    await refund(1, { mode: 'strict' });
    assert.equal(runs, 1);
  });

  test('an approval allows its action once, and no other', async () => {
    gateway.requireApproval(REFUND);
    const { approval } = await refund(25_000);
    assert.equal((await refund(25_000)).approval.approval_request_id, approval.approval_request_id);
    assert.equal(gateway.approve(REFUND), approval.approval_request_id);
    const other = await actpass.guard({
      ...action(90_000, { approvalRequestId: approval.approval_request_id }),
      execute: () => assert.fail('it ran'),
    });
    assert.equal(other.decision.reason_code, 'approval.action_mismatch');
    assert.equal((await refund(25_000)).decision.reason_code, 'approval.approved');
    const spent = await actpass.resume(approval, { execute: () => assert.fail('it ran') });
    assert.equal(spent.decision.reason_code, 'approval.spent');
    assert.notEqual((await refund(25_000)).approval.approval_request_id, approval.approval_request_id);
    gateway.assertExecuted(REFUND, 1);
    assert.deepEqual(
      gateway.approvals.map(({ id, tool, status, spent: isSpent }) => [id, tool, status, isSpent]),
      [
        ['apr_1', REFUND, 'approved', true],
        ['apr_2', REFUND, 'pending', false],
      ],
    );
  });

  test('a rejected and an expired approval run nothing', async () => {
    gateway.requireApproval();
    for (const decide of ['reject', 'expire']) {
      const { approval } = await refund(25_000);
      gateway[decide](approval.approval_request_id);
      const outcome = await actpass.resume(approval, { execute: () => assert.fail('it ran') });
      assert.equal(outcome.decision.reason_code, decide === 'reject' ? 'approval.rejected' : 'approval.expired');
    }
    gateway.assertNotExecuted();
  });

  test('a guard waits for the approval, which may be decided before or during the wait', async () => {
    gateway.requireApproval(REFUND, { id: 'apr_early' });
    gateway.approve('apr_early');
    assert.equal((await refund(1, { waitForApprovalMs: 60_000 })).result, 're_1');
    const call = refund(2, { waitForApprovalMs: 60_000 });
    while (gateway.approvals.length < 2) {
      await new Promise(setImmediate);
    }
    gateway.approve('apr_early_2');
    assert.equal((await call).result, 're_1');
    gateway.assertExecuted(REFUND, 2);
  });

  test('names the approvals if the wrong one is decided', () => {
    assert.throws(
      () => gateway.approve('apr_9'),
      (error) => error instanceof ActPassArgumentError && /^approval: .*"apr_9"/.test(error.message),
    );
    assert.throws(() => gateway.approve(), /^ActPassArgumentError: approval: expected a string, found undefined/);
    assert.throws(() => gateway.allow(7), /^ActPassArgumentError: tool: expected a string, found 7/);
    assert.throws(() => gateway.allow(REFUND, { reason: 'x' }), /^ActPassArgumentError: reason: expected one of/);
    assert.throws(() => gateway.answer(respond(200, { n: Number.NaN })), /^ActPassArgumentError: answer\.n: expected/);
    assert.throws(() => gateway.answer(respond(7)), /^ActPassArgumentError: answer: expected a status/);
  });

  test('records outcomes, and issues and verifies passports', async () => {
    gateway.allow();
    assert.match((await refund(1, { recordOutcome: true })).evidence.event_id, /^ev_/);
    const { token } = await actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: [REFUND] });
    assert.equal((await actpass.verifyPassport({ token, audience: 'a' })).valid, true);
  });

  test('assertions fail if more or less ran, and name what ran', async () => {
    fails(() => gateway.assertExecuted(), /^expected an action; ran: \[\]$/);
    fails(() => gateway.assertAsked(REFUND), /^expected stripe\.refund\.create; received: \[\]$/);
    gateway.allow();
    await refund();
    await refund();
    gateway.assertExecuted(REFUND);
    gateway.assertExecuted(undefined, 2);
    gateway.assertNotExecuted('another');
    gateway.assertNotAsked('another');
    const ran = /ran: \["stripe\.refund\.create","stripe\.refund\.create"\]$/;
    fails(() => gateway.assertExecuted(REFUND, 1), /^expected stripe\.refund\.create 1 times; ran: /);
    fails(() => gateway.assertNotExecuted(REFUND), ran);
    fails(() => gateway.assertNotExecuted(), ran);
    fails(() => gateway.assertExecuted('another'), ran);
    fails(() => gateway.assertNotAsked(), /received: /);
    gateway.reset();
    gateway.assertNotExecuted();
    for (const call of [
      () => gateway.assertExecuted(7),
      () => gateway.assertNotExecuted(''),
      () => gateway.assertExecuted(REFUND, -1),
      () => gateway.assertExecuted(REFUND, 1.5),
    ]) {
      assert.throws(call, TypeError);
    }
  });

  test('counts a function that throws, a permit that is spent, and nothing else', async () => {
    gateway.allow();
    await actpass.guard({ ...action(), execute: () => Promise.reject(new Error('the card is closed')) });
    await actpass.preflight(action());
    await actpass.authorize(action());
    assert.deepEqual(gateway.executed, [REFUND]);
    const permit = await actpass.authorize(action());
    permit.spend();
    assert.deepEqual(gateway.executed, [REFUND, REFUND]);
    await assert.rejects(async () => permit.spend(), ActPassArgumentError);
    const given = { amount: 1 };
    const changing = actpass.protect(() => assert.fail('it ran'), { tool: 't', goal: 'g' });
    const call = changing(given);
    given.amount = 2;
    assert.equal((await rejection(call)).code, 'actpass.arguments_changed');
    gateway.assertNotExecuted('t');
  });

  test('an invalid pending approval is an error of the caller', async () => {
    for (const pending of [null, 7, {}, { tool: 7 }]) {
      const error = await rejection(actpass.resume(pending, { execute: () => assert.fail('it ran') }));
      assert.ok(error instanceof ActPassArgumentError, `${error}`);
    }
    gateway.assertNotExecuted();
  });

  test('does not know anything once it is closed', async () => {
    await gateway.close();
    await gateway.close();
    unknown(() => gateway.assertNotExecuted());
    unknown(() => gateway.assertNotAsked());
    assert.equal((await refund()).decision.reason_code, 'actpass.unreachable');
  });

  test('a call that is aborted while it waits for an approval did not run', async () => {
    gateway.requireApproval();
    const controller = new AbortController();
    const call = refund(1, { signal: controller.signal, waitForApprovalMs: 60_000 });
    while (gateway.approvals.length === 0) {
      await new Promise(setImmediate);
    }
    controller.abort('left');
    assert.equal(await rejection(call), 'left');
    assert.equal(await rejection(refund(1, { signal: controller.signal })), 'left');
    gateway.assertNotExecuted(REFUND);
    gateway.assertAsked(REFUND, 1);
  });

  if (!hasProcesses) {
    return;
  }

  test('an aborted call did not run', async () => {
    gateway.allow();
    const controller = new AbortController();
    const call = refund(1, { signal: controller.signal });
    while (gateway.actions.length === 0) {
      await new Promise(setImmediate);
    }
    controller.abort('left');
    assert.equal(await rejection(call), 'left');
    gateway.assertNotExecuted(REFUND);
    assert.equal(await rejection(refund(1, { signal: controller.signal })), 'left');
  });

  test('an aborted call hides no execution of another program', async () => {
    gateway.allow();
    assert.equal(await rejection(refund(1, { signal: AbortSignal.abort('left') })), 'left');
    await preflightByHand(gateway);
    unknown(() => gateway.assertNotExecuted());
  });

  test('does not know if another program ran an allowed action', async () => {
    gateway.allow();
    await refund();
    await preflightByHand(gateway);
    for (const call of [
      () => gateway.executed,
      () => gateway.assertNotExecuted(),
      () => gateway.assertNotExecuted('another'),
      () => gateway.assertExecuted(REFUND),
    ]) {
      assert.throws(call, (error) => {
        assert.ok(error instanceof UnknownExecution && error instanceof AssertionError);
        assert.match(error.message, /^stripe\.refund\.create: allowed, but no process reported whether it ran\. /);
        assert.match(error.message, /Known to have run: \["stripe\.refund\.create"\]$/);
        return true;
      });
    }
    gateway.reset();
    gateway.assertNotExecuted();
  });

  test('nothing runs if the journal cannot be written', async () => {
    gateway.allow();
    const journal = gateway.environment.ACTPASS_TEST_JOURNAL;
    const program = `import { ActPass } from '@actpass/sdk';
      const outcome = new ActPass().guard({ goal: 'g', tool: 't', args: {}, execute: () => console.log('ran') });
      await outcome.catch((error) => console.log(error.name, error.message));`;
    const env = { ...gateway.environment, ACTPASS_TEST_JOURNAL: join(journal, 'no-folder') };
    const { stdout } = await runModule(program, { env });
    assert.equal(stdout, 'ActPassConfigError ACTPASS_TEST_JOURNAL: expected a writable file; nothing ran\n');
    const removed = await runModule(program, { env: { ...env, ACTPASS_TEST_JOURNAL: `${journal}.removed` } });
    assert.equal(removed.stdout, 'ran\n');
    gateway.reset();
  });

  describe('of child processes', () => {
    const program = () => `import { ActPass } from '@actpass/sdk';
      const execute = () => console.log('ran');
      await new ActPass().guard({ ...${JSON.stringify(action())}, execute });`;

    test('counts the executions', async () => {
      gateway.allow();
      const env = gateway.environment;
      assert.equal((await runModule(program(), { env })).stdout, 'ran\n');
      gateway.assertExecuted(REFUND, 1);
      gateway.deny();
      assert.equal((await runModule(program(), { env })).stdout, '');
      gateway.assertExecuted(REFUND, 1);
    });

    test('counts the executions of children of children, of both kinds of modules', async () => {
      gateway.allow();
      const nested = `const { execFile } = require('node:child_process');
        const inner = ${JSON.stringify(program().replace(/import (.*) from (.*);/, 'const $1 = require($2);'))};
        execFile(process.execPath, ['-e', '(async () => {' + inner + '})()'], (_, stdout) => console.log(stdout));`;
      const done = await run(process.execPath, ['-e', nested], { env: gateway.environment });
      assert.equal(done.stdout.trim(), 'ran');
      gateway.assertExecuted(REFUND, 1);
    });

    test('waits for the report of a process that has just received its decision', async () => {
      gateway.allow();
      const child = runModule(program(), { env: gateway.environment });
      while (gateway.actions.length === 0) {
        await new Promise(setImmediate);
      }
      gateway.assertExecuted(REFUND, 1);
      assert.equal((await child).stdout, 'ran\n');
    });

    test('throws for a child without the environment', async () => {
      gateway.allow();
      const { ACTPASS_TEST_JOURNAL: _, ...env } = gateway.environment;
      assert.equal((await runModule(program(), { env })).stdout, 'ran\n');
      unknown(() => gateway.assertNotExecuted(REFUND));
    });
  });
}

describe('a scripted gateway', () => scriptedGateway(testing, true));
describe('a scripted gateway without servers and processes', () => {
  scriptedGateway(edge, false);

  test('refuses what needs a process', async () => {
    const refused = (call, message) => assert.rejects(call, { name: 'ActPassConfigError', message });
    const processes = /^RealGateway: this host starts no processes: use ScriptedGateway, or /;
    await refused(edge.RealGateway.start(), processes);
    await refused(edge.RealGateway.start({ program: 'any' }), processes);
    await refused(edge.installedGateway(), processes);
    const environment = /^environment: this host has no processes; pass client\(\) to the code under test$/;
    await refused(edge.ScriptedGateway.start({ setEnvironment: true }), environment);
    const gateway = await edge.ScriptedGateway.start();
    assert.throws(() => gateway.environment, { name: 'ActPassConfigError', message: environment });
    await gateway.close();
  });

  test('sends nothing by fetch, also once it is closed', async (t) => {
    const { mock } = t.mock.method(globalThis, 'fetch', () => assert.fail('sent'));
    const gateway = await edge.ScriptedGateway.start();
    const actpass = gateway.client();
    gateway.allow();
    assert.equal((await actpass.guard({ ...action(), execute: () => 1 })).result, 1);
    await gateway.close();
    assert.equal(
      (await actpass.guard({ ...action(), execute: assert.fail })).decision.reason_code,
      'actpass.unreachable',
    );
    assert.equal(mock.callCount(), 0);
  });

  test('does not know whether an action of a pending call runs', async () => {
    const gateway = await edge.ScriptedGateway.start();
    gateway.allow();
    const call = gateway.client().guard({ ...action(), execute: () => 1 });
    while (gateway.actions.length === 0) {
      await null;
    }
    unknown(() => gateway.executed);
    await call;
    gateway.assertExecuted(REFUND, 1);
    await gateway.close();
  });

  test('has the names of the kit for Node', () => {
    assert.deepEqual(
      Object.keys(edge).sort(),
      Object.keys(testing)
        .filter((name) => name !== 'default' && name !== 'module.exports')
        .sort(),
    );
  });
});

/** Requests a decision without the SDK, so that no process reports whether the action ran. */
async function preflightByHand({ baseUrl }) {
  const response = await fetch(`${baseUrl}/api/v1/actions/preflight`, {
    method: 'POST',
    headers: { authorization: 'Bearer apk_test', 'content-type': 'application/json' },
    body: JSON.stringify(action()),
  });
  assert.equal((await response.json()).decision, 'allow');
}

test('sets the environment until it is closed', async () => {
  process.env.ACTPASS_API_BASE_URL = 'http://127.0.0.1:9';
  delete process.env.ACTPASS_API_KEY;
  {
    const gateway = await ScriptedGateway.start({ setEnvironment: true });
    gateway.allow();
    assert.equal((await new ActPass().guard({ ...action(), execute: () => 'ran' })).result, 'ran');
    gateway.assertExecuted(REFUND, 1);
    gateway[Symbol.dispose]();
  }
  assert.equal(process.env.ACTPASS_API_BASE_URL, 'http://127.0.0.1:9');
  assert.ok(!('ACTPASS_API_KEY' in process.env) && !('ACTPASS_TEST_JOURNAL' in process.env));
  delete process.env.ACTPASS_API_BASE_URL;
  await assert.rejects(ScriptedGateway.start({ setEnv: true }), /setEnv: expected one of setEnvironment/);
});

test('two gateways count their own executions', async () => {
  const [first, second] = await Promise.all([ScriptedGateway.start(), ScriptedGateway.start()]);
  first.allow();
  second.deny();
  await first.client().guard({ ...action(), execute: () => 1 });
  await second.client().guard({ ...action(), execute: () => 1 });
  first.assertExecuted(REFUND, 1);
  second.assertAsked(REFUND, 1);
  await first[Symbol.asyncDispose]();
  assert.equal((await second.client().preflight(action())).decision, 'deny');
  await second.close();
});

test('keeps no process alive, and leaves no file behind', async () => {
  const program = `import { ScriptedGateway } from '@actpass/sdk/testing';
    const gateway = await ScriptedGateway.start();
    gateway.allow();
    await gateway.client().guard({ goal: 'g', tool: 't', args: {}, execute: () => 1 });
    gateway.assertExecuted('t', 1);
    console.log(gateway.environment.ACTPASS_TEST_JOURNAL);`;
  const { code, stdout, stderr } = await runModule(program);
  assert.deepEqual([code, stderr], [0, '']);
  assert.ok(!existsSync(stdout.trim()));
});

test('import and require give one implementation', () => {
  const required = createRequire(import.meta.url)('@actpass/sdk/testing');
  assert.deepEqual(Object.keys(required).sort(), Object.keys(testing).sort());
  for (const [name, value] of Object.entries(testing)) {
    assert.equal(required[name], value);
  }
});

describe('the real gateway', () => {
  const program = process.env.ACTPASS_GATEWAY;

  test('decides by its policy, and detects unreported executions by its ledger', async () => {
    const gateway = await RealGateway.start({ program, setEnvironment: true });
    try {
      gateway.assertNotExecuted();
      const actpass = new ActPass();
      const { result } = await actpass.guard({ ...action(), execute: () => 're_1' });
      assert.equal(result, 're_1');
      gateway.assertExecuted(REFUND, 1);
      const blocked = await actpass.guard({ ...action(90_000), execute: () => assert.fail('it ran') });
      assert.equal(blocked.kind, 'blocked');
      gateway.assertExecuted(REFUND, 1);
      gateway.reset();
      gateway.assertNotExecuted();
      const response = await fetch(`${gateway.baseUrl}/api/v1/actions/preflight`, {
        method: 'POST',
        headers: { authorization: 'Bearer apk_dev', 'content-type': 'application/json' },
        body: JSON.stringify({ ...action(), agent_id: 'a' }),
      });
      assert.equal((await response.json()).decision, 'allow');
      unknown(() => gateway.assertNotExecuted());
    } finally {
      await gateway.close();
    }
    await assert.rejects(fetch(gateway.baseUrl));
  });

  test('that does not start is an error with its reason', async () => {
    const error = await rejection(RealGateway.start({ program, policy: '/no/such/policy.json' }));
    assert.ok(error instanceof ActPassConfigError);
    assert.match(error.message, /expected a gateway that starts, found: .*\/no\/such\/policy\.json/s);
    const missing = await rejection(RealGateway.start({ program: '/no/such/gateway' }));
    assert.match(missing.message, /^\/no\/such\/gateway: expected a gateway that starts, found: .*ENOENT/);
  });

  describe('that is installed', () => {
    let folder;
    const find = (env = {}) =>
      runModule(
        `import { createRequire } from 'node:module';
        const { installedGateway } = createRequire('${PACKAGE}/')('@actpass/sdk/testing');
        await installedGateway().then(console.log, (error) => console.log(error.name, error.message));`,
        { cwd: folder, env: { PATH: folder, ...env } },
      );

    before(() => {
      folder = mkdtempSync(join(tmpdir(), 'actpass-installed-'));
      writeFileSync(join(folder, 'package.json'), '{}');
    });
    after(() => rmSync(folder, { recursive: true, force: true }));

    test('is missing, of the path, or of the package', async () => {
      assert.equal(
        (await find()).stdout,
        'ActPassConfigError no gateway is installed: npm install --save-dev @actpass/gateway, or give the path of the program\n',
      );
      writeFileSync(join(folder, 'actpass-gateway'), '');
      chmodSync(join(folder, 'actpass-gateway'), 0o755);
      assert.equal((await find()).stdout, `${join(folder, 'actpass-gateway')}\n`);
      const scope = join(folder, 'node_modules', '@actpass');
      mkdirSync(scope, { recursive: true });
      cpSync(join(ROOT, 'gateway', 'npm'), join(scope, 'gateway'), { recursive: true });
      assert.match((await find()).stdout, /^GatewayNotFoundError the package @actpass\/gateway-\S+ is not installed/);
      const platform = readdirSync(join(PACKAGE, 'dist'))
        .find((name) => name.endsWith('.node'))
        .split('.')[1];
      const installed = join(scope, `gateway-${platform}`);
      mkdirSync(join(installed, 'bin'), { recursive: true });
      writeFileSync(join(installed, 'package.json'), '{}');
      writeFileSync(join(installed, 'bin', 'actpass-gateway'), '');
      assert.equal((await find()).stdout, `${join(installed, 'bin', 'actpass-gateway')}\n`);
      assert.equal(typeof installedGateway, 'function');
    });
  });
});
