/** The client: TypeScript's idiom over the native half, which holds all meaning. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { types } from 'node:util';
import { checkFunction, unrun } from './body.js';
import { copied } from './copy.js';
import {
  ActionBlockedError,
  type ActPassError,
  type DescribedError,
  freshly,
  leaving,
  oneLine,
  Site,
  stamped,
  toError,
  withFrames,
} from './errors.js';
import {
  describe,
  joined,
  type Members,
  toInput,
  toJson,
  toMember,
  toMembers,
  Written,
  wrongArgument,
  wrongSetting,
} from './json.js';
import { type Log, logOf } from './log.js';
import { type CallName, type Client, native } from './native.js';
import type { BlockedOutcome, GuardOutcome, Recorded } from './outcome.js';
import { begin, type Caller, checkSignal, converting, door, take } from './runtime.js';
import { type CallSpan, instrument, traced } from './telemetry.js';
import type {
  ActPassOptions,
  Approval,
  CallOptions,
  ClientDefaults,
  Decision,
  ExecutionContext,
  GuardOptions,
  Inferred,
  IssuedPassport,
  IssuePassportOptions,
  Mode,
  PassportRevocation,
  PassportVerification,
  PendingApproval,
  PreflightOptions,
  ProtectOptions,
  RecordEvidenceOptions,
  RecordedEvidence,
  ResumeOptions,
  Scope,
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
const VERIFY_OFFLINE = ['token', 'audience', 'issuer', 'tenantId', 'agentId', 'userId'];
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
const GUARD = [...ACTION, 'waitForApprovalMs'];
const RESUME = ['passport', 'waitForApprovalMs'];
/** What every call may name and the native half reads. */
const CALL = ['traceparent', 'timeoutMs', 'maxRetries'];
/** What the native half reads of each call. */
const INPUTS: { readonly [name in CallName]: readonly string[] } = {
  preflight: [...ACTION, ...CALL],
  authorize: [...GUARD, ...CALL],
  resume: ['pending', ...RESUME, ...CALL],
  waitForApproval: ['approvalRequestId', ...CALL],
  recordOutcome: ['call', 'returned', 'response', ...CALL],
  issuePassport: [...ISSUE, ...CALL],
  verifyPassport: [...VERIFY, ...CALL],
  verifyPassportOffline: [...VERIFY_OFFLINE, ...CALL],
  revokePassport: [...REVOKE, ...CALL],
  recordEvidence: [...EVIDENCE, ...CALL],
};
/** What the TypeScript layer of a guard reads itself. */
const OF_GUARD = ['execute', 'recordOutcome', 'signal'];
const PREFLIGHT_OPTIONS = [...INPUTS.preflight, 'signal'];
const GUARD_OPTIONS = [...INPUTS.authorize, ...OF_GUARD];
const RESUME_OPTIONS = [...RESUME, ...CALL, ...OF_GUARD];
const AWAIT_OPTIONS = [...CALL, 'signal'];
const PROTECT_OPTIONS = [...INPUTS.authorize, 'recordOutcome', 'signal', 'withContext'];
/** The options of `protect` that may be functions of the call's arguments. */
const OF_CALL = ['goal', 'args', 'resource', 'userId', 'passport', 'idempotencyKey', 'approvalRequestId'];
const SCOPE = ['userId', 'audience', 'signal', 'traceparent'];
const DEFAULTS = [...SCOPE, 'mode', 'timeoutMs', 'maxRetries', 'waitForApprovalMs', 'recordOutcome'];
/** The options and defaults of every call. */
const OF_ANY_CALL = ['signal', ...CALL];
/** The defaults of a call about an action. */
const OF_PREFLIGHT = ['userId', 'audience', 'mode', ...OF_ANY_CALL];
/** The defaults of a wait, whose own `timeoutMs` is how long it waits. */
const OF_AWAIT = OF_ANY_CALL.filter((name) => name !== 'timeoutMs');
/** The defaults of `issuePassport`. */
const OF_ISSUE = ['userId', ...OF_ANY_CALL];
/** The defaults of a call about an action that is known. */
const OF_RESUME = ['waitForApprovalMs', 'recordOutcome', ...OF_ANY_CALL];
/** The members of an outcome. */
const OUTCOME_MEMBERS = [
  'kind',
  'executed',
  'decision',
  'result',
  'error',
  'approval',
  'evidence',
  'evidenceError',
  'requestId',
];
/** What a decision is about and a caller can change while the gateway is asked; the rest only carries the question. */
const JUDGED = ['goal', 'args', 'resource', 'userId'] as const;

/** What all clients that {@link ActPass.with} derives share. */
interface Connection {
  /** `undefined` once the client is closed. */
  native: Client | undefined;
  readonly mode: Mode;
  readonly log: Log;
  /** Made by the first {@link ActPass.run}, because it costs every promise of the process. */
  scope: AsyncLocalStorage<Members> | undefined;
}

/** What the constructor is given for a client that shares the connection of another. */
class Derived {
  readonly #connection: Connection;
  readonly #defaults: Members;

  constructor(connection: Connection, defaults: Members) {
    this.#connection = connection;
    this.#defaults = defaults;
  }

  /** The parts of `given` if it is one. No code of a program runs for that, as `instanceof` on a proxy would. */
  static partsOf(given: unknown): { connection: Connection; defaults: Members } | undefined {
    const isDerived = typeof given === 'object' && given !== null && #connection in given;
    return isDerived ? { connection: given.#connection, defaults: given.#defaults } : undefined;
  }
}

/** One call of a method. */
interface Call extends Caller {
  /** What the method was given, and the defaults. */
  readonly members: Members;
  /** Where it was called. */
  readonly site: Site;
  readonly span: CallSpan;
}

/** The private members of a client; an error for anything else that a method is called on. */
let partsOf: (client: unknown) => { connection: Connection; defaults: Members };

/**
 * A client of an ActPass gateway.
 *
 * A client serves many calls at once and keeps its connections for all of them: make one and share it. It keeps the process
 * alive only during calls. Each thread of `worker_threads` makes a client of its own.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 *
 * const actpass = new ActPass({ tenantId: 'your-team-id', agentId: 'support_agent' });
 * const { decision, result, error } = await actpass.guard({
 *   goal: 'resolve_refund_request',
 *   tool: 'stripe.refund.create',
 *   resource: 'stripe:charge:ch_123',
 *   args: { amount: 4900, currency: 'usd' },
 *   execute: async ({ credential }) => ({ refunded: 'ch_123', with: credential?.token }),
 * });
 * console.log(decision.decision, decision.reason_code, result, error);
 * ```
 */
export class ActPass {
  readonly #connection: Connection;
  readonly #defaults: Members;

  static {
    partsOf = (client) => {
      if (typeof client !== 'object' || client === null || !(#connection in client)) {
        throw wrongArgument('this: expected a client: call the method on it, as in actpass.guard(...)');
      }
      return { connection: client.#connection, defaults: client.#defaults };
    };
  }

  /**
   * Checks the settings. Nothing is sent and no thread is started.
   *
   * @throws {@link ActPassConfigError} A setting is missing, misspelled or wrong; the message names it.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl: 'http://127.0.0.1:8787', timeoutMs: 5000, maxRetries: 1 });
   * console.log(actpass.circuit);
   * ```
   */
  constructor(options: ActPassOptions = {}) {
    const derived = Derived.partsOf(options);
    this.#connection = derived?.connection ?? placing(ActPass, () => connect(options));
    this.#defaults = derived?.defaults ?? joined();
  }

  /**
   * Asks for a decision and runs nothing.
   *
   * @returns The gateway's decision. A 401 or 403 whose body is a decision other than `allow` is that decision.
   * @throws {@link ActPassArgumentError} An argument cannot be sent. Nothing was sent.
   * @throws {@link ActPassError} There is no decision; the class and `code` say why.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const decision = await actpass.preflight({
   *   goal: 'send_status_update',
   *   tool: 'gmail.send',
   *   args: { to: 'customer@example.com' },
   *   timeoutMs: 2000,
   * });
   * console.log(decision.decision, decision.reason_code, decision.risk_tier, decision.explain.matched_rules);
   * ```
   */
  async preflight(action: PreflightOptions): Promise<Decision> {
    return calling(
      {
        client: this,
        operation: 'preflight',
        span: 'preflight',
        about: itself,
        above: METHODS.preflight,
        read: (defaults) => withDefaults(toMembers(action, PREFLIGHT_OPTIONS), defaults, OF_PREFLIGHT),
      },
      async (call) => {
        const decision = await ask<Decision>(call, 'preflight');
        call.span.decided(decision);
        return decision;
      },
    );
  }

  /**
   * Asks for a decision, and runs `execute` only if the decision allows it.
   *
   * | mode | `execute` runs |
   * |---|---|
   * | `enforce` | on `allow` |
   * | `strict` | on an `allow` that the gateway recorded for this request |
   * | `warn` | on `allow` and `warn` |
   * | `monitor` | always |
   *
   * A gate that fails is not thrown. It is reported as a blocked decision that the SDK made: `deny`, with a `reason_code`
   * such as `actpass.unreachable`, and the failure in `error`.
   *
   * @typeParam T - What `execute` returns, or what its promise resolves to.
   * @returns The decision and how the call ended: `kind` is `returned`, `threw` or `blocked`.
   * @throws {@link ActPassArgumentError} An argument cannot be sent. Nothing was sent and nothing ran, in any mode.
   * @throws The reason of `signal`, if the signal ended the wait. Nothing ran.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   *
   * async function refund(charge: string, amount: number): Promise<string> {
   *   const outcome = await actpass.guard({
   *     goal: 'resolve_refund_request',
   *     tool: 'stripe.refund.create',
   *     resource: `stripe:charge:${charge}`,
   *     args: { amount, currency: 'usd' },
   *     execute: () => `refunded ${charge}`,
   *   });
   *   if (outcome.kind === 'blocked') {
   *     return `blocked: ${outcome.decision.explain.summary}`;
   *   }
   *   return outcome.unwrap();
   * }
   *
   * console.log(await refund('ch_123', 4900));
   * ```
   */
  async guard<T>(action: GuardOptions<T>): Promise<GuardOutcome<T>> {
    return calling(
      {
        client: this,
        operation: 'guard',
        span: 'guard',
        about: itself,
        above: METHODS.guard,
        read: (defaults) => withDefaults(toMembers(action, GUARD_OPTIONS), defaults, DEFAULTS),
      },
      (call) => run<T>(call, 'authorize', EXECUTE),
    );
  }

  /**
   * Resumes an action that waited for an approval: asks about the same action again, naming the approval, and runs `execute`
   * only if the decision allows it. Otherwise as {@link ActPass.guard}.
   *
   * @param pending - The `approval` of a blocked outcome, also after a round trip through JSON in another process.
   * @throws As {@link ActPass.guard}.
   *
   * @example
   * ```ts
   * import { ActPass, type PendingApproval } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const action = { goal: 'resolve_refund_request', tool: 'stripe.refund.create', args: { amount: 25_000, currency: 'usd' } };
   * const execute = () => 're_1';
   *
   * const { approval } = await actpass.guard({ ...action, execute });
   * if (approval) {
   *   const kept = JSON.stringify(approval); // it holds no secret
   *   // Later, once a person has decided:
   *   const outcome = await actpass.resume(JSON.parse(kept) as PendingApproval, { execute });
   *   console.log(outcome.kind, outcome.decision.reason_code);
   * }
   * ```
   */
  async resume<T>(pending: PendingApproval, options: ResumeOptions<T>): Promise<GuardOutcome<T>> {
    return calling(
      {
        client: this,
        operation: 'resume',
        span: 'resume',
        above: METHODS.resume,
        read: (defaults) => {
          const given = toMembers(options, RESUME_OPTIONS);
          const members = withDefaults(given, defaults, OF_RESUME);
          return joined(members, { pending: new Written(toMember('pending', pending ?? null)) });
        },
        about: ({ pending }) => Object(JSON.parse((pending as Written).text)) as Members,
      },
      (call) => run<T>(call, 'resume', EXECUTE),
    );
  }

  /**
   * Waits until an approval is decided, and returns its state. It may still be pending.
   *
   * @param approval - Its id, or the `approval` of an outcome.
   * @throws {@link ActPassError} As {@link ActPass.preflight}. A failed poll that may succeed later is repeated until the
   * time is over.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const { approval } = await actpass.guard({
   *   goal: 'resolve_refund_request',
   *   tool: 'stripe.refund.create',
   *   args: { amount: 25_000, currency: 'usd' },
   *   execute: () => 're_1',
   * });
   * if (approval) {
   *   const { status, decided_by } = await actpass.waitForApproval(approval, { timeoutMs: 100 });
   *   console.log(status, decided_by);
   * }
   * ```
   */
  async waitForApproval(
    approval: string | Pick<PendingApproval, 'approval_request_id'>,
    options: WaitForApprovalOptions = {},
  ): Promise<Approval> {
    const read = (defaults: Members) => {
      const members = withDefaults(toMembers(options, AWAIT_OPTIONS), defaults, OF_AWAIT);
      return joined(members, { approvalRequestId: idOf(approval) });
    };
    const making = { client: this, operation: 'waitForApproval', span: 'wait_for_approval', read };
    return calling({ ...making, above: METHODS.waitForApproval }, (call) => ask(call, 'waitForApproval'));
  }

  /**
   * Returns a function like `run` that runs it only if it may, under its own `this`.
   *
   * The returned function rejects with an {@link ActionBlockedError} if the action may not run, and with what `run` throws.
   * `goal`, `args`, `resource` and `userId` may be functions of the call's arguments; they must depend on the arguments
   * alone. Only what they return is sent. Without `args`, that is the first argument, an object literal.
   *
   * What runs is what was judged: `run` gets copies, made at the call, of the object literals, arrays, dates, maps and sets
   * among its arguments (without `args`, `resource`, `goal` and `userId` functions: of the first argument). If an argument
   * changes before `run` begins, the call is blocked with `actpass.arguments_changed`.
   *
   * With `withContext`, `run` gets the {@link ExecutionContext}, with the vaulted credential, before its own arguments.
   *
   * @throws {@link ActPassArgumentError} An option is unknown or wrong, or `run` is not a function that runs when it is
   * called.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const refund = actpass.protect(
   *   async ({ credential }, charge: string, amount: number) => ({ charge, amount, key: credential?.token }),
   *   {
   *     tool: 'stripe.refund.create',
   *     goal: 'resolve_refund_request',
   *     resource: (charge) => `stripe:charge:${charge}`,
   *     args: (_charge, amount) => ({ amount, currency: 'usd' }),
   *     withContext: true,
   *   },
   * );
   * console.log(await refund('ch_123', 4900));
   * ```
   */
  protect<A extends unknown[], R>(
    run: (context: ExecutionContext, ...args: A) => R,
    options: ProtectOptions<Inferred<A>> & { withContext: true },
  ): (...args: A) => Promise<Awaited<R>>;
  /** Without the context: `run` gets its own arguments. */
  protect<A extends unknown[], R>(
    run: (...args: A) => R,
    options: ProtectOptions<Inferred<A>> & { withContext?: false | undefined },
  ): (...args: A) => Promise<Awaited<R>>;
  protect<A extends unknown[], R>(run: (...args: never[]) => R, options: ProtectOptions<A>): unknown {
    return placing(METHODS.protect, () => protecting(this, run as (...args: unknown[]) => R, options));
  }

  /**
   * Asks for a passport: a signed token that permits to ask for certain actions for a few minutes, once.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not retried if the gateway may have taken it.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const { token, jti, expires_at } = await actpass.issuePassport({
   *   audience: 'mcp://stripe-production',
   *   goal: 'resolve_refund_request',
   *   allowedTools: ['stripe.refund.create'],
   *   resourceConstraints: { max_amount: 10_000, currency: 'usd' },
   *   ttlSeconds: 300,
   * });
   * console.log(token.length > 0, jti, expires_at);
   * ```
   */
  async issuePassport(wanted: IssuePassportOptions): Promise<IssuedPassport> {
    return asking(this, 'issuePassport', wanted, ISSUE, OF_ISSUE);
  }

  /**
   * Has the gateway verify a passport as presented to `audience`; the other members must match if given. An invalid passport
   * is an answer, not an error.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const { valid, errors } = await actpass.verifyPassport({ token: 'eyJhbGciOi…', audience: 'mcp://stripe-production' });
   * console.log(valid, errors);
   * ```
   */
  async verifyPassport(wanted: VerifyPassportOptions): Promise<PassportVerification> {
    return asking(this, 'verifyPassport', wanted, VERIFY);
  }

  /**
   * Verifies a passport with the gateway's public keys, which are fetched once and kept.
   *
   * The signature (Ed25519), the issuer, the audience, the tenant and the time are checked, and the agent and the user if
   * given. Issuer and tenant are the call's, else those that the gateway names with its keys, else the client's. Clocks may
   * differ by 10 seconds. Only the gateway knows whether a passport was revoked or spent. The keys are fetched again after
   * 10 minutes, and at once for a key that is not among them (at most once a second); if that fails, the present keys serve
   * until they are an hour old.
   *
   * @throws {@link ActPassError} There are no keys to verify with. An invalid passport is an answer, not an error.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const audience = 'mcp://stripe-production';
   * const { valid, claims, errors } = await actpass.verifyPassportOffline({ token: 'eyJhbGciOi…', audience });
   * console.log(valid ? claims?.['jti'] : errors);
   * ```
   */
  async verifyPassportOffline(wanted: VerifyPassportOfflineOptions): Promise<PassportVerification> {
    return asking(this, 'verifyPassportOffline', wanted, VERIFY_OFFLINE);
  }

  /**
   * Revokes the passport named `jti` (`ap_…`), for `reason`.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const { revoked } = await actpass.revokePassport('ap_123', 'session ended');
   * console.log(revoked);
   * ```
   */
  async revokePassport(jti: string, reason?: string, options: CallOptions = {}): Promise<PassportRevocation> {
    const read = (defaults: Members) => {
      const given = withDefaults(toMembers(options, OF_ANY_CALL), defaults, OF_ANY_CALL);
      return joined(given, { jti, reason });
    };
    const making = { client: this, operation: 'revokePassport', span: 'revoke_passport', read };
    return calling({ ...making, above: METHODS.revokePassport }, (call) => ask(call, 'revokePassport'));
  }

  /**
   * Appends an event of your own to a chain of the gateway's tamper-evident ledger.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not retried if the gateway may have taken it.
   *
   * @example
   * ```ts
   * import { ActPass, hashPayload } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const { event_id } = await actpass.recordEvidence({
   *   eventType: 'refund.completed',
   *   chainId: 'refunds',
   *   metadata: { charge: 'ch_123' },
   *   responseHash: hashPayload({ id: 're_1' }),
   * });
   * console.log(event_id);
   * ```
   */
  async recordEvidence(event: RecordEvidenceOptions): Promise<RecordedEvidence> {
    return asking(this, 'recordEvidence', event, EVIDENCE);
  }

  /**
   * Returns a client with defaults for its calls; a call's own options come first. Both clients share connections, settings
   * and {@link ActPass.close}.
   *
   * @throws {@link ActPassArgumentError} A default is unknown or wrong.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const forUser = actpass.with({ userId: 'user_7', timeoutMs: 2000, recordOutcome: true });
   * const outcome = await forUser.guard({
   *   goal: 'resolve_refund_request',
   *   tool: 'stripe.refund.create',
   *   args: { amount: 4900, currency: 'usd' },
   *   execute: () => 're_1',
   * });
   * console.log(outcome.kind, outcome.evidence?.event_id);
   * ```
   */
  with(defaults: ClientDefaults): ActPass {
    return placing(METHODS.with, () => {
      const { connection, defaults: present } = partsOf(this);
      const given = checkDefaults(opened(connection), toMembers(defaults, DEFAULTS));
      return new ActPass(new Derived(connection, joined(present, given)) as object);
    });
  }

  /**
   * Calls `body`; every call of this client and its relatives that is made inside of it, also after an `await`, has the
   * members of `scope` unless the call, or {@link ActPass.with}, says otherwise. Scopes nest. Uses `AsyncLocalStorage`.
   *
   * @returns What `body` returns.
   * @throws {@link ActPassArgumentError} A member of `scope` is unknown or wrong; otherwise what `body` throws.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const handle = () =>
   *   actpass.preflight({ goal: 'send_status_update', tool: 'gmail.send', args: { to: 'customer@example.com' } });
   * const decision = await actpass.run({ userId: 'user_7' }, handle);
   * console.log(decision.decision);
   * ```
   */
  run<R>(scope: Scope, body: () => R): R {
    const [storage, members] = placing(METHODS.run, () => {
      const { connection } = partsOf(this);
      const given = checkDefaults(opened(connection), toMembers(scope, SCOPE));
      checkFunction('body', body);
      connection.scope ??= new AsyncLocalStorage();
      return [connection.scope, joined(connection.scope.getStore(), given)];
    });
    return storage.run(members, body);
  }

  /**
   * Closes the connections of this client and of all clients that share them. Calls in flight end; a later call throws an
   * {@link ActPassConfigError}. A client that nothing refers to closes by itself; `using` closes it at the end of a block.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * try {
   *   await actpass.preflight({ goal: 'send_status_update', tool: 'gmail.send', args: {} });
   * } finally {
   *   actpass.close();
   * }
   * ```
   */
  close(): void {
    placing(METHODS.close, () => {
      const { connection } = partsOf(this);
      connection.native?.close();
      connection.native = undefined;
    });
  }

  /** As {@link ActPass.close}, at the end of a block with `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** As {@link ActPass.close}, at the end of a block with `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /**
   * Whether calls go to the gateway: `closed` (they do), `open` (it could not be reached several times in a row, and calls
   * fail at once for a while) or `half_open` (one call finds out).
   */
  get circuit(): 'closed' | 'half_open' | 'open' {
    return placing(METHODS.circuit, () => opened(partsOf(this).connection).circuit);
  }

  /** As the function {@link hashPayload}. */
  hashPayload(payload: unknown): string {
    return placing(METHODS.hashPayload, () => hashOf(payload));
  }

  /** As the function {@link signPayload}. */
  signPayload(secret: string, payload: unknown): string {
    return placing(METHODS.signPayload, () => signatureOf(secret, payload));
  }
}

/** The methods as they are here: a program may put others in their place, and stacks are cut at these. */
const METHODS = Object.fromEntries(
  Object.entries(Object.getOwnPropertyDescriptors(ActPass.prototype)).map(([name, { get, value }]) => [
    name,
    get ?? value,
  ]),
) as Record<keyof ActPass, Function>;

const itself = (members: Members): Members => members;

/**
 * Returns a client with these settings; as `new ActPass(options)`.
 *
 * @example
 * ```ts
 * import { createActPass } from '@actpass/sdk';
 *
 * const actpass = createActPass({ agentId: 'support_agent' });
 * console.log(actpass.circuit);
 * ```
 */
export function createActPass(options: ActPassOptions = {}): ActPass {
  try {
    return new ActPass(options);
  } catch (error) {
    Error.captureStackTrace?.(error as object, createActPass);
    throw error;
  }
}

/**
 * Returns the SHA-256, in hex, of the canonical JSON (RFC 8785) of `payload`.
 *
 * @throws {@link ActPassArgumentError} `payload` has no canonical form: not JSON, NaN, an integer beyond ±(2^53 - 1), a lone
 * surrogate.
 *
 * @example
 * ```ts
 * import { hashPayload } from '@actpass/sdk';
 *
 * console.log(hashPayload({ currency: 'usd', amount: 4900 }) === hashPayload({ amount: 4900, currency: 'usd' }));
 * ```
 */
export function hashPayload(payload: unknown): string {
  return placing(hashPayload, () => hashOf(payload));
}

/**
 * Returns the HMAC-SHA256 under `secret`, in hex, of the canonical JSON of `payload`.
 *
 * @throws {@link ActPassArgumentError} As {@link hashPayload}.
 *
 * @example
 * ```ts
 * import { signPayload } from '@actpass/sdk';
 *
 * console.log(signPayload('signing key', { amount: 4900 }).length);
 * ```
 */
export function signPayload(secret: string, payload: unknown): string {
  return placing(signPayload, () => signatureOf(secret, payload));
}

/**
 * Returns `{"decision", "error", "executed"}` of a guard's outcome in canonical JSON, equal in every language.
 *
 * `error` is `null` or `{"kind", "status"}`, the kind being `action` for an error of the function that ran.
 *
 * @throws {@link ActPassArgumentError} `outcome` is not the outcome of a guard.
 *
 * @example
 * ```ts
 * import { ActPass, canonicalOutcome } from '@actpass/sdk';
 *
 * const actpass = new ActPass();
 * const outcome = await actpass.guard({ goal: 'g', tool: 'gmail.send', args: {}, execute: () => 'sent' });
 * console.log(canonicalOutcome(outcome));
 * ```
 */
export function canonicalOutcome(outcome: GuardOutcome<unknown>): string {
  return placing(canonicalOutcome, () => {
    const { kind: how, executed, decision, error } = toMembers(outcome, OUTCOME_MEMBERS);
    if (typeof executed !== 'boolean') {
      throw wrongArgument(`executed: expected true or false, found ${describe(executed)}`);
    }
    const text = toJson('decision', decision);
    const { kind, status } = how === 'threw' ? { kind: 'action' } : kindOf(error);
    return converting(() => native.canonicalOutcome(executed, text, kind ?? null, status ?? null));
  });
}

/** What a canonical outcome says of the gate's error. */
function kindOf(error: unknown): { kind?: string; status?: number } {
  try {
    const { kind, status } = Object(error) as { kind?: unknown; status?: unknown };
    return { ...(typeof kind === 'string' && { kind }), ...(typeof status === 'number' && { status }) };
  } catch (cause) {
    throw wrongArgument('error: reading its members failed', cause);
  }
}

/** A call that is about to be made. */
interface Making {
  /** What the method was called on. */
  client: unknown;
  /** The method's name. */
  operation: string;
  /** The name of the call's span. */
  span: string;
  /** The function of the SDK that the caller called. */
  above: Function;
  /** Reads what the method was given, each member once. */
  read(defaults: Members): Members;
  /** What the span tells of the call: `tool` and `mode`. */
  about?(members: Members): Members;
}

/** Makes a call. What fails in it is an error of the method that was called, and has the caller's stack. */
async function calling<R>(making: Making, body: (call: Call) => Promise<R>): Promise<R> {
  const { operation, about } = making;
  const site = new Site(making.above);
  let began: { connection: Connection; members: Members } | { failure: unknown };
  try {
    const { connection, defaults } = partsOf(making.client);
    began = { connection, members: making.read(joined(connection.scope?.getStore(), defaults)) };
  } catch (failure) {
    began = { failure };
  }
  const attributes = () => {
    if (about === undefined || 'failure' in began) {
      return {};
    }
    const { tool, mode = began.connection.mode } = about(began.members);
    const given = Object.entries({ 'actpass.tool': tool, 'actpass.mode': mode });
    return Object.fromEntries(given.filter(([, value]) => typeof value === 'string')) as Record<string, string>;
  };
  return instrument(making.span, attributes, async (span) => {
    try {
      if ('failure' in began) {
        throw began.failure;
      }
      const { connection, members } = began;
      return await body({ client: opened(connection), log: connection.log, operation, members, site, span });
    } catch (error) {
      throw leaving(error, site, operation);
    }
  });
}

/** A call that is not about an action. */
async function asking<A>(
  client: unknown,
  operation: 'issuePassport' | 'recordEvidence' | 'verifyPassport' | 'verifyPassportOffline',
  given: object,
  known: readonly string[],
  defaulted = OF_ANY_CALL,
): Promise<A> {
  const read = (defaults: Members) => withDefaults(toMembers(given, [...known, ...OF_ANY_CALL]), defaults, defaulted);
  const span = operation.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return calling({ client, operation, span, above: METHODS[operation], read }, (call) => ask<A>(call, operation));
}

async function ask<A>(call: Call, name: CallName): Promise<A> {
  const { signal } = call.members as CallOptions;
  const ended = await begin(call, name, inputOf(name, call.members), signal);
  return JSON.parse(take(ended, signal, call.operation).text) as A;
}

/** The input of a call for the native half. */
function inputOf(name: CallName, members: Members): string {
  return traced(toInput(members, INPUTS[name]), members['traceparent'] as string | undefined);
}

/** The function of a guard. */
interface Body {
  /** Its name in messages. */
  member: 'execute' | 'run';
  /** Whether it would run with other arguments than those that were judged. */
  isChanged?: () => boolean;
}

const EXECUTE: Body = { member: 'execute' };

/** The two steps of a guard, and what runs between them. */
async function run<T>(call: Call, name: 'authorize' | 'resume', { member, isChanged }: Body): Promise<GuardOutcome<T>> {
  const { members, span } = call;
  const { execute, signal, recordOutcome = false } = members as Partial<GuardOptions<T>>;
  checkFunction(member, execute);
  if (typeof recordOutcome !== 'boolean') {
    throw wrongArgument(`recordOutcome: expected true or false, found ${describe(recordOutcome)}`);
  }
  const ended = take(await begin(call, name, inputOf(name, members), signal), signal, call.operation);
  // Nothing of the program runs between this comparison and the function.
  const blocked = ended.permitted ? compare(ended.call, isChanged) : ended.text;
  if (blocked !== null) {
    const outcome = outcomeOf<T>(call, 'blocked', blocked, {});
    span.decided(outcome.decision, outcome.error);
    span.ended(false, outcome.error);
    return outcome;
  }
  const context = JSON.parse(converting(() => door.spend(ended.call))) as ExecutionContext;
  span.decided(context.decision);
  let result: T;
  try {
    result = await (execute as GuardOptions<T>['execute'])(context);
    const found = unrun(result);
    if (found !== undefined) {
      const problem = `${member}: expected a result, found ${found}, whose body has not run and never will`;
      throw stamped(wrongArgument(problem), call.site, call.operation);
    }
  } catch (thrown) {
    span.ended(true);
    span.failed(thrown);
    const recorded = recordOutcome ? await record(call, ended.call, false) : undefined;
    const error = thrown === undefined ? unexplained(member, call.site) : thrown;
    return outcomeOf(
      call,
      'threw',
      converting(() => door.failed(ended.call)),
      { error, ...recorded },
    );
  }
  const recorded = recordOutcome ? await record(call, ended.call, true, result) : undefined;
  const settled = converting(() => door.returned(ended.call));
  const outcome = outcomeOf<T>(call, 'returned', settled, { result, ...recorded });
  span.ended(true, outcome.error);
  return outcome;
}

/** What blocks a permitted call whose arguments changed; `null` if it may run. */
function compare(call: number, isChanged: Body['isChanged'] = () => false): string | null {
  let changed: boolean;
  try {
    changed = isChanged();
  } catch {
    // What can no longer be written down is not what was judged.
    changed = true;
  }
  return changed ? converting(() => door.argumentsChanged(call)) : null;
}

/** Records how the action of the call `number` ended. It ended so whether this succeeds or not. */
async function record(call: Call, number: number, returned: boolean, result?: unknown): Promise<Recorded> {
  try {
    const outcome = joined(call.members, { call: number, returned });
    let input = inputOf('recordOutcome', outcome);
    try {
      input = inputOf('recordOutcome', joined(outcome, { response: result }));
    } catch {
      // What is no JSON has no hash.
    }
    const ended = await begin(call, 'recordOutcome', input, undefined);
    return { evidence: JSON.parse(take(ended, undefined, call.operation).text) as RecordedEvidence };
  } catch (error) {
    return { evidenceError: leaving(error, call.site, call.operation) as ActPassError };
  }
}

/** The outcome that the native half reports, with what the function returned or threw. */
function outcomeOf<T>(
  call: Call,
  kind: GuardOutcome<T>['kind'],
  reported: string,
  members: { result?: T; error?: unknown },
): GuardOutcome<T> {
  const { error, ...others } = joined(JSON.parse(reported) as object) as { error?: DescribedError };
  const failure = error && stamped(toError(error, call.operation), call.site);
  const outcome = {
    kind,
    ...others,
    ...(failure !== undefined && { error: failure }),
    ...members,
  } as GuardOutcome<T>;
  const unwrap = (): T => unwrapped(outcome, call, () => new Site(unwrap));
  // It is not a member of what is printed, compared or sent on as JSON.
  return Object.defineProperty(outcome, 'unwrap', { value: unwrap });
}

/** The result of an action that ran and returned; throws otherwise. */
function unwrapped<T>(outcome: GuardOutcome<T>, call: Pick<Call, 'members' | 'operation'>, site: () => Site): T {
  switch (outcome.kind) {
    case 'returned':
      return outcome.result;
    case 'threw':
      throw outcome.error;
    case 'blocked':
      throw stamped(blockedBy(outcome, call), site());
  }
}

function blockedBy(outcome: BlockedOutcome, { members, operation }: Pick<Call, 'members' | 'operation'>): ActPassError {
  const { error, approval, requestId } = joined(outcome) as unknown as BlockedOutcome;
  const { tool = approval?.tool } = members as { tool?: string };
  // Nobody else has the error of a protected function's gate, so it need not repeat the frames.
  const cause = error && operation === 'protect' ? oneLine(error) : error;
  return freshly(new ActionBlockedError(outcome.decision, { cause, tool, approval, operation, requestId }));
}

/** Stands for `undefined`, with which a function was rejected: it says nothing, and looks as if nothing had failed. */
function unexplained(member: string, site: Site): Error {
  return withFrames(new Error(`${member} threw undefined, which says nothing of the cause`), site);
}

/** The options of `protect` that are the same for every call, checked where they are written. */
function protecting<R>(client: ActPass, body: (...args: unknown[]) => R, options: unknown): Function {
  checkFunction('run', body);
  const { connection } = partsOf(client);
  const given = toMembers(options, PROTECT_OPTIONS);
  const { withContext = false, recordOutcome = false } = given;
  for (const [name, value] of Object.entries({ withContext, recordOutcome })) {
    if (typeof value !== 'boolean') {
      throw wrongArgument(`${name}: expected true or false, found ${describe(value)}`);
    }
  }
  const fixed = Object.entries(given).filter(([name, value]) => !OF_CALL.includes(name) || typeof value !== 'function');
  const placeholders = { args: {}, ...(typeof given['goal'] === 'function' && { goal: 'made by the call' }) };
  checkAction(opened(connection), joined(placeholders, Object.fromEntries(fixed)));
  const guarded = async function (this: unknown, ...args: unknown[]): Promise<Awaited<R>> {
    const judged: Judged = { options: given, args, own: args, texts: new Map() };
    const call = { operation: 'protect', members: given };
    const site = new Site(guarded);
    const outcome = await calling<GuardOutcome<Awaited<R>>>(
      {
        client,
        operation: 'protect',
        span: 'guard',
        about: itself,
        above: guarded,
        read: (defaults) => {
          const members = withDefaults(judge(judged), defaults, DEFAULTS);
          const execute = (context: ExecutionContext) =>
            body.apply(this, withContext ? [context, ...judged.own] : judged.own);
          return joined(members, { execute });
        },
      },
      (begun) => run(begun, 'authorize', { member: 'run', isChanged: () => isChanged(judged) }),
    );
    return unwrapped(outcome, call, () => site);
  };
  Object.defineProperty(guarded, 'name', { value: body.name, configurable: true });
  Object.defineProperty(guarded, 'length', { value: body.length, configurable: true });
  return guarded;
}

/** The arguments of one call of a protected function. */
interface Judged {
  /** The options of `protect`. */
  readonly options: Members;
  /** What the function was called with. */
  readonly args: unknown[];
  /** What it runs with: copies of what was judged. */
  own: unknown[];
  /** The JSON texts of what was judged. */
  readonly texts: Map<string, string>;
}

/** The members of the action that a call of a protected function is. */
function judge(judged: Judged): Members {
  const { options, args, texts } = judged;
  if (JUDGED.some((name) => typeof options[name] === 'function')) {
    judged.own = copied(args);
  } else if (options['args'] === undefined) {
    judged.own = [...copied(args.slice(0, 1)), ...args.slice(1)];
  }
  const members = joined();
  for (const name of PROTECT_OPTIONS) {
    const value = ofCall(name, options, judged.own);
    if (value === undefined || !isJudged(name)) {
      members[name] = value;
    } else {
      const text = toMember(name, value);
      texts.set(name, text);
      members[name] = new Written(text);
    }
  }
  return members;
}

function isJudged(name: string): boolean {
  return (JUDGED as readonly string[]).includes(name);
}

/** Whether the caller changed anything that was judged. */
function isChanged({ options, args, texts }: Judged): boolean {
  return [...texts].some(([name, text]) => {
    const value = ofCall(name, options, args);
    return value === undefined || toMember(name, value) !== text;
  });
}

/** The value of an option of `protect` for a call with `args`. */
function ofCall(name: string, options: Members, args: unknown[]): unknown {
  const option = options[name];
  if (name === 'args' && option === undefined) {
    return firstOf(args);
  }
  if (typeof option !== 'function' || !OF_CALL.includes(name)) {
    return option;
  }
  let value: unknown;
  try {
    value = option(...args);
  } catch (error) {
    throw wrongArgument(`${name}: expected a function that returns its value, found one that threw`, error);
  }
  if (types.isPromise(value)) {
    value.catch(() => {});
    throw wrongArgument(`${name}: expected a function that returns its value, found one that returns a promise`);
  }
  return value;
}

/** The arguments as the policy sees them if no option says so. */
function firstOf([first]: unknown[]): object {
  if (first === undefined) {
    return {};
  }
  if (Array.isArray(first) || typeof first !== 'object' || first === null) {
    throw wrongArgument(
      `args: expected an object literal as the first argument of the function, found ${describe(first)}: ` +
        'name what is judged by the option args, such as args: (charge, amount) => ({ charge, amount })',
    );
  }
  return first;
}

/** The client that a connection is made of; an error once it is closed. */
function opened({ native: client }: Connection): Client {
  if (client === undefined) {
    throw wrongSetting('the client is closed: make a new one');
  }
  return client;
}

function connect(options: unknown): Connection {
  const members = toMembers(options, [...SETTINGS, 'logger', 'logLevel'], wrongSetting);
  const log = logOf(members['logger'], members['logLevel']);
  const { ca } = members;
  const settings = joined(members, types.isUint8Array(ca) ? { ca: Buffer.from(ca).toString('latin1') } : undefined, {
    logLevel: log.level,
  });
  const text = toInput(settings, [...SETTINGS, 'logLevel'], wrongSetting);
  const client = converting(() => new native.Client(text));
  return { native: client, mode: (members['mode'] ?? 'enforce') as Mode, log, scope: undefined };
}

/** `given`, whose members are checked as those of an action are. */
function checkDefaults(client: Client, given: Members): Members {
  checkAction(client, joined({ goal: 'checked', tool: 'checked', args: {} }, given));
  const { recordOutcome } = given;
  if (recordOutcome !== undefined && typeof recordOutcome !== 'boolean') {
    throw wrongArgument(`recordOutcome: expected true or false, found ${describe(recordOutcome)}`);
  }
  return given;
}

/** Checks the members of an action without asking about it. */
function checkAction(client: Client, members: Members): void {
  if (members['signal'] !== undefined) {
    checkSignal(members['signal']);
  }
  const text = toInput(members, INPUTS.authorize);
  converting(() => client.check(text));
}

/** `members`, and of those of `defaults` that are among `known` the ones that it lacks. */
function withDefaults(members: Members, defaults: Members, known: readonly string[]): Members {
  const missing = known.filter((name) => members[name] === undefined && defaults[name] !== undefined);
  return joined(members, Object.fromEntries(missing.map((name) => [name, defaults[name]])));
}

/** The id that `approval` is or names. */
function idOf(approval: unknown): unknown {
  if (typeof approval !== 'object' || approval === null) {
    return approval;
  }
  try {
    return (approval as Partial<PendingApproval>).approval_request_id;
  } catch (error) {
    throw wrongArgument('approval: reading its approval_request_id failed', error);
  }
}

function hashOf(payload: unknown): string {
  const text = toJson('payload', payload);
  return converting(() => native.hashPayload(text));
}

function signatureOf(secret: unknown, payload: unknown): string {
  if (typeof secret !== 'string') {
    throw wrongArgument(`secret: expected a string, found ${describe(secret)}`);
  }
  const text = toJson('payload', payload);
  return converting(() => native.signPayload(secret, text));
}

/** Runs `body` for `above`, a function of the SDK: what fails in it has the stack of the caller. */
function placing<R>(above: Function, body: () => R): R {
  try {
    return body();
  } catch (error) {
    throw leaving(error, new Site(above));
  }
}
