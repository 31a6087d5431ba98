/** Adapter of actpass-conformance for the Node package `@actpass/sdk`. */

import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { ActionBlockedError, ActPass } from '@actpass/sdk';

/** The kit's spelling of an action's members, and ours. */
const SPELLED = {
  user_id: 'userId',
  idempotency_key: 'idempotencyKey',
  approval_request_id: 'approvalRequestId',
  tool_manifest_hash: 'toolManifestHash',
};
/** The ends that are reported to a permit. */
const STOPS = ['cancelled', 'suspended'];

function newClient({ api_key: apiKey, agent_id: agentId, base_url: baseUrl, ca_pem: ca, options }) {
  return new ActPass({
    apiKey,
    agentId,
    baseUrl,
    ca: ca ?? undefined,
    timeoutMs: options.timeout * 1000,
    connectTimeoutMs: options.connect_timeout && options.connect_timeout * 1000,
    maxRetries: options.max_retries,
    circuitFailures: options.circuit_failures,
    approvalKeys: options.approval_keys,
  });
}

/** Guards the function of a case, which logs its run before anything else. */
async function guard(kase, run) {
  const actpass = newClient(kase);
  const members = Object.entries(kase.action).map(([name, value]) => [SPELLED[name] ?? name, value ?? undefined]);
  const action = { ...Object.fromEntries(members), mode: kase.mode };
  for (let before = kase.calls_before; before > 0; before -= 1) {
    await actpass.guard({ ...action, execute: () => null });
  }
  const asked = { ...action, recordOutcome: kase.record_outcome };
  if (kase.changed_args === null && !STOPS.includes(kase.ends)) {
    return actpass.guard({ ...asked, execute: run });
  }
  const permit = await actpass.authorize(asked);
  if (permit.kind === 'blocked') {
    return permit;
  }
  run(permit.spend(kase.changed_args ? { args: kase.changed_args } : undefined));
  return STOPS.includes(kase.ends) ? permit[kase.ends](new Error(kase.ends)) : permit.returned(null);
}

async function runCase(kase) {
  let runs = 0;
  let credential = null;
  const run = (context) => {
    appendFileSync(kase.run_log, 'x');
    runs += 1;
    credential = context.credential?.token ?? null;
    if (kase.ends === 'failed') {
      throw new Error('the card is closed');
    }
    return null;
  };
  const reply = (outcome, decision, reason = null) => ({ executed: runs, credential, outcome, decision, reason });
  try {
    const { executed, decision, error, ...rest } = await guard(kase, run);
    const outcome = !executed ? 'blocked' : 'result' in rest ? 'returned' : 'failed';
    return reply(outcome, decision, error ? String(error) : null);
  } catch (error) {
    return error instanceof ActionBlockedError
      ? reply('blocked', error.decision)
      : reply('failed', null, String(error));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await runCase(JSON.parse(line)))}\n`);
}
