/** The client: TypeScript's idiom over the native half, which holds all meaning. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { checkFunction } from './body.js';
import { ask, asking, calling, itself, withDefaults } from './call.js';
import { checkDefaults, connect, Derived, made, opened, partsOf } from './connection.js';
import { placing } from './errors.js';
import { authorize, EXECUTE, run } from './guard.js';
import { hashOf, signatureOf } from './hash.js';
import { joined, type Members, toMember, toMembers, Written, wrongArgument } from './json.js';
import {
  AUTHORIZE_OPTIONS,
  AWAIT_OPTIONS,
  DEFAULTS,
  EVIDENCE,
  GUARD_OPTIONS,
  ISSUE,
  OF_ANY_CALL,
  OF_AWAIT,
  OF_ISSUE,
  OF_PREFLIGHT,
  OF_RESUME,
  PREFLIGHT_OPTIONS,
  RESUME_OPTIONS,
  SCOPE,
  VERIFY,
  VERIFY_OFFLINE,
} from './options.js';
import type { BlockedOutcome, GuardOutcome, Permit } from './outcome.js';
import { protecting } from './protect.js';
import type {
  ActPassOptions,
  Approval,
  AuthorizeOptions,
  CallOptions,
  ClientDefaults,
  Decision,
  ExecutionContext,
  GuardOptions,
  Inferred,
  IssuedPassport,
  IssuePassportOptions,
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
    const parts = Derived.partsOf(options);
    made(this, parts ?? { connection: placing(ActPass, () => connect(options)), defaults: joined() });
  }

  /**
   * Asks for a decision and runs nothing.
   *
   * @returns The gateway's decision. A 401 or 403 whose body is a decision other than `allow` is that decision.
   * @throws {@link ActPassArgumentError} An argument is invalid. Nothing was sent.
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
   * @returns The decision and how the call ended: `kind` is `returned`, `failed` or `blocked`.
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
   * Asks whether an action may run, and returns a permit if so: the steps of {@link ActPass.guard}, for a program that runs the
   * action by itself. In the same modes, on the same decisions; a gate that fails is reported as blocked.
   *
   * @returns A {@link Permit} (`kind` is `permitted`), to be spent once within five minutes and before its credential expires;
   * or what blocked the action (`kind` is `blocked`).
   * @throws As {@link ActPass.guard}.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const permit = await actpass.authorize({
   *   goal: 'resolve_refund_request',
   *   tool: 'stripe.refund.create',
   *   args: { amount: 4900, currency: 'usd' },
   *   recordOutcome: true,
   * });
   * if (permit.kind === 'blocked') {
   *   console.log(permit.decision.reason_code);
   * } else {
   *   const { credential } = permit.spend();
   *   try {
   *     const refund = { id: 're_1', with: credential?.token };
   *     console.log((await permit.returned(refund)).evidence?.event_id);
   *   } catch (error) {
   *     await permit.failed(error);
   *   }
   * }
   * ```
   */
  async authorize(action: AuthorizeOptions): Promise<BlockedOutcome | Permit> {
    return calling(
      {
        client: this,
        operation: 'authorize',
        span: 'authorize',
        about: itself,
        above: METHODS.authorize,
        read: (defaults) => withDefaults(toMembers(action, AUTHORIZE_OPTIONS), defaults, DEFAULTS),
      },
      authorize,
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
    return asking(METHODS.issuePassport, this, 'issuePassport', wanted, ISSUE, OF_ISSUE);
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
    return asking(METHODS.verifyPassport, this, 'verifyPassport', wanted, VERIFY);
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
    return asking(METHODS.verifyPassportOffline, this, 'verifyPassportOffline', wanted, VERIFY_OFFLINE);
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
    return asking(METHODS.recordEvidence, this, 'recordEvidence', event, EVIDENCE);
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
   * const forUser = actpass.withOptions({ userId: 'user_7', timeoutMs: 2000, recordOutcome: true });
   * const outcome = await forUser.guard({
   *   goal: 'resolve_refund_request',
   *   tool: 'stripe.refund.create',
   *   args: { amount: 4900, currency: 'usd' },
   *   execute: () => 're_1',
   * });
   * console.log(outcome.kind, outcome.evidence?.event_id);
   * ```
   */
  withOptions(defaults: ClientDefaults): ActPass {
    return placing(METHODS.withOptions, () => {
      const { connection, defaults: present } = partsOf(this);
      const given = checkDefaults(opened(connection), toMembers(defaults, DEFAULTS));
      return new ActPass(new Derived(connection, joined(present, given)) as object);
    });
  }

  /**
   * Calls `body`; every call of this client and its relatives that is made inside of it, also after an `await`, has the
   * members of `scope` unless the call, or {@link ActPass.withOptions}, says otherwise. Scopes nest. Uses `AsyncLocalStorage`.
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
   * const decision = await actpass.withScope({ userId: 'user_7' }, handle);
   * console.log(decision.decision);
   * ```
   */
  withScope<R>(scope: Scope, body: () => R): R {
    const [storage, members] = placing(METHODS.withScope, () => {
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
