/** The client: TypeScript's idiom over the native half, which holds all meaning. */

import { types } from 'node:util';
import { checkFunction, unrun } from './body.js';
import {
  ActionBlockedError,
  ActPassConfigError,
  type ActPassError,
  type DescribedError,
  rethrow,
  toError,
} from './errors.js';
import { describe, isPlain, toInput, toJson, toMember, Written, wrongArgument } from './json.js';
import { type Batch, type CallName, type Client, How, native } from './native.js';
import { type Told, tell, traced, watching } from './telemetry.js';
import type {
  ActPassOptions,
  Approval,
  CallOptions,
  Decision,
  ExecuteOptions,
  ExecutionContext,
  GuardOptions,
  GuardOutcome,
  IssuedPassport,
  IssuePassportOptions,
  Mode,
  PassportRevocation,
  PassportVerification,
  PendingApproval,
  PreflightOptions,
  ProtectOptions,
  RecordEvidenceOptions,
  Recorded,
  RecordedEvidence,
  ResumeOptions,
  VerifyPassportOfflineOptions,
  VerifyPassportOptions,
  WaitForApprovalOptions,
} from './types.js';

const SETTINGS = [
  'apiKey',
  'tenantId',
  'agentId',
  'baseUrl',
  'timeoutMs',
  'connectTimeoutMs',
  'maxRetries',
  'circuitFailures',
  'mode',
  'ca',
  'dangerAllowInsecureHttp',
];
const ACTION = [
  'goal',
  'tool',
  'args',
  'resource',
  'userId',
  'passport',
  'mode',
  'idempotencyKey',
  'audience',
  'approvalRequestId',
  'toolManifestHash',
];
const ISSUE = [
  'audience',
  'goal',
  'allowedTools',
  'allowedResources',
  'resourceConstraints',
  'userId',
  'riskTier',
  'ttlSeconds',
  'approvalRequestId',
];
const VERIFY = ['token', 'audience', 'agentId', 'userId', 'currentToolManifestHash', 'policyHash'];
const VERIFY_OFFLINE = ['token', 'audience', 'issuer', 'agentId', 'userId'];
const REVOKE = ['jti', 'reason'];
const EVIDENCE = [
  'eventType',
  'chainId',
  'toolId',
  'decision',
  'reasonCode',
  'metadata',
  'requestHash',
  'responseHash',
];
const AWAIT = ['approvalRequestId', 'timeoutMs'];
const GUARD = [...ACTION, 'waitForApprovalMs'];
const RESUME = ['pending', 'passport', 'waitForApprovalMs'];
const OUTCOME = ['call', 'returned', 'response'];
/** What every call may name. */
const TRACE = 'traceparent';
/** What the face itself sees to. */
const OF_FACE = ['execute', 'recordOutcome', 'signal'];
const PROTECT = [...GUARD, TRACE, 'recordOutcome', 'signal'];
/** What a decision is about and a caller can change while the gateway is asked; the rest only carries the question. */
const JUDGED = ['goal', 'args', 'resource', 'userId'] as const;

/**
 * A client of an ActPass gateway.
 *
 * Many calls may be under way at once; connections are kept and shared by all calls of a client. Nothing of it keeps a
 * process alive but a call that is waited for. Each thread of `worker_threads` makes a client of its own.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 *
 * const actpass = new ActPass({ apiKey: process.env.ACTPASS_API_KEY!, tenantId: 'your-team-id', agentId: 'support_agent' });
 * const { decision, result, error } = await actpass.guard({
 *   goal: 'resolve_refund_request', tool: 'stripe.refund.create', resource: 'stripe:charge:ch_123',
 *   args: { amount: 4900, currency: 'usd' }, mode: 'enforce',
 *   execute: async ({ credential }) => refund('ch_123', 4900),
 * });
 * ```
 */
export class ActPass {
  readonly #native: Client;
  readonly #mode: Mode;

  /**
   * Checks the settings. Nothing is sent and no thread is started.
   *
   * @throws {@link ActPassConfigError} A setting is missing, misspelled or wrong; the message names it.
   */
  constructor(options: ActPassOptions = {}) {
    const ca: unknown = options?.ca;
    const given = ca instanceof Uint8Array ? { ...options, ca: Buffer.from(ca).toString('latin1') } : options;
    const settings = toInput(given, SETTINGS, [], wrongSetting);
    this.#native = converting(() => new native.Client(settings));
    this.#mode = options.mode ?? 'enforce';
  }

  /**
   * Asks for a decision, and runs nothing.
   *
   * @returns The decision as the gateway sent it. A 401 or 403 that explains itself with a decision other than `allow` is
   * that decision.
   * @throws {@link ActPassArgumentError} Something cannot be sent; nothing was.
   * @throws {@link ActPassError} There is no decision; the class and `code` say why.
   */
  async preflight(action: PreflightOptions): Promise<Decision> {
    return this.#watching('preflight', action, async (told) => {
      const decision = await this.#ask<Decision>('preflight', action, ACTION);
      told.decided(decision);
      return decision;
    });
  }

  /**
   * Asks for a decision, and runs `execute` only when the decision allows it.
   *
   * In `enforce` it runs on `allow` only; in `strict` only if the decision is recorded as well; in `warn` also on `warn`; in
   * `monitor` always. A gate that fails is not thrown: it is reported as a blocked decision that the SDK made, `deny` with a
   * `reason_code` such as `actpass.unreachable`, with `error` saying what happened.
   *
   * @typeParam T - What `execute` returns, or what its promise resolves to.
   * @returns What was decided, whether it ran, and what came of it.
   * @throws {@link ActPassArgumentError} Something cannot be sent. Nothing was sent and nothing ran, in any mode.
   * @throws The reason of `signal`, if that ended the wait. Nothing ran.
   *
   * @example
   * ```ts
   * const outcome = await actpass.guard({
   *   goal: 'resolve_refund_request', tool: 'stripe.refund.create', args: { amount: 4900, currency: 'usd' },
   *   execute: () => refund('ch_123', 4900),
   * });
   * switch (outcome.decision.decision) {
   *   case 'allow': return outcome.result;
   *   case 'require_approval': return askAPerson(outcome.decision.approval_request_id);
   *   default: return `blocked: ${outcome.decision.reason_code}`;
   * }
   * ```
   */
  async guard<T>(action: GuardOptions<T>): Promise<GuardOutcome<T>> {
    return this.#guard(action);
  }

  /**
   * Goes on with an action that waited for a person: asks about the very same action again, naming the approval, and runs
   * `execute` only when the decision allows it. Otherwise as {@link ActPass.guard}.
   *
   * @param pending - What `approval` was in the outcome of the guard, also after a time as JSON elsewhere.
   *
   * @example
   * ```ts
   * const outcome = await actpass.guard({ ...action, execute });
   * if (outcome.approval) await keep(JSON.stringify(outcome.approval));
   * // ... once somebody decided:
   * await actpass.resume(JSON.parse(kept), { execute });
   * ```
   */
  async resume<T>(pending: PendingApproval, options: ResumeOptions<T>): Promise<GuardOutcome<T>> {
    return this.#watching('resume', pending, (told) =>
      this.#run('resume', toInput({ ...options, pending }, [...RESUME, TRACE], OF_FACE), options, told, {}),
    );
  }

  /**
   * Waits until somebody decided about an approval, and says where it stands then. It may still be pending.
   *
   * @param approval - Its id, or the `approval` of an outcome.
   * @throws {@link ActPassError} As {@link ActPass.preflight}. A look that fails in a way that may pass is repeated until the
   * time is over.
   */
  async waitForApproval(
    approval: string | Pick<PendingApproval, 'approval_request_id'>,
    options: WaitForApprovalOptions = {},
  ): Promise<Approval> {
    const approvalRequestId = typeof approval === 'object' ? approval?.approval_request_id : approval;
    const wanted = { ...options, approvalRequestId };
    return this.#call<Approval>('waitForApproval', wanted, AWAIT);
  }

  /**
   * Returns a function of the same type as `run` that runs it only when it may, under `this`, with the arguments that it is
   * called with.
   *
   * The returned function rejects with an {@link ActionBlockedError} when it may not run, and with what `run` throws when it
   * throws. What `goal`, `args`, `resource` and `userId` make of the arguments is judged as it is at the call, and made once
   * more right before `run` is called: a difference blocks with `actpass.arguments_changed`. So these functions must depend
   * on the arguments alone. What `run` reads of its arguments later, after an `await`, is no longer compared.
   *
   * @example
   * ```ts
   * const safeRefund = actpass.protect(refund, {
   *   tool: 'stripe.refund.create',
   *   goal: 'resolve_refund_request',
   *   resource: (charge) => `stripe:charge:${charge}`,
   *   args: (_charge, amount) => ({ amount, currency: 'usd' }),
   * });
   * await safeRefund('ch_123', 4900);
   * ```
   *
   * @throws {@link ActPassArgumentError} An option is unknown, or `run` is no function that runs when it is called.
   */
  protect<F extends (...args: never[]) => Promise<unknown>>(run: F, options: ProtectOptions<Parameters<F>>): F;
  protect<A extends unknown[], R>(
    run: (...args: A) => R,
    options: ProtectOptions<A>,
  ): (...args: A) => Promise<Awaited<R>>;
  protect<A extends unknown[], R>(
    run: (...args: A) => R,
    options: ProtectOptions<A>,
  ): (...args: A) => Promise<Awaited<R>> {
    checkFunction('run', run);
    for (const name of Object.keys(options)) {
      if (!PROTECT.includes(name)) {
        throw wrongArgument(`${name}: expected one of ${PROTECT.join(', ')}`);
      }
    }
    const actpass = this;
    const given: Record<string, unknown> = { ...options, args: options.args ?? whole };
    const guarded = async function (this: unknown, ...args: A): Promise<Awaited<R>> {
      const asked = Object.fromEntries(PROTECT.map((name) => [name, ofCall(name, given[name], args)]));
      const judged = JUDGED.map((name) => written(name, asked[name]));
      const isChanged = () =>
        JUDGED.some((name, at) => written(name, ofCall(name, given[name], args))?.text !== judged[at]?.text);
      const execute = () => run.apply(this, args) as Awaited<R>;
      const action = { ...asked, ...Object.fromEntries(JUDGED.map((name, at) => [name, judged[at]])), execute };
      const outcome = await actpass.#guard(action as object as GuardOptions<Awaited<R>>, { member: 'run', isChanged });
      if (!outcome.executed) {
        throw new ActionBlockedError(outcome.decision, outcome.error);
      }
      if ('result' in outcome) {
        return outcome.result as Awaited<R>;
      }
      throw outcome.error;
    };
    Object.defineProperty(guarded, 'name', { value: run.name, configurable: true });
    Object.defineProperty(guarded, 'length', { value: run.length, configurable: true });
    return guarded;
  }

  /**
   * Asks for a passport: signed leave to ask for certain actions for a few minutes, once.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not repeated where the gateway may have taken it.
   */
  async issuePassport(wanted: IssuePassportOptions): Promise<IssuedPassport> {
    return this.#call<IssuedPassport>('issuePassport', wanted, ISSUE);
  }

  /**
   * Has the gateway verify a passport as shown to `audience`; the other members must match if given. A passport that is not
   * valid throws nothing.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}.
   */
  async verifyPassport(wanted: VerifyPassportOptions): Promise<PassportVerification> {
    return this.#call<PassportVerification>('verifyPassport', wanted, VERIFY);
  }

  /**
   * Verifies a passport with the gateway's public keys, which are fetched once and kept.
   *
   * The signature (Ed25519), the issuer, the audience and the time are checked, and the tenant of this client, the agent and
   * the user if given. Clocks may differ by 10 seconds. That a passport was revoked or spent only the gateway knows. The keys
   * are fetched again after 10 minutes, and for a key that is not among them (at most every 30 seconds); if that fails, those
   * at hand serve until they are an hour old.
   *
   * @throws {@link ActPassError} There are no keys to verify with. A passport that is not valid throws nothing.
   */
  async verifyPassportOffline(wanted: VerifyPassportOfflineOptions): Promise<PassportVerification> {
    return this.#call<PassportVerification>('verifyPassportOffline', wanted, VERIFY_OFFLINE);
  }

  /**
   * Revokes the passport named `jti` (`ap_…`), for `reason`.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}.
   */
  async revokePassport(jti: string, reason?: string, options: CallOptions = {}): Promise<PassportRevocation> {
    const wanted = { ...options, jti, reason };
    return this.#call<PassportRevocation>('revokePassport', wanted, REVOKE);
  }

  /**
   * Appends an event of your own to a chain of the gateway's tamper-evident ledger.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not repeated where the gateway may have taken it.
   */
  async recordEvidence(event: RecordEvidenceOptions): Promise<RecordedEvidence> {
    return this.#call<RecordedEvidence>('recordEvidence', event, EVIDENCE);
  }

  /**
   * Whether calls go to the gateway: `closed` (they do), `open` (it could not be reached several times in a row, and calls fail
   * at once for a while) or `half_open` (one call finds out).
   */
  get circuit(): 'closed' | 'half_open' | 'open' {
    return this.#native.circuit;
  }

  /** As the function {@link hashPayload}. */
  hashPayload(payload: unknown): string {
    return hashPayload(payload);
  }

  /** As the function {@link signPayload}. */
  signPayload(secret: string, payload: unknown): string {
    return signPayload(secret, payload);
  }

  #guard<T>(action: GuardOptions<T>, body: Body = {}): Promise<GuardOutcome<T>> {
    return this.#watching('guard', action, (told) =>
      this.#run('authorize', toInput(action, [...GUARD, TRACE], OF_FACE), action, told, body),
    );
  }

  /** The two steps of a guard, and what runs between them. */
  async #run<T>(
    name: 'authorize' | 'resume',
    input: string,
    options: ExecuteOptions<T>,
    told: Told,
    { member = 'execute', isChanged }: Body,
  ): Promise<GuardOutcome<T>> {
    const { execute, signal, traceparent, recordOutcome = false } = options;
    checkFunction(member, execute);
    if (typeof recordOutcome !== 'boolean') {
      throw wrongArgument(`recordOutcome: expected true or false, found ${describe(recordOutcome)}`);
    }
    const asked = traced(input, traceparent);
    const { call, permitted, text } = take(await begin(this.#native, name, asked, signal), signal);
    // Nothing of the program runs between this comparison and `execute`.
    const blocked = permitted ? this.#compare(call, isChanged) : text;
    if (blocked !== null) {
      const outcome = reported(blocked) as GuardOutcome<T>;
      told.decided(outcome.decision, outcome.error);
      told.ended(false, outcome.error);
      return outcome;
    }
    const context = JSON.parse(converting(() => door.spend(call))) as ExecutionContext;
    told.decided(context.decision);
    let result: T;
    try {
      result = await execute(context);
      const found = unrun(result);
      if (found !== undefined) {
        throw wrongArgument(`${member}: expected a result, found ${found}, whose body has not run and never will`);
      }
    } catch (error) {
      told.ended(true, error);
      const recorded = recordOutcome ? await this.#record(call, traceparent, false) : undefined;
      return { ...reported(converting(() => door.failed(call))), error, ...recorded } as GuardOutcome<T>;
    }
    const recorded = recordOutcome ? await this.#record(call, traceparent, true, result) : undefined;
    const outcome = reported(converting(() => door.returned(call))) as GuardOutcome<T>;
    told.ended(true, outcome.error);
    return { ...outcome, result, ...recorded } as GuardOutcome<T>;
  }

  /** What blocks a permitted call whose arguments changed; `null` if it may run. */
  #compare(call: number, isChanged: Body['isChanged'] = () => false): string | null {
    let changed: boolean;
    try {
      changed = isChanged();
    } catch {
      // What can no longer be written down is not what was judged.
      changed = true;
    }
    return changed ? converting(() => door.argumentsChanged(call)) : null;
  }

  /** Records how the action of `call` ended. It ended so whether this succeeds or not. */
  async #record(call: number, traceparent: string | undefined, returned: boolean, result?: unknown): Promise<Recorded> {
    try {
      const outcome = { call, traceparent, returned };
      let input = toInput(outcome, [...OUTCOME, TRACE]);
      try {
        input = toInput({ ...outcome, response: result }, [...OUTCOME, TRACE]);
      } catch {
        // What is no JSON has no hash.
      }
      const asked = traced(input, traceparent);
      const { text } = take(await begin(this.#native, 'recordOutcome', asked, undefined), undefined);
      return { evidence: JSON.parse(text) as RecordedEvidence };
    } catch (error) {
      return { evidenceError: error as ActPassError };
    }
  }

  /** A call that is about no decision. */
  async #call<A>(name: CallName, options: CallOptions & object, known: readonly string[]): Promise<A> {
    const operation = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    return watching(
      operation,
      () => ({}),
      () => this.#ask<A>(name, options, known),
    );
  }

  async #ask<A>(name: CallName, options: CallOptions & object, known: readonly string[]): Promise<A> {
    const input = traced(toInput(options, [...known, TRACE], ['signal']), options.traceparent);
    return JSON.parse(take(await begin(this.#native, name, input, options.signal), options.signal).text) as A;
  }

  /** Makes a call that is about an action. */
  #watching<R>(operation: string, action: unknown, call: (told: Told) => Promise<R>): Promise<R> {
    const about = () => {
      const { tool, mode = this.#mode } = action as { tool?: unknown; mode?: unknown };
      const told = Object.entries({ 'actpass.tool': tool, 'actpass.mode': mode });
      return Object.fromEntries(told.filter(([, value]) => typeof value === 'string')) as Record<string, string>;
    };
    return watching(operation, about, call);
  }
}

/**
 * Returns a client with these settings; as `new ActPass(options)`.
 */
export function createActPass(options: ActPassOptions = {}): ActPass {
  return new ActPass(options);
}

/**
 * Returns the SHA-256, in hex, of the canonical JSON (RFC 8785) of `payload`.
 *
 * @throws {@link ActPassArgumentError} `payload` has no canonical form: not JSON, NaN, an integer beyond ±(2^53 - 1), a lone
 * surrogate.
 */
export function hashPayload(payload: unknown): string {
  const text = toJson('payload', payload);
  return converting(() => native.hashPayload(text));
}

/**
 * Returns the HMAC-SHA256 under `secret`, in hex, of the canonical JSON of `payload`.
 *
 * @throws {@link ActPassArgumentError} As {@link hashPayload}.
 */
export function signPayload(secret: string, payload: unknown): string {
  if (typeof secret !== 'string') {
    throw wrongArgument(`secret: expected a string, found ${describe(secret)}`);
  }
  const text = toJson('payload', payload);
  return converting(() => native.signPayload(secret, text));
}

/**
 * Returns `{"decision", "error", "executed"}` of a guard's outcome in canonical JSON, equal in every language.
 *
 * `error` is `null` or `{"kind", "status"}`, the kind being `action` for an error of the function that ran.
 */
export function canonicalOutcome(outcome: GuardOutcome<unknown>): string {
  const { executed, decision, error } = outcome;
  const text = toJson('decision', decision);
  const ofGate = !executed || 'result' in outcome;
  const { kind, status } = (ofGate ? (error ?? {}) : { kind: 'action' }) as Partial<ActPassError>;
  return converting(() => native.canonicalOutcome(executed, text, kind ?? null, status ?? null));
}

/** What a call ended with. */
interface Ended {
  /** The number of the call. */
  call: number;
  failed: boolean;
  /** The core ruled that the action may run. */
  permitted: boolean;
  /** What came of it. */
  text: string;
}

/** The calls of this thread that are under way, by their numbers. */
const underWay = new Map<number, (ended: Ended) => void>();
let lastNumber = 0;

const door = new native.Door((batch: Batch) => {
  for (let at = 0; at < batch.length; at += 3) {
    const call = batch[at] as number;
    const how = batch[at + 1];
    const resolve = underWay.get(call);
    leave(call);
    resolve?.({ call, failed: how === How.Failed, permitted: how === How.Permitted, text: batch[at + 2] as string });
  }
});

/** Begins a call. The promise is rejected only by `signal`; while it is pending, the process stays alive. */
function begin(client: Client, name: CallName, input: string, signal: AbortSignal | undefined): Promise<Ended> {
  if (signal === undefined) {
    return new Promise((resolve) => {
      enter(client, name, input, resolve);
    });
  }
  if (typeof signal?.addEventListener !== 'function') {
    throw wrongArgument(`signal: expected an AbortSignal, found ${describe(signal)}`);
  }
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    let hasEnded = false;
    const abandon = () => {
      if (!hasEnded) {
        leave(call);
        door.cancel(call);
        reject(signal.reason);
      }
    };
    const call = enter(client, name, input, (ended) => {
      hasEnded = true;
      resolve(ended);
      // A signal may be of the program's own making; the other calls of the batch still have to end.
      tell(() => signal.removeEventListener('abort', abandon));
    });
    signal.addEventListener('abort', abandon, { once: true });
  });
}

/** Begins a call and returns its number. */
function enter(client: Client, name: CallName, input: string, resolve: (ended: Ended) => void): number {
  lastNumber += 1;
  const call = lastNumber;
  converting(() => client[name](door, call, input));
  if (underWay.size === 0) {
    door.hold();
  }
  underWay.set(call, resolve);
  return call;
}

function leave(call: number): void {
  if (underWay.delete(call) && underWay.size === 0) {
    door.release();
  }
}

/** What a call ended with, unless its caller has lost interest meanwhile. An error gets the caller's stack here. */
function take(ended: Ended, signal: AbortSignal | undefined): Ended {
  if (signal?.aborted) {
    door.cancel(ended.call);
    throw signal.reason;
  }
  if (ended.failed) {
    throw toError(JSON.parse(ended.text) as DescribedError);
  }
  return ended;
}

/** The outcome that the native half reports, the gate's error made one. */
function reported(text: string): object {
  const outcome = JSON.parse(text) as { error?: DescribedError };
  return outcome.error === undefined ? outcome : { ...outcome, error: toError(outcome.error) };
}

/** What a guard has to know of the function that it runs, besides the function. */
interface Body {
  /** The function's name in messages. Default: `execute`. */
  member?: string;
  /** Whether the function would run with other arguments than those that were judged. */
  isChanged?: () => boolean;
}

/** The value of an option of `protect` for a call with `args`. */
function ofCall(name: string, option: unknown, args: unknown[]): unknown {
  if (typeof option !== 'function') {
    return option;
  }
  const value: unknown = option(...args);
  if (types.isPromise(value)) {
    value.catch(() => {});
    throw wrongArgument(`${name}: expected a function that returns its value, found one that returns a promise`);
  }
  return value;
}

/** The JSON text of a member, which nothing changes any more; `undefined` where it is not given. */
function written(name: string, value: unknown): Written | undefined {
  return value === undefined ? undefined : new Written(toMember(name, value));
}

/** What a protected function is called with, where nothing says how the policy sees it. */
function whole(...args: unknown[]): object {
  const [first] = args;
  if (args.length === 0) {
    return {};
  }
  return args.length === 1 && isPlain(first) ? first : { arguments: args };
}

function wrongSetting(message: string): ActPassError {
  return new ActPassConfigError(message, { code: 'actpass.invalid_config', kind: 'config' });
}

/** Calls the native half, whose errors arrive as texts. */
function converting<R>(call: () => R): R {
  try {
    return call();
  } catch (error) {
    return rethrow(error);
  }
}
