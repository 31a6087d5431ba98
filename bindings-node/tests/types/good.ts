/** A user's program, which must compile under `--strict` and stricter options. */

import {
  ActionBlockedError,
  ActPass,
  ActPassArgumentError,
  ActPassError,
  ActPassTimeoutError,
  type AllowDecision,
  type BlockedOutcome,
  type BlockingDecision,
  canonicalOutcome,
  type ClientDefaults,
  createActPass,
  type Decision,
  type ExecutionContext,
  type GuardOutcome,
  hashPayload,
  type IssuedPassport,
  type Logger,
  type Mode,
  type ObservedOutcome,
  type PendingApproval,
  type Permit,
  type RecordedEvidence,
  type RequireApprovalDecision,
  type ReturnedOutcome,
  signPayload,
  type FailedOutcome,
  type ToolAction,
  UNGUARDED,
} from '@actpass/sdk';

/** Compiles only if the two types are identical. */
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
  const { kind, result, error, decision, executed, approval, evidence, evidenceError, requestId, unwrap } = outcome;
  holds<Same<typeof kind, 'blocked' | 'returned' | 'failed'>>();
  holds<Same<typeof result, Receipt | undefined>>();
  holds<Same<typeof error, ActPassError | NonNullable<unknown> | null | undefined>>();
  holds<Same<typeof executed, boolean>>();
  holds<Same<typeof approval, PendingApproval | undefined>>();
  holds<Same<typeof evidence, RecordedEvidence | undefined>>();
  holds<Same<typeof evidenceError, ActPassError | undefined>>();
  holds<Same<typeof requestId, string | undefined>>();
  holds<Same<ReturnType<typeof unwrap>, Receipt>>();
  const unwrapped: Receipt = outcome.unwrap();
  console.log(unwrapped.id);
  switch (kind) {
    case 'returned':
      holds<Same<typeof result, Receipt>>();
      holds<Same<typeof error, ActPassError | undefined>>();
      break;
    case 'failed':
      holds<Same<typeof result, undefined>>();
      holds<Same<typeof error, NonNullable<unknown> | null>>();
      break;
    case 'blocked':
      holds<Same<typeof result, undefined>>();
      holds<Same<typeof error, ActPassError | undefined>>();
      holds<Same<typeof decision, BlockingDecision>>();
      break;
    default:
      holds<Same<typeof kind, never>>();
  }
  if (error instanceof ActPassError) {
    const code: string = error.code;
    const status: number | undefined = error.status;
    console.log(code, status, error.cause);
  }

  if (!outcome.executed) {
    const gate: ActPassError | undefined = outcome.error;
    const pending: PendingApproval | undefined = outcome.approval;
    // A blocking decision is never `allow`.
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
      console.log(decision.reason_code.length, decision.explain.matched_rules.join(), decision.explain.summary.length);
      break;
    default: {
      const word: string = decision.decision;
      console.log(word);
    }
  }
}

export async function permits(): Promise<void> {
  const permit = await actpass.authorize({ ...action, recordOutcome: true, waitForApprovalMs: 1000, timeoutMs: 100 });
  holds<Same<typeof permit, BlockedOutcome | Permit>>();
  if (permit.kind === 'blocked') {
    holds<Same<typeof permit.decision, BlockingDecision>>();
    return;
  }
  holds<Same<typeof permit.decision, Decision>>();
  const context = permit.spend();
  holds<Same<typeof context, ExecutionContext>>();
  permit.spend({ args: { amount: 4900 } });
  const returned = await permit.returned(await refund('ch_123', 4900));
  holds<Same<typeof returned, ReturnedOutcome<Receipt> | ObservedOutcome<Receipt>>>();
  const threw: FailedOutcome = await permit.failed(new Error('the card is closed'));
  const cancelled: FailedOutcome = await permit.cancelled();
  const either: GuardOutcome<Receipt> = returned;
  console.log(threw.evidence?.event_id, cancelled.executed, either.unwrap().id);
}

export function blocked(error: ActionBlockedError): string {
  holds<Same<typeof error.developerText, string>>();
  holds<Same<typeof error.retryable, boolean>>();
  return `${error.message} ${error.tool ?? ''} ${error.approval?.approval_request_id ?? ''}`;
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
  const optional = actpass.protect(async (charge: string, note?: string, ...tags: number[]) => [charge, note, tags], {
    tool: 't',
    goal: 'g',
    args: (charge) => ({ charge }),
    resource: (_charge, note) => note ?? '',
  });
  holds<Same<Parameters<typeof optional>, [charge: string, note?: string | undefined, ...tags: number[]]>>();
  await optional('ch_123');
  const generic = actpass.protect(async <T extends object>(order: T) => order, {
    tool: 't',
    goal: 'g',
    args: (it) => it,
  });
  const same: { id: number } = await generic({ id: 1 });
  console.log(same.id);
  const twice = actpass.protect((value: number) => value * 2, { tool: 't', goal: (value) => `double ${value}` });
  holds<Same<typeof twice, (value: number) => Promise<number>>>();
  try {
    const receipt: Receipt = await safe('ch_123', 4900);
    console.log(receipt, await twice(21));
  } catch (error) {
    if (error instanceof ActionBlockedError) {
      const why: Exclude<Decision, AllowDecision> = error.decision;
      console.log(why.reason_code, error.tool, error.approval?.approval_request_id, error.requestId);
    }
    const late: boolean = error instanceof ActPassTimeoutError && !(error instanceof ActPassArgumentError);
    console.log(late);
  }
}

export async function oneThatThrows(): Promise<string> {
  // Arguments may be typed by an interface.
  interface Refund {
    amount: number;
  }
  const args: Refund = { amount: 1 };
  const outcome = await actpass.guard({ goal: 'g', tool: 't', args, execute: () => 'done' });
  if (outcome.executed) {
    return outcome.result ?? `${outcome.error}`;
  }
  return outcome.decision.reason_code;
}

/** A tool declaration as in the AI SDK: the schema determines the types of `execute`. */
interface Schema<T> {
  parse(value: unknown): T;
}
interface ToolCallOptions {
  toolCallId: string;
  messages: { role: string }[];
  abortSignal?: AbortSignal;
}
interface Tool<Input, Output> {
  description?: string;
  inputSchema: Schema<Input>;
  execute?: (input: Input, options: ToolCallOptions) => AsyncIterable<Output> | PromiseLike<Output> | Output;
}
declare function tool<Input, Output>(definition: Tool<Input, Output>): Tool<Input, Output>;
/** Other tool declarations: overloads, `execute` as a property of a generic object, a context before the options. */
declare function agentTool<S extends Schema<unknown>, R>(options: {
  parameters: S;
  execute: (input: S extends Schema<infer I> ? I : never, context?: { runId: string }) => Promise<R>;
}): (input: S extends Schema<infer I> ? I : never) => Promise<R>;
declare function langTool<T>(
  run: (input: T, config: { signal?: AbortSignal }) => Promise<string>,
  fields: { schema: Schema<T> },
): T;
declare const schema: Schema<{ charge: string; amount: number }>;

export async function insideOfOtherLibraries(): Promise<void> {
  const options = { tool: 'stripe.refund.create', goal: 'resolve_refund_request' } as const;
  const inferred = tool({
    inputSchema: schema,
    execute: actpass.protect(async ({ charge, amount }) => ({ id: charge, amount }), {
      ...options,
      resource: ({ charge }) => `stripe:charge:${charge}`,
    }),
  });
  holds<Same<typeof inferred, Tool<{ charge: string; amount: number }, Receipt>>>();
  const withOptions = tool({
    inputSchema: schema,
    execute: actpass.protect(
      async ({ amount }, { toolCallId, messages }) => `${toolCallId} ${messages.length} ${amount}`,
      {
        ...options,
        idempotencyKey: (_input, { toolCallId }) => toolCallId,
      },
    ),
  });
  holds<Same<typeof withOptions, Tool<{ charge: string; amount: number }, string>>>();
  const withContext = tool({
    inputSchema: schema,
    execute: actpass.protect(
      async ({ credential }, { charge }, { toolCallId }) => [credential?.token, charge, toolCallId] as const,
      { ...options, withContext: true, args: ({ amount }) => ({ amount }) },
    ),
  });
  holds<
    Same<typeof withContext, Tool<{ charge: string; amount: number }, readonly [string | undefined, string, string]>>
  >();
  const agent = agentTool({
    parameters: schema,
    execute: actpass.protect(async ({ charge }) => charge.length, options),
  });
  holds<Same<ReturnType<typeof agent>, Promise<number>>>();
  const lang = langTool(
    actpass.protect(async (input: { charge: string }, { signal }) => `${input.charge} ${signal?.aborted}`, options),
    { schema },
  );
  holds<Same<typeof lang, { charge: string; amount: number }>>();
  const alone = actpass.protect(
    (context: ExecutionContext, charge: string) => `${charge} ${context.credential?.token}`,
    {
      ...options,
      withContext: true,
      args: (charge) => ({ charge: charge.length }),
    },
  );
  const called: Promise<string> = alone('ch_123');
  holds<Same<Parameters<typeof alone>, [charge: string]>>();
  console.log(await called);
}

export async function actions(): Promise<void> {
  const refund: ToolAction = { tool: 't', goal: 'refund for {customer}', resource: ({ charge }) => `charge:${charge}` };
  const mapped: { [tool: string]: ToolAction | typeof UNGUARDED } = { refund, time: UNGUARDED };
  const typed: ToolAction<[charge: string, amount: number]> = {
    tool: 't',
    args: (charge, amount) => ({ charge: charge.length, amount: amount.toFixed() }),
    approvalRequestId: 'apr_1',
  };
  const texts = actpass.protect(async (charge: string, amount: number) => ({ charge, amount }), {
    ...typed,
    onBlocked: (error) => error.message,
  });
  const result: { charge: string; amount: number } | string = await texts('ch_123', 1);
  holds<Same<Awaited<ReturnType<typeof texts>>, { charge: string; amount: number } | string>>();
  const tools = actpass.protectTools(
    { refund: async ({ charge }: { charge: string }) => charge.length, time: () => 'noon' },
    { refund: { tool: 't', goal: 'g', resource: ({ charge }) => charge.toUpperCase() }, time: UNGUARDED },
    { onBlocked: (error) => error.decision },
  );
  holds<Same<Parameters<typeof tools.refund>, [{ charge: string }]>>();
  holds<Same<Awaited<ReturnType<typeof tools.refund>>, number | BlockingDecision>>();
  const plain = actpass.protectTools({ time: () => 'noon' }, { time: UNGUARDED });
  holds<Same<Awaited<ReturnType<typeof plain.time>>, string>>();
  const anything: unknown = await tools[`${Date.now()}`]?.({ any: 'arguments' });
  console.log(anything);
  const permit = await actpass.authorize({ goal: 'g', tool: 't', args: {} });
  if (permit.kind === 'permitted') {
    const failed: FailedOutcome = await permit.suspended(new Error('interrupt'));
    console.log(failed.error, result, mapped['time'] === UNGUARDED);
  }
}

export async function scopes(logger: Logger): Promise<void> {
  using closed = new ActPass({ logger, logLevel: 'debug' });
  await using later = new ActPass({ logger: console });
  const defaults: ClientDefaults = { userId: 'u', timeoutMs: 5, maxRetries: 0, recordOutcome: true };
  const scoped: ActPass = closed.withOptions(defaults);
  const returned: number = scoped.bind({ userId: 'u', goal: 'g', passport: 'p' }, () => 7);
  const promised: Promise<string> = later.bind({}, async () => 'x');
  console.log(returned, await promised);
  scoped.close();
}
