/** Each vector of `tests/vectors` in each mode that it names; see the README there. */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { ActPass, canonicalOutcome } from '@actpass/sdk';
import { ACTION, everythingShown, Hostile, MODES, VECTORS, vectorFiles } from './support.mjs';

const KEY = 'apk_vector_secret';
/** Of an action that gives none, so that every language sends the same request. */
const IDEMPOTENCY_KEY = 'vector_key';
const MEMBERS = ['description', 'client', 'action', 'calls_before', 'gateway', 'expect'];
const CLIENT = ['timeout', 'connect_timeout', 'max_retries', 'circuit_failures', 'trust_ca'];
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
const runs = names.flatMap(runsOf);
/** What came of each run, as a line. */
const lines = runs.map(() => '');
let done = 0;

/** Each mode of a vector; of a failure, the two that any failure has once more without a circuit breaker. */
function runsOf(name) {
  const modes = Object.keys(read(name).expect).sort();
  const again = name.startsWith('failures/') ? ['enforce', 'monitor'] : [];
  return modes.flatMap((mode) => (again.includes(mode) ? [false, true] : [false]).map((off) => [name, mode, off]));
}

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

function newClient(vector, gateway, circuitOff) {
  const {
    timeout = 5,
    connect_timeout: connect,
    max_retries: maxRetries = 0,
    circuit_failures: circuitFailures,
    trust_ca: trust,
  } = vector.client ?? {};
  return new ActPass({
    apiKey: KEY,
    agentId: 'vectors',
    baseUrl: gateway.baseUrl,
    timeoutMs: timeout * 1000,
    connectTimeoutMs: connect === undefined ? undefined : connect * 1000,
    maxRetries,
    circuitFailures: circuitOff ? 0 : circuitFailures,
    ca: trust ? gateway.ca : undefined,
  });
}

async function play(at, name, mode, circuitOff) {
  const vector = read(name);
  const expected = vector.expect[mode];
  const { idempotency_key: key = IDEMPOTENCY_KEY, ...others } = vector.action ?? {};
  const given = Object.entries(others).map(([member, value]) => [SPELLED[member], value]);
  await hostile.play(vector.gateway, async (gateway) => {
    const actpass = newClient(vector, gateway, circuitOff);
    const action = { ...ACTION, ...Object.fromEntries(given), idempotencyKey: key ?? undefined, mode };
    for (let before = vector.calls_before ?? 0; before > 0; before -= 1) {
      await actpass.guard({ ...action, execute: () => null });
    }
    const contexts = [];
    const returned = { of: 'the action' };
    const outcome = await actpass.guard({
      ...action,
      execute: (context) => {
        contexts.push(context);
        return returned;
      },
    });
    const canonical = canonicalOutcome(outcome);
    const seen = await gateway.seen();
    // Every secret in a vector holds this word. Only their number is compared, so that a failure shows none.
    const leaks = everythingShown({ ...outcome, result: null, actpass }).split('secret').length - 1;
    lines[at] =
      `{"circuit_off":${circuitOff},"leaks":${leaks},"mode":"${mode}","outcome":${canonical},` +
      `"requests_sent":${seen.length},"runs":${contexts.length},"vector":"${name}"}\n`;

    assert.equal(contexts.length, expected.executed ? 1 : 0);
    assert.equal(outcome.executed, expected.executed);
    assert.equal('result' in outcome, expected.executed);
    assert.equal(outcome.result, expected.executed ? returned : undefined);
    for (const [member, value] of Object.entries(expected.decision)) {
      assert.deepEqual(outcome.decision[member], value, member);
    }
    const error = expected.error && { kind: expected.error.kind, status: expected.error.status };
    assert.equal(canonical, canonicalJson({ decision: outcome.decision, error, executed: expected.executed }));
    assert.equal('error' in outcome, error !== null);
    assert.deepEqual(
      contexts.map(({ credential }) => credential?.token),
      contexts.map(() => expected.credential),
    );

    assert.equal(seen.length, expected.requests_sent);
    for (const request of seen) {
      assert.deepEqual([request.method, request.path], ['POST', '/api/v1/actions/preflight']);
      assert.ok(Object.fromEntries(request.headers).authorization === `Bearer ${KEY}`);
      assert.ok(request.body === seen[0].body);
      const sent = JSON.parse(request.body).idempotency_key;
      assert.ok(key === null ? sent.length === 36 : sent === key);
    }
    assert.deepEqual(await gateway.otherSeen(), []);
    assert.equal(leaks, 0);
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
  for (const [at, [name, mode, circuitOff]] of runs.entries()) {
    const how = circuitOff ? ' without a circuit breaker' : '';
    test(`${name} in ${mode}${how}`, () => play(at, name, mode, circuitOff));
  }

  after(() => {
    if (process.env.ACTPASS_OUTCOMES) {
      mkdirSync(process.env.ACTPASS_OUTCOMES, { recursive: true });
      writeFileSync(join(process.env.ACTPASS_OUTCOMES, 'node.jsonl'), lines.join(''));
    }
    assert.deepEqual(
      [...new Set(names.map((name) => name.split('/')[0]))],
      ['circuit', 'failures', 'replays', 'retries', 'table'],
    );
    assert.equal(done, runs.length);
    console.log(`${names.length} vectors, ${done} runs passed`);
  });
});
