/** A user's program: everything in it must compile under `--strict` and more. */

import {
  ActionBlockedError,
  ActPass,
  ActPassArgumentError,
  ActPassError,
  ActPassTimeoutError,
  type AllowDecision,
  canonicalOutcome,
  createActPass,
  type Decision,
  type GuardOutcome,
  hashPayload,
  type IssuedPassport,
  type Mode,
  type PendingApproval,
  type RequireApprovalDecision,
  signPayload,
} from '@actpass/sdk';

/** Compiles only where the two types are the same. */
type Same<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false;
function holds<T extends true>(): T | undefined {
  return undefined;
}

interface Receipt {
  id: string;
  amount: number;
}
declare function refund(charge: string, amount: number): Promise<Receipt>;

const actpass: ActPass = createActPass({ apiKey: 'apk_dev', mode: 'strict', ca: new Uint8Array() });
const action = { goal: 'g', tool: 't', args: { amount: 4900 } };

export async function outcomes(): Promise<void> {
  const outcome = await actpass.guard({ ...action, execute: () => refund('ch_123', 4900) });
  holds<Same<typeof outcome, GuardOutcome<Receipt>>>();
  const { result, error, decision, executed } = outcome;
  holds<Same<typeof result, Receipt | undefined>>();
  holds<Same<typeof executed, boolean>>();
  if (error instanceof ActPassError) {
    const code: string = error.code;
    const status: number | undefined = error.status;
    console.log(code, status, error.cause);
  }

  if (!outcome.executed) {
    const gate: ActPassError | undefined = outcome.error;
    const pending: PendingApproval | undefined = outcome.approval;
    // A decision that blocks is never `allow`.
    holds<Same<Extract<typeof outcome.decision, AllowDecision>, never>>();
    console.log(gate, pending?.args['amount']);
  } else if (outcome.result !== undefined) {
    const receipt: Receipt = outcome.result;
    console.log(receipt.id);
  }
  if (executed && result) {
    console.log(result.amount);
  }
  if (outcome.executed && outcome.error === undefined) {
    console.log(outcome.result.id, outcome.evidence?.event_id);
  }

  switch (decision.decision) {
    case 'allow':
      holds<Same<typeof decision, AllowDecision>>();
      break;
    case 'require_approval': {
      holds<Same<typeof decision, RequireApprovalDecision>>();
      const id: string | undefined = decision.approval_request_id;
      console.log(id);
      break;
    }
    case 'warn':
      console.log(decision.would_be);
      break;
    case 'deny':
    case 'require_tool_reapproval':
      console.log(decision.reason_code, decision.explain?.matched_rules?.join());
      break;
    default: {
      const word: string = decision.decision;
      console.log(word);
    }
  }
}

export async function whatExecuteReturns(): Promise<void> {
  const sync = await actpass.guard({ ...action, execute: () => 7 });
  holds<Same<typeof sync, GuardOutcome<number>>>();
  const nothing = await actpass.guard({ ...action, execute: () => {} });
  holds<Same<typeof nothing, GuardOutcome<void>>>();
  const given = await actpass.guard({
    ...action,
    execute: ({ credential, decision }) => [credential?.token, decision.decision] as const,
  });
  holds<Same<typeof given, GuardOutcome<readonly [string | undefined, Decision['decision']]>>>();
  const explicit = await actpass.guard<string | null>({ ...action, execute: async () => null });
  holds<Same<typeof explicit.result, string | null | undefined>>();
}

export async function theOtherCalls(signal: AbortSignal, mode: Mode | undefined): Promise<void> {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const decision: Decision = await actpass.preflight({ ...action, mode, signal, traceparent, userId: undefined });
  const passport: IssuedPassport = await actpass.issuePassport({
    audience: 'a',
    goal: 'g',
    allowedTools: ['t'] as const,
    resourceConstraints: { max_amount: 10_000 },
  });
  const verified: boolean = (await actpass.verifyPassport({ token: passport.token, audience: 'a' })).valid;
  const offline = await actpass.verifyPassportOffline({ token: passport.token, audience: 'a', issuer: 'i' });
  const revoked: boolean = (await actpass.revokePassport('ap_1', 'over', { signal, traceparent: undefined })).revoked;
  const recorded: string = (await actpass.recordEvidence({ eventType: 'e', chainId: 'c' })).event_id;
  const { status } = await actpass.waitForApproval('apr_1', { timeoutMs: 1000 });
  holds<Same<typeof status, 'pending' | 'approved' | 'rejected' | 'expired'>>();
  const pending = JSON.parse('{}') as PendingApproval;
  const resumed = await actpass.resume(pending, { execute: () => refund('ch_123', 4900), passport: passport.token });
  holds<Same<typeof resumed, GuardOutcome<Receipt>>>();
  const text: string = canonicalOutcome(resumed) + hashPayload({}) + signPayload('s', []) + actpass.hashPayload(1);
  console.log(decision, verified, offline.claims?.['jti'], revoked, recorded, text);
}

export async function protectedFunctions(): Promise<void> {
  const safe = actpass.protect(refund, {
    tool: 't',
    goal: 'g',
    resource: (charge) => `stripe:charge:${charge}`,
    args: (_charge, amount) => ({ amount }),
  });
  holds<Same<typeof safe, typeof refund>>();
  const twice = actpass.protect((value: number) => value * 2, { tool: 't', goal: (value) => `double ${value}` });
  holds<Same<typeof twice, (value: number) => Promise<number>>>();
  try {
    const receipt: Receipt = await safe('ch_123', 4900);
    console.log(receipt, await twice(21));
  } catch (error) {
    if (error instanceof ActionBlockedError) {
      const why: Exclude<Decision, AllowDecision> = error.decision;
      console.log(why.reason_code);
    }
    const late: boolean = error instanceof ActPassTimeoutError && !(error instanceof ActPassArgumentError);
    console.log(late);
  }
}

export async function oneThatThrows(): Promise<string> {
  // Interfaces are taken as arguments as well as literals.
  interface Refund {
    amount: number;
  }
  const args: Refund = { amount: 1 };
  const outcome = await actpass.guard({ goal: 'g', tool: 't', args, execute: () => 'done' });
  if (outcome.executed) {
    return outcome.result ?? `${outcome.error}`;
  }
  return outcome.decision.reason_code ?? 'blocked';
}
