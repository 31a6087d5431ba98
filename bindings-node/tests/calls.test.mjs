/** Request bytes and results of every call. */

import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ActPass } from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  API_KEY,
  answer,
  capturing,
  Hostile,
  newClient,
  PASSPORT,
  rejection,
  withGateway,
} from './support.mjs';

const hostile = new Hostile();
const ANSWERS = {
  '/api/v1/actions/preflight': { ...ALLOW, 'x-new': [1.5, { deep: null }] },
  '/api/v1/passports/issue': { token: 'issued_secret', jwks_uri: 'https://gate.example/jwks', jti: 'ap_1' },
  '/api/v1/passports/verify': { valid: false, errors: ['passport.expired'] },
  '/api/v1/passports/revoke': { revoked: true },
  '/api/v1/evidence/events': { event_id: 'ev_2', current_event_hash: '00' },
};

/** Makes a call; returns its request and result. */
async function sentBy(call, settings) {
  return capturing(
    ({ path }) => ANSWERS[path],
    async (baseUrl, captured) => {
      const came = await call(newClient(baseUrl, settings));
      assert.equal(captured.length, 1);
      return [captured[0], came];
    },
  );
}

describe('request bytes of', () => {
  test('preflight with required members', async () => {
    const [sent, decision] = await sentBy((actpass) => actpass.preflight({ goal: 'g', tool: 't', args: {} }));
    const key = JSON.parse(sent.body).idempotency_key;
    assert.match(key, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/);
    assert.equal(
      sent.body,
      `{"agent_id": "tests", "goal": "g", "tool": "t", "resource": "", "args": {}, "user_id": null, "passport": null, "mode": "enforce", "idempotency_key": "${key}", "audience": null}`,
    );
    assert.deepEqual(decision, ANSWERS[sent.path]);
    assert.ok(sent.headers.authorization === `Bearer ${API_KEY}`);
    assert.equal(sent.headers['content-type'], 'application/json');
    assert.match(sent.headers['user-agent'], /^actpass-node\/\d/);
    assert.ok(!('x-actpass-tenant' in sent.headers));
  });

  test('preflight with all members', async () => {
    const [sent] = await sentBy(
      (actpass) =>
        actpass.preflight({
          ...ACTION,
          userId: 'user_7',
          passport: PASSPORT,
          mode: 'warn',
          idempotencyKey: 'key_1',
          audience: 'mcp://stripe',
          approvalRequestId: 'apr_1',
          toolManifestHash: 'ab12',
        }),
      { tenantId: 'team', agentId: 'support_agent', mode: 'strict' },
    );
    assert.ok(
      sent.body ===
        `{"agent_id": "support_agent", "goal": "resolve_refund_request", "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {"amount": 4900, "currency": "usd"}, "user_id": "user_7", "passport": "${PASSPORT}", "mode": "warn", "idempotency_key": "key_1", "audience": "mcp://stripe", "approval_request_id": "apr_1", "tool_manifest_hash": "ab12"}`,
    );
    assert.equal(sent.headers['x-actpass-tenant'], 'team');
  });

  test('preflight with the mode of the client', async () => {
    const [sent] = await sentBy((actpass) => actpass.preflight(ACTION), { mode: 'monitor' });
    assert.equal(JSON.parse(sent.body).mode, 'monitor');
  });

  test('issuePassport', async () => {
    const [least, came] = await sentBy((actpass) =>
      actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: ['t1', 't2'] }),
    );
    assert.equal(
      least.body,
      '{"audience": "a", "agent_id": "tests", "goal": "g", "allowed_tools": ["t1", "t2"], "allowed_resources": [], "resource_constraints": {}, "user_id": null, "risk_tier": "medium", "ttl_seconds": null}',
    );
    assert.ok(came.token === 'issued_secret' && came.jti === 'ap_1');
    const [most] = await sentBy((actpass) =>
      actpass.issuePassport({
        audience: 'a',
        goal: 'g',
        allowedTools: [],
        allowedResources: ['r'],
        resourceConstraints: { max_amount: 10_000, perDay: [1] },
        userId: 'u',
        riskTier: 'high',
        ttlSeconds: 300,
      }),
    );
    assert.equal(
      most.body,
      '{"audience": "a", "agent_id": "tests", "goal": "g", "allowed_tools": [], "allowed_resources": ["r"], "resource_constraints": {"max_amount": 10000, "perDay": [1]}, "user_id": "u", "risk_tier": "high", "ttl_seconds": 300}',
    );
  });

  test('verifyPassport', async () => {
    const [sent, came] = await sentBy((actpass) =>
      actpass.verifyPassport({
        token: 'tok',
        audience: 'a',
        agentId: 'ag',
        userId: 'u',
        currentToolManifestHash: 'm',
        policyHash: 'p',
      }),
    );
    assert.equal(
      sent.body,
      '{"token": "tok", "audience": "a", "agent_id": "ag", "user_id": "u", "current_tool_manifest_hash": "m", "policy_hash": "p"}',
    );
    assert.deepEqual(came, { valid: false, errors: ['passport.expired'] });
  });

  test('revokePassport', async () => {
    const [sent, came] = await sentBy((actpass) => actpass.revokePassport('ap_1', 'session ended'));
    assert.equal(sent.body, '{"jti": "ap_1", "reason": "session ended"}');
    assert.deepEqual(came, { revoked: true });
    const [bare] = await sentBy((actpass) => actpass.revokePassport('ap_1'));
    assert.equal(bare.body, '{"jti": "ap_1", "reason": null}');
  });

  test('recordEvidence', async () => {
    const [sent, came] = await sentBy((actpass) =>
      actpass.recordEvidence({
        eventType: 'refund.sent',
        chainId: 'case_1',
        toolId: 't',
        decision: 'allow',
        reasonCode: 'r',
        metadata: { receiptId: 're_1' },
        requestHash: 'a',
        responseHash: 'b',
      }),
    );
    assert.equal(
      sent.body,
      '{"event_type": "refund.sent", "chain_id": "case_1", "tool_id": "t", "decision": "allow", "reason_code": "r", "metadata": {"receiptId": "re_1"}, "request_hash": "a", "response_hash": "b"}',
    );
    assert.deepEqual(came, { event_id: 'ev_2', current_event_hash: '00' });
  });
});

test('a non-idempotent call is sent once', () =>
  hostile.play([{ do: 'reset', at: 'request' }], async ({ baseUrl, seen }) => {
    const actpass = newClient(baseUrl, { maxRetries: 2 });
    await rejection(actpass.recordEvidence({ eventType: 'e', chainId: 'c' }));
    await rejection(actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: [] }));
    assert.equal((await seen()).length, 2);
  }));

test('an idle connection closed by the gateway fails no call', () =>
  hostile.play([answer({ event_id: 'ev_1' })], async ({ baseUrl, closeConnections }) => {
    const actpass = newClient(baseUrl);
    for (let round = 0; round < 4; round += 1) {
      // The call is non-idempotent, so a retry would not hide a closed connection.
      await Promise.all(Array.from({ length: 25 }, () => actpass.recordEvidence({ eventType: 'e', chainId: 'c' })));
      await closeConnections();
    }
  }));

test('https trusts a given authority in text or bytes', () =>
  hostile.play({ tls: 'trusted', steps: [answer(ALLOW)] }, async ({ baseUrl, ca }) => {
    for (const given of [ca, Buffer.from(ca), new TextEncoder().encode(ca)]) {
      assert.deepEqual(await newClient(baseUrl, { ca: given }).preflight(ACTION), ALLOW);
    }
    assert.equal((await rejection(newClient(baseUrl).preflight(ACTION))).code, 'actpass.unreachable');
  }));

test('NODE_EXTRA_CA_CERTS adds authorities; a missing file is rejected', () =>
  hostile.play({ tls: 'trusted', steps: [answer(ALLOW)] }, async ({ baseUrl, ca }) => {
    const folder = mkdtempSync(join(tmpdir(), 'actpass-'));
    const before = process.env.NODE_EXTRA_CA_CERTS;
    try {
      process.env.NODE_EXTRA_CA_CERTS = join(folder, 'ca.pem');
      const missing = /^NODE_EXTRA_CA_CERTS: expected CA certificates in PEM, found /;
      assert.throws(() => newClient(baseUrl), { name: 'ActPassConfigError', message: missing });
      writeFileSync(process.env.NODE_EXTRA_CA_CERTS, ca);
      assert.deepEqual(await newClient(baseUrl).preflight(ACTION), ALLOW);
    } finally {
      rmSync(folder, { recursive: true });
      if (before === undefined) {
        delete process.env.NODE_EXTRA_CA_CERTS;
      } else {
        process.env.NODE_EXTRA_CA_CERTS = before;
      }
    }
  }));

describe('verifyPassportOffline', () => {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const jwks = { keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'EdDSA', use: 'sig' }] };
  const passport = (claims, kid = 'k1') => {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const signed = `${encode({ alg: 'EdDSA', kid })}.${encode(claims)}`;
    return `${signed}.${sign(null, Buffer.from(signed), privateKey).toString('base64url')}`;
  };
  const now = Math.floor(Date.now() / 1000);

  test('fetches the keys of the gateway once', () =>
    capturing(
      () => jwks,
      async (baseUrl, captured) => {
        const actpass = newClient(baseUrl);
        const claims = {
          iss: baseUrl,
          aud: 'mcp://stripe',
          tenant_id: 't',
          agent_id: 'support_agent',
          user_id: 'u',
          goal: 'g',
          allowed_tools: ['t'],
          allowed_resources: [],
          resource_constraints: {},
          risk_tier: 'medium',
          approval_hash: null,
          jti: 'ap_1',
          iat: now,
          exp: now + 60,
        };
        const check = (token, more) => actpass.verifyPassportOffline({ token, audience: 'mcp://stripe', ...more });
        assert.deepEqual(await check(passport(claims)), { valid: true, errors: [], claims });
        assert.deepEqual(await check(passport({ ...claims, exp: now - 60 })), {
          valid: false,
          errors: ['passport.expired'],
        });
        assert.deepEqual((await check(passport(claims), { agentId: 'other' })).errors, ['passport.agent']);
        assert.deepEqual((await check(passport(claims), { userId: 'other' })).errors, ['passport.user']);
        assert.deepEqual((await check(passport(claims), { issuer: 'https://other' })).errors, ['passport.issuer']);
        assert.deepEqual((await check(`${passport(claims).slice(0, -4)}AAAA`)).errors, ['passport.signature']);
        assert.deepEqual((await check('not.a.passport')).errors, ['passport.malformed']);
        assert.deepEqual(
          captured.map(({ method, path }) => [method, path]),
          [['GET', '/.well-known/jwks.json']],
        );
      },
    ));

  test('rejects if the keys are unavailable', async () => {
    const call = newClient('http://127.0.0.1:9').verifyPassportOffline({
      token: passport({}),
      audience: 'mcp://stripe',
    });
    assert.equal((await rejection(call)).code, 'actpass.unreachable');
  });
});

test('the real gateway handles passports and evidence', () =>
  withGateway(async ({ baseUrl }) => {
    const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
    const audience = 'mcp://stripe-production';
    const issued = await actpass.issuePassport({
      audience,
      goal: ACTION.goal,
      allowedTools: [ACTION.tool],
      allowedResources: [ACTION.resource],
      resourceConstraints: { max_amount: 10_000, currency: 'usd' },
    });
    assert.equal((await actpass.verifyPassport({ token: issued.token, audience })).valid, true);
    const offline = await actpass.verifyPassportOffline({ token: issued.token, audience, issuer: undefined });
    assert.deepEqual([offline.valid, offline.errors], [true, []]);
    const guarded = (members) =>
      actpass.guard({ ...ACTION, passport: issued.token, audience, ...members, execute: () => 'ran' });
    assert.equal((await guarded({ args: { amount: 25_000, currency: 'usd' } })).executed, false);
    assert.equal((await guarded({})).executed, true);
    assert.equal((await guarded({})).executed, false);
    assert.deepEqual(await actpass.revokePassport(issued.jti, 'over'), { revoked: true });
    assert.equal((await actpass.verifyPassport({ token: issued.token, audience })).valid, false);
    const event = await actpass.recordEvidence({ eventType: 'refund.sent', chainId: 'case_1' });
    assert.match(event.event_id, /^ev_/);
  }));
