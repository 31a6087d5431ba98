/** Each vector of `tests/vectors` in each of its modes; see the README there. */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { ActionBlockedError, ActPass, ActPassArgumentError, canonicalOutcome } from '@actpass/sdk';
import { ACTION, everythingShown, Hostile, MODES, VECTORS, vectorFiles } from './support.mjs';

const KEY = 'apk_vector_secret';
/** The default key of an action, so that every language sends the same request. */
const IDEMPOTENCY_KEY = 'vector_key';
const MEMBERS = [
  'description',
  'client',
  'action',
  'calls_before',
  'record_outcome',
  'ends',
  'unmapped',
  'changed_args',
  'gateway_echoes',
  'gateway',
  'expect',
];
const CLIENT = [
  'timeout',
  'connect_timeout',
  'max_retries',
  'circuit_failures',
  'trust_ca',
  'approval_keys',
  'dpop_key',
];
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
const EXPECTED = ['executed', 'decision', 'error', 'requests_sent', 'credential', 'recorded', 'blocked'];

const require = createRequire(import.meta.url);
const { native } = require('../dist/native.js');
const { ToolMap } = require('../dist/integrations/common.js');
const hostile = new Hostile();
const engine = native.engine ?? 'native';
/** The vectors that do not run over a host's `fetch`, each with a reason. */
const gaps =
  engine === 'wasm' ? JSON.parse(readFileSync(join(VECTORS, '..', 'wasm-gaps.json'), 'utf8')) : { vectors: {} };
/** Release builds have no test hooks, so no call can be broken. */
const names = vectorFiles()
  .filter((name) => native.hasTestHooks !== undefined || !name.startsWith('lost/'))
  .filter((name) => !(name in gaps.vectors));
const runs = names.flatMap(runsOf);
/** The result of each run, as a line. */
const lines = runs.map(() => '');
let done = 0;

/** Each mode of a vector; for a failure, `enforce` and `monitor` again without a circuit breaker. */
function runsOf(name) {
  const modes = Object.keys(read(name).expect).sort();
  const again = name.startsWith('failures/') ? ['enforce', 'monitor'] : [];
  return modes.flatMap((mode) => (again.includes(mode) ? [false, true] : [false]).map((off) => [name, mode, off]));
}

/** Reads a vector, and rejects unknown members. */
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
    approval_keys: approvalKeys,
    dpop_key: dpopKey,
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
    approvalKeys,
    dpopKey,
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
    const { ends = 'returned' } = vector;
    const asked = { ...action, recordOutcome: vector.record_outcome ?? false };
    const outcome = vector.unmapped
      ? new ToolMap(actpass, {}).unmapped(action.tool)
      : await ending(actpass, asked, ends, vector.changed_args, contexts);
    const isStopped = STOPS.includes(ends) && outcome.executed;
    const canonical = canonicalOutcome(outcome);
    const requests = await gateway.seen();
    const events = requests.filter(({ path }) => path === '/api/v1/evidence/events');
    const seen = requests.filter((request) => !events.includes(request));
    const recorded = events.length > 0 ? JSON.parse(events[0].body) : null;
    const blocked = outcome.kind === 'blocked' ? thrownBy(outcome) : null;
    // The text of the gate's error may depend on timing.
    const compared = blocked && { ...blocked, developer: expected.error === null ? blocked.developer : null };
    // Every secret in a vector contains this word. The test compares only their number, so that a failure prints none.
    const shown = vector.gateway_echoes ? [] : [{ ...outcome, actpass }];
    const leaks = [...shown, blocked].map(everythingShown).join('\n').split('secret').length - 1;
    lines[at] =
      `{"blocked":${canonicalJson(compared)},"circuit_off":${circuitOff},"leaks":${leaks},"mode":"${mode}",` +
      `"outcome":${isStopped ? null : canonical},"recorded":${canonicalJson(recorded)},` +
      `"requests_sent":${requests.length},"runs":${contexts.length},"vector":"${name}"}\n`;

    assert.equal(contexts.length, expected.executed ? 1 : 0);
    assert.equal(outcome.executed, expected.executed);
    assert.equal('result' in outcome, expected.executed && ends === 'returned');
    if (ends !== 'returned' && expected.executed) {
      assert.equal(outcome.error, ENDS[ends]);
    }
    for (const [member, value] of Object.entries(expected.blocked ?? {})) {
      assert.equal(blocked[member], value, member);
    }
    assert.ok(events.length <= 1);
    assert.equal(recorded !== null, 'recorded' in expected);
    for (const [member, value] of Object.entries(expected.recorded ?? {})) {
      assert.deepEqual(recorded[member], value, member);
    }
    for (const [member, value] of Object.entries(expected.decision)) {
      assert.deepEqual(outcome.decision[member], value, member);
    }
    const error = expected.error && { kind: expected.error.kind, status: expected.error.status };
    if (!isStopped) {
      assert.equal(canonical, canonicalJson({ decision: outcome.decision, error, executed: expected.executed }));
      assert.equal('error' in outcome, error !== null);
    }
    assert.deepEqual(
      contexts.map(({ credential }) => credential?.token),
      contexts.map(() => expected.credential),
    );

    assert.equal(requests.length, expected.requests_sent);
    for (const request of seen) {
      assert.deepEqual([request.method, request.path], ['POST', '/api/v1/actions/preflight']);
      const headers = Object.fromEntries(request.headers);
      const hasProof = vector.client?.dpop_key !== undefined;
      assert.ok(headers.authorization === `${hasProof ? 'DPoP' : 'Bearer'} ${KEY}`);
      assert.equal('dpop' in headers, hasProof);
      assert.ok(request.body === seen[0].body || (vector.calls_before && key === null));
      const sent = JSON.parse(request.body).idempotency_key;
      assert.ok(key === null ? sent.length === 36 : sent === key);
    }
    assert.deepEqual(await gateway.otherSeen(), []);
    assert.equal(leaks, 0);
  });
  done += 1;
}

/** The errors of failed and cancelled actions, thrown or passed to a permit. */
const ENDS = {
  failed: new Error('the card is closed'),
  cancelled: new Error('stopped'),
  suspended: new Error('interrupt'),
};
/** The ends that are reported to a permit. */
const STOPS = ['cancelled', 'suspended'];

/** Guards an action that ends as `ends`; uses a permit if the arguments change or the action is cancelled. */
async function ending(actpass, action, ends, changed, contexts) {
  if (changed === undefined && !STOPS.includes(ends)) {
    const execute = (context) => {
      contexts.push(context);
      if (ends === 'failed') {
        throw ENDS.failed;
      }
      return null;
    };
    return actpass.guard({ ...action, execute });
  }
  const permit = await actpass.authorize(action);
  if (permit.kind === 'blocked') {
    return permit;
  }
  try {
    contexts.push(permit.spend(changed && { args: changed }));
  } catch (error) {
    if (!(error instanceof ActionBlockedError)) {
      throw error;
    }
    const blocked = { kind: 'blocked', executed: false, decision: error.decision };
    return Object.defineProperty(blocked, 'unwrap', { value: () => raise(error) });
  }
  // A permit can be spent once only.
  assert.throws(() => permit.spend(changed && { args: changed }), ActPassArgumentError);
  return STOPS.includes(ends) ? permit[ends](ENDS[ends]) : permit.returned(null);
}

function raise(error) {
  throw error;
}

/** The error that a blocked outcome throws. */
function thrownBy(outcome) {
  let error;
  try {
    outcome.unwrap();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error instanceof ActionBlockedError);
  const { approval, code, developerText, message, retryable, tool } = error;
  return {
    approval: approval?.approval_request_id ?? null,
    code,
    developer: developerText,
    message,
    retryable,
    tool,
  };
}

/** An independent implementation of RFC 8785, based on `JSON.stringify`. */
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

function playAll(isChosen) {
  for (const [at, [name, mode, circuitOff]] of runs.entries()) {
    const how = circuitOff ? ' without a circuit breaker' : '';
    if (isChosen(name)) {
      test(`${name} in ${mode}${how}`, () => play(at, name, mode, circuitOff));
    }
  }
}

const isLost = (name) => name.startsWith('lost/');

// Alone: a panic ends every call of the instance in wasm.
describe('vectors of lost calls', () => playAll(isLost));

// Concurrent, because most of the time is spent waiting for deadlines.
describe('vectors', { concurrency: 8 }, () => {
  playAll((name) => !isLost(name));

  after(() => {
    if (process.env.ACTPASS_OUTCOMES) {
      mkdirSync(process.env.ACTPASS_OUTCOMES, { recursive: true });
      writeFileSync(join(process.env.ACTPASS_OUTCOMES, `${engine === 'wasm' ? 'wasm' : 'node'}.jsonl`), lines.join(''));
    }
    assert.deepEqual(
      [...new Set(names.map((name) => name.split('/')[0]))],
      [
        ...['changes', 'circuit', 'dpop', 'failures', 'halts', ...(native.hasTestHooks ? ['lost'] : [])],
        ...['outcomes', 'replays', 'retries', 'signed', 'table', 'texts', 'unmapped'],
      ],
    );
    assert.equal(done, runs.length);
    assert.equal(names.length + Object.keys(gaps.vectors).length, vectorFiles().length - (native.hasTestHooks ? 0 : 1));
    assert.deepEqual([...new Set(Object.values(gaps.vectors))].sort(), Object.keys(gaps.reasons ?? {}).sort());
    console.log(`${names.length} vectors, ${done} runs passed`);
  });
});
