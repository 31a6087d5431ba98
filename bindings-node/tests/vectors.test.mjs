/** Each vector of `tests/vectors` in each mode that it names; see the README there. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { ActPass, canonicalOutcome } from '@actpass/sdk';
import { ACTION, everythingShown, Hostile, MODES, VECTORS, vectorFiles } from './support.mjs';

const KEY = 'apk_vector_secret';
const MEMBERS = ['description', 'client', 'action', 'gateway', 'expect'];
const CLIENT = ['timeout', 'connect_timeout', 'max_retries', 'trust_ca'];
/** The vectors' spelling of an action's members, and ours. */
const SPELLED = {
  goal: 'goal',
  tool: 'tool',
  resource: 'resource',
  args: 'args',
  user_id: 'userId',
  passport: 'passport',
  idempotency_key: 'idempotencyKey',
  audience: 'audience',
  approval_request_id: 'approvalRequestId',
  tool_manifest_hash: 'toolManifestHash',
};
const EXPECTED = ['executed', 'decision', 'error', 'requests_sent', 'credential'];

const hostile = new Hostile();
const names = vectorFiles();
const runs = names.flatMap((name) => Object.keys(read(name).expect).map((mode) => [name, mode]));
let done = 0;

/** Reads a vector, and refuses what no vector has. */
function read(name) {
  const vector = JSON.parse(readFileSync(join(VECTORS, `${name}.json`), 'utf8'));
  const onlyHas = (object, known) => {
    assert.deepEqual(
      Object.keys(object).filter((key) => !known.includes(key)),
      [],
      name,
    );
  };
  onlyHas(vector, MEMBERS);
  onlyHas(vector.client ?? {}, CLIENT);
  onlyHas(vector.action ?? {}, Object.keys(SPELLED));
  onlyHas(vector.expect, MODES);
  for (const expected of Object.values(vector.expect)) {
    onlyHas(expected, EXPECTED);
    assert.ok(
      EXPECTED.slice(0, 4).every((key) => key in expected),
      name,
    );
    assert.ok(expected.error === null || Object.keys(expected.error).sort().join() === 'kind,status', name);
  }
  return vector;
}

function newClient(vector, gateway) {
  const { timeout = 5, connect_timeout: connect, max_retries: maxRetries = 0, trust_ca: trust } = vector.client ?? {};
  return new ActPass({
    apiKey: KEY,
    agentId: 'vectors',
    baseUrl: gateway.baseUrl,
    timeoutMs: timeout * 1000,
    connectTimeoutMs: connect === undefined ? undefined : connect * 1000,
    maxRetries,
    ca: trust ? gateway.ca : undefined,
  });
}

async function play(name, mode) {
  const vector = read(name);
  const expected = vector.expect[mode];
  const given = Object.entries(vector.action ?? {}).map(([key, value]) => [SPELLED[key], value]);
  await hostile.play(vector.gateway, async (gateway) => {
    const actpass = newClient(vector, gateway);
    const contexts = [];
    const returned = { of: 'the action' };
    const outcome = await actpass.guard({
      ...ACTION,
      ...Object.fromEntries(given),
      mode,
      execute: (context) => {
        contexts.push(context);
        return returned;
      },
    });

    assert.equal(contexts.length, expected.executed ? 1 : 0);
    assert.equal(outcome.executed, expected.executed);
    assert.equal('result' in outcome, expected.executed);
    assert.equal(outcome.result, expected.executed ? returned : undefined);
    for (const [member, value] of Object.entries(expected.decision)) {
      assert.deepEqual(outcome.decision[member], value, member);
    }
    const error = expected.error && { kind: expected.error.kind, status: expected.error.status };
    const canonical = canonicalOutcome(outcome);
    assert.equal(canonical, canonicalJson({ decision: outcome.decision, error, executed: expected.executed }));
    assert.equal('error' in outcome, error !== null);
    assert.deepEqual(
      contexts.map(({ credential }) => credential?.token),
      contexts.map(() => expected.credential),
    );

    const seen = await gateway.seen();
    assert.equal(seen.length, expected.requests_sent);
    for (const request of seen) {
      assert.deepEqual([request.method, request.path], ['POST', '/api/v1/actions/preflight']);
      assert.ok(Object.fromEntries(request.headers).authorization === `Bearer ${KEY}`);
      assert.ok(request.body === seen[0].body);
      assert.ok(JSON.parse(request.body).idempotency_key);
    }
    assert.deepEqual(await gateway.otherSeen(), []);
    // Every secret in a vector holds this word. Only a boolean is compared, so that a failure shows none.
    assert.ok(!everythingShown({ ...outcome, result: null, actpass }).includes('secret'));
  });
  done += 1;
}

/** RFC 8785 by another hand than the one that is tested; JavaScript's own serialisation is what that RFC is made of. */
function canonicalJson(value) {
  if (Array.isArray(value)) {
    return `[${value.map(canonicalJson).join()}]`;
  }
  if (typeof value === 'object' && value !== null) {
    const members = Object.keys(value)
      .sort()
      .map((key) => `${JSON.stringify(key)}:${canonicalJson(value[key])}`);
    return `{${members.join()}}`;
  }
  return JSON.stringify(value);
}

// Most of the time is spent in waiting for deadlines.
describe('vectors', { concurrency: 8 }, () => {
  for (const [name, mode] of runs) {
    test(`${name} in ${mode}`, () => play(name, mode));
  }

  after(() => {
    assert.deepEqual([...new Set(names.map((name) => name.split('/')[0]))], ['failures', 'retries', 'table']);
    assert.equal(done, runs.length);
    console.log(`${names.length} vectors, ${done} runs passed`);
  });
});
