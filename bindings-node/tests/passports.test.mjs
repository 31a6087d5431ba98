// Passports at the server's side, over the table that the proxy and Python share.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ActPass, ActPassArgumentError, ActPassConnectionError } from '@actpass/sdk';
import { guardServer, PassportGuard, passportOf } from '@actpass/sdk/mcp';
import { withGateway } from './support.mjs';

const TABLE = JSON.parse(readFileSync(new URL('../../mcp/tests/passports.json', import.meta.url), 'utf8'));
const ACTION = { tool: TABLE.tool, goal: 'another goal', userId: 'another user' };

async function post(gateway, name, key, body) {
  const response = await fetch(`${gateway.baseUrl}/api/v1/passports/${name}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  assert.equal(response.status, 200);
  return response.json();
}

const issue = (gateway, { issue: own = {} }) =>
  post(gateway, 'issue', 'apk_dev', { ...TABLE.issue, agent_id: 'planner', ...own });

/** The text that a case presents. */
async function present(gateway, one) {
  const { token, jti } = await issue(gateway, one);
  switch (one.present) {
    case undefined:
      return token;
    case 'nothing':
      return undefined;
    case 'text':
      return 'not a passport';
    case 'changed': {
      const other = await issue(gateway, { issue: { resource_constraints: {} } });
      return `${other.token.split('.').slice(0, 2).join('.')}.${token.split('.')[2]}`;
    }
    case 'revoked':
      await post(gateway, 'revoke', 'apdv_dev', { jti });
      return token;
    case 'expired':
      // Beyond the leeway of an offline verification.
      await sleep(12_000);
      return token;
    default:
      throw new Error(one.present);
  }
}

test('the table is complete', () => assert.equal(TABLE.cases.length, 17));

/** Runs every case; `call` returns `ran` or the reason code. */
async function runTable(gateway, call) {
  await Promise.all(
    TABLE.cases.map(async (one) => {
      const token = await present(gateway, one);
      for (const [at, expected] of one.expected.entries()) {
        const args = one.calls?.[at] ?? one.arguments ?? TABLE.arguments;
        assert.equal(await call(token, args), expected, one.name);
      }
    }),
  );
}

test('required passports are verified and used once', async () => {
  await withGateway(async (gateway) => {
    const client = new ActPass({ apiKey: 'apk_dev', baseUrl: gateway.baseUrl });
    const guard = new PassportGuard(client, TABLE.audience);
    let ran = 0;
    await runTable(gateway, async (token, args) => {
      const passport = passportOf(token === undefined ? undefined : { 'actpass/passport': token });
      const outcome = await guard.run(passport, ACTION, args, (own) => {
        assert.deepEqual(own, args);
        ran += 1;
      });
      assert.equal(outcome.executed, outcome.kind === 'returned');
      return outcome.executed ? 'ran' : outcome.decision.reason_code;
    });
    const expected = TABLE.cases.flatMap((one) => one.expected).filter((one) => one === 'ran').length;
    assert.equal(ran, expected);
  });
});

test('a guarded server requires passports', async () => {
  await withGateway(async (gateway) => {
    const client = new ActPass({ apiKey: 'apk_dev', baseUrl: gateway.baseUrl });
    const tools = new Map();
    const server = { registerTool: (name, _, callback) => tools.set(name, callback) && { update() {} } };
    guardServer(client, server, { refund: { tool: TABLE.tool } }, { requirePassport: TABLE.audience });
    server.registerTool('refund', { inputSchema: {} }, () => ({ content: [{ type: 'text', text: 'ran' }] }));
    await runTable(gateway, async (token, args) => {
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const result = await tools.get('refund')(args, {
        requestInfo: { headers: token?.includes(' ') ? {} : headers },
        ...(token?.includes(' ') && { _meta: { 'actpass/passport': token } }),
      });
      const [{ text }] = result.content;
      assert.equal(result.isError === true, text !== 'ran');
      return text === 'ran' ? text : /\(([a-z._]+)\)/.exec(text)[1];
    });
  });
});

test('the passport is read from _meta or Authorization', () => {
  for (const [meta, headers, expected] of [
    [{ 'actpass/passport': 'a.b.c' }, { authorization: 'Bearer d.e.f' }, 'a.b.c'],
    [{}, { authorization: 'bearer  d.e.f' }, 'd.e.f'],
    [undefined, { authorization: 'Basic d.e.f' }, undefined],
    [undefined, { authorization: 'Bearer ' }, undefined],
    [{ 'actpass/passport': 7 }, { authorization: 'Bearer d.e.f' }, undefined],
    [undefined, undefined, undefined],
  ]) {
    assert.equal(passportOf(meta, headers), expected);
  }
});

test('modes that do not spend passports and invalid options are rejected', async () => {
  const settings = { apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:9', maxRetries: 0 };
  for (const mode of ['warn', 'monitor']) {
    assert.throws(
      () => new PassportGuard(new ActPass({ ...settings, mode }), 'mcp://s'),
      /mode: expected enforce or strict/,
    );
    const guard = new PassportGuard(new ActPass(settings), 'mcp://s');
    await assert.rejects(guard.run('a.b.c', { ...ACTION, mode }, {}, assert.fail), /mode: expected enforce or strict/);
  }
  assert.throws(() => new PassportGuard(new ActPass(settings), ''), ActPassArgumentError);
});

test('unavailable keys run nothing', async () => {
  await withGateway(async (gateway) => {
    const { token } = await issue(gateway, {});
    const client = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:9', maxRetries: 0 });
    const guard = new PassportGuard(client, TABLE.audience);
    await assert.rejects(guard.run(token, ACTION, TABLE.arguments, assert.fail), ActPassConnectionError);
  });
});
