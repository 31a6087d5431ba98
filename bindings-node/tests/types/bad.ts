/** Code that must not compile: each `@ts-expect-error` fails the test if the next line has no error. */

import {
  ActPass,
  type ActPassOptions,
  type Decision,
  type Permit,
  type ToolAction,
  type UNGUARDED,
} from '@actpass/sdk';

const actpass = new ActPass({ apiKey: 'apk_dev' });
const action = { goal: 'g', tool: 't', args: {} };
const execute = () => 7;

// @ts-expect-error a misspelled setting
new ActPass({ apikey: 'apk_dev' });
// @ts-expect-error seconds under the name of 1.1.3
new ActPass({ apiKey: 'apk_dev', timeout: 30 });
// @ts-expect-error a mistyped setting
new ActPass({ apiKey: 7 });
// @ts-expect-error a number as text
new ActPass({ timeoutMs: '30000' });
// @ts-expect-error an unknown mode
const options: ActPassOptions = { mode: 'off' };
// @ts-expect-error null instead of undefined
new ActPass({ tenantId: null });

export async function calls(): Promise<void> {
  // @ts-expect-error no goal
  await actpass.guard({ tool: 't', args: {}, execute });
  // @ts-expect-error no args
  await actpass.guard({ goal: 'g', tool: 't', execute });
  // @ts-expect-error nothing to execute
  await actpass.guard(action);
  // @ts-expect-error not a function
  await actpass.guard({ ...action, execute: 7 });
  // @ts-expect-error a misspelled member
  await actpass.guard({ ...action, execute, resourse: 'x' });
  // @ts-expect-error the wire name
  await actpass.guard({ ...action, execute, user_id: 'u' });
  // @ts-expect-error an unknown mode
  await actpass.guard({ ...action, execute, mode: 'Enforce' });
  // @ts-expect-error args that are not an object
  await actpass.guard({ ...action, args: 'amount=4900', execute });
  // @ts-expect-error the wrong context type
  await actpass.guard({ ...action, execute: (context: { key: string }) => context.key });
  // @ts-expect-error the credential may be null
  await actpass.guard({ ...action, execute: ({ credential }) => credential.token });
  // @ts-expect-error the promise is not awaited
  actpass.guard({ ...action, execute }).executed;

  const outcome = await actpass.guard({ ...action, execute });
  // @ts-expect-error the action may not have run
  const result: number = outcome.result;
  if (!outcome.executed) {
    // @ts-expect-error the action did not run
    const none: number = outcome.result;
    // @ts-expect-error a blocking decision is not `allow`
    const allowed: boolean = outcome.decision.decision === 'allow';
    console.log(none, allowed);
  }
  // @ts-expect-error a thrown value may have any type
  console.log(outcome.executed && outcome.error.message);
  // @ts-expect-error an unknown kind
  console.log(outcome.kind === 'threw');
  if (outcome.kind === 'failed') {
    // @ts-expect-error a thrown value may have any type
    console.log(outcome.error.message);
  }
  if (outcome.kind === 'blocked') {
    // @ts-expect-error the action did not run
    const none: number = outcome.result;
    console.log(none);
  }
  // @ts-expect-error outcomes are read-only
  outcome.executed = true;
  // @ts-expect-error an unknown member
  console.log(outcome.allowed, result, options);

  const decision: Decision = outcome.decision;
  // @ts-expect-error only `require_approval` has this member
  console.log(decision.approval_request_id);
  // @ts-expect-error an unknown decision
  console.log(decision.decision === 'Allow');
  if (decision.decision === 'deny') {
    // @ts-expect-error narrowed
    console.log(decision.would_be);
  }
  // @ts-expect-error a misspelled member
  console.log(decision.reasonCode);

  // @ts-expect-error a permit cannot be constructed
  const forged: Permit = { kind: 'permitted', decision };
  const permit = await actpass.authorize(action);
  // @ts-expect-error the action may be blocked
  permit.spend();
  // @ts-expect-error authorize executes nothing
  await actpass.authorize({ ...action, execute });
  if (permit.kind === 'permitted') {
    // @ts-expect-error only arguments and resource may differ
    permit.spend({ tool: 'another' });
    // @ts-expect-error the outcome is a promise
    console.log(permit.returned(7).executed, forged);
  }
  // @ts-expect-error a preflight executes nothing
  await actpass.preflight({ ...action, execute });
  // @ts-expect-error a string instead of a list
  await actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: 't' });
  // @ts-expect-error no audience
  await actpass.verifyPassport({ token: 't' });
  // @ts-expect-error no jti
  await actpass.revokePassport();
  // @ts-expect-error no chain
  await actpass.recordEvidence({ eventType: 'e' });
  // @ts-expect-error an id instead of a pending approval
  await actpass.resume('apr_1', { execute });

  const safe = actpass.protect(async (charge: string) => charge.length, { tool: 't', goal: 'g' });
  // @ts-expect-error the wrong parameter type
  await safe(7);
  // @ts-expect-error the wrong return type
  const text: string = await safe('ch_123');
  // @ts-expect-error no tool
  actpass.protect(async () => text, { goal: 'g' });
  // @ts-expect-error onBlocked adds its result
  const own: string = await actpass.protect(async () => text, { tool: 't', onBlocked: () => 7 })();
  // @ts-expect-error onBlocked receives an ActionBlockedError
  actpass.protect(async () => own, { tool: 't', onBlocked: (error: { key: string }) => error.key });
  // @ts-expect-error an action has no signal
  const mapped: ToolAction = { tool: 't', signal: AbortSignal.abort() };
  // @ts-expect-error another symbol
  const unguarded: typeof UNGUARDED = Symbol('UNGUARDED');
  console.log(mapped, unguarded);
  // @ts-expect-error a tool without an action
  actpass.protectTools({ time: () => 'noon' }, {});
  // @ts-expect-error an action without a tool
  actpass.protectTools({ time: () => 'noon' }, { time: { tool: 't' }, other: { tool: 't' } });
  const tools = actpass.protectTools({ time: (zone: string) => zone }, { time: { tool: 't', args: {} } });
  // @ts-expect-error the tool's own parameters
  await tools.time(7);
  // @ts-expect-error the tools cannot be replaced
  tools.time = async () => 'noon';
  // @ts-expect-error the context comes first
  actpass.protect(async (charge: string) => charge, { tool: 't', goal: 'g', withContext: true });
  // @ts-expect-error withOptions has no goal
  actpass.withOptions({ tool: 't' });
  // @ts-expect-error a scope has no mode
  actpass.bind({ mode: 'monitor' }, () => 1);
  // @ts-expect-error an unknown level
  new ActPass({ logLevel: 'verbose' });
  // @ts-expect-error an invalid logger
  new ActPass({ logger: { log: () => {} } });
  // @ts-expect-error the wrong parameter type of resource
  actpass.protect(async (charge: string) => charge, { tool: 't', goal: 'g', resource: (at: number) => `${at}` });
}
