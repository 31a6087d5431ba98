/** The client: the TypeScript API of the native module. */

import { checkFunction } from './body.js';
import { ask, asking, calling, itself, withDefaults } from './call.js';
import { checkDefaults, connect, Derived, made, opened, partsOf } from './connection.js';
import { placing } from './errors.js';
import { authorize, EXECUTE, run } from './guard.js';
import { hashOf, signatureOf } from './hash.js';
import { noteExecution, unlessEnded } from './journal.js';
import { scopeStorage } from './host.js';
import { joined, type Members, toMember, toMembers, Written, wrongArgument, wrongSetting } from './json.js';
import { native } from './native.js';
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
import type { ProtectOptions, ProtectToolsOptions } from './protect-options.js';
import { protecting, protectingTools } from './protect.js';
import type { UNGUARDED } from './unguarded.js';
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
  ProtectedTools,
  RecordEvidenceOptions,
  RecordedEvidence,
  ResumeOptions,
  Scope,
  ToolAction,
  ToolFunctions,
  VerifyPassportOfflineOptions,
  VerifyPassportOptions,
  WaitForApprovalOptions,
} from './types.js';

/**
 * Client of an ActPass gateway.
 *
 * Create one client and share it: concurrent calls share its pooled connections. It keeps the process alive only during
 * calls. Each `worker_threads` thread needs its own client.
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
   * @throws {@link ActPassConfigError} A setting is missing, unknown or invalid; the message names it.
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
   * Requests a decision without running anything.
   *
   * @returns The gateway's decision. A 401 or 403 response whose body is a decision other than `allow` counts as one.
   * @throws {@link ActPassArgumentError} An argument is invalid. Nothing was sent.
   * @throws {@link ActPassError} The request failed; the class and `code` name the cause.
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
        const decision = await unlessEnded(call, () => ask<Decision>(call, 'preflight'));
        noteExecution(false, call.members, decision);
        call.span.decided(decision);
        return decision;
      },
    );
  }

  /**
   * Requests a decision and runs `execute` only if the decision allows it.
   *
   * | mode | `execute` runs |
   * |---|---|
   * | `enforce` | on `allow` |
   * | `strict` | on an `allow` that the gateway recorded for this request |
   * | `warn` | on `allow` and `warn` |
   * | `monitor` | always |
   *
   * If the gate fails, the call does not throw. The outcome is blocked by a `deny` that the SDK made, with a `reason_code`
   * such as `actpass.unreachable`; `error` is the failure.
   *
   * @typeParam T - The result of `execute`, or of its promise.
   * @returns The decision and how the call ended: `kind` is `returned`, `failed` or `blocked`.
   * @throws {@link ActPassArgumentError} An argument is invalid. Nothing was sent and nothing ran, in any mode.
   * @throws The reason of `signal`, if it aborted the call. Nothing ran.
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
   * Requests a decision and returns a permit if the action may run: the steps of {@link ActPass.guard}, for a program that
   * runs the action itself. Modes and decisions apply as in `guard`; a failed gate is reported as blocked.
   *
   * @returns A single-use {@link Permit} (`kind` is `permitted`), valid for five minutes or until its credential expires; or
   * the blocked outcome (`kind` is `blocked`).
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
   * Resumes an action after its approval was decided: requests a decision for the same action with that approval, and runs
   * `execute` only if the decision allows it. Otherwise as {@link ActPass.guard}.
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
   *   const stored = JSON.stringify(approval); // contains no secrets
   *   // Later, after the decision:
   *   const outcome = await actpass.resume(JSON.parse(stored) as PendingApproval, { execute });
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
   * Waits until an approval is decided, and returns its state, which may still be pending.
   *
   * @param approval - Its id, or the `approval` of an outcome.
   * @throws {@link ActPassError} As {@link ActPass.preflight}. Retryable polls are repeated until the
   * timeout.
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
   * Wraps `run` so that it runs only if the decision about its arguments allows it. `this` is preserved.
   *
   * The returned function rejects with an {@link ActionBlockedError} if the action is blocked, unless `onBlocked` is given, and
   * with the error of `run`. `goal`, `args`, `resource` and `userId` may be pure functions of the call's arguments; only their
   * results are sent. Without `args`, the first argument, an object literal, is sent.
   *
   * `run` receives the evaluated arguments: copies, made at the call, of the object literals, arrays, dates, maps and sets
   * among its arguments (of the first argument only, if no option is a function). If an argument changes before `run` starts,
   * the call is blocked with `actpass.arguments_changed`.
   *
   * With `withContext`, `run` receives the {@link ExecutionContext}, with the vaulted credential, before its own arguments.
   *
   * @throws {@link ActPassArgumentError} An option is unknown or invalid, or `run` is not a function that runs when called.
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
   *     args: (charge, amount) => ({ charge, amount, currency: 'usd' }),
   *     resource: 'stripe:charge:{charge}',
   *     withContext: true,
   *     onBlocked: (error) => error.message,
   *   },
   * );
   * console.log(await refund('ch_123', 4900));
   * ```
   */
  protect<A extends unknown[], R, B = never>(
    run: (context: ExecutionContext, ...args: A) => R,
    options: ProtectOptions<Inferred<A>, B> & { withContext: true },
  ): (...args: A) => Promise<Awaited<R> | Awaited<B>>;
  /** Without the context: `run` receives its own arguments. */
  protect<A extends unknown[], R, B = never>(
    run: (...args: A) => R,
    options: ProtectOptions<Inferred<A>, B> & { withContext?: false | undefined },
  ): (...args: A) => Promise<Awaited<R> | Awaited<B>>;
  protect<A extends unknown[], R>(run: (...args: never[]) => R, options: ProtectOptions<A>): unknown {
    return placing(METHODS.protect, () => protecting(this, run, options));
  }

  /**
   * Wraps all tools of an agent as {@link ActPass.protect} does, each by its action. `this` is `tools`.
   *
   * An unknown name, such as one that a model invented, is also a function: it is blocked with `actpass.unmapped_tool`, in
   * every mode, without a request. `UNGUARDED` tools run without a decision. The returned object is frozen.
   *
   * @param tools - The functions by the names of the tools.
   * @param actions - For each name, the tool's action or `UNGUARDED`.
   * @throws {@link ActPassArgumentError} A tool has no action, an action has no tool, or an action is invalid; it names them all.
   *
   * @example
   * ```ts
   * import { ActPass, UNGUARDED } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const tools = actpass.protectTools(
   *   {
   *     refund: async ({ charge, amount }: { charge: string; amount: number }) => `refunded ${amount} of ${charge}`,
   *     current_time: () => new Date().toISOString(),
   *   },
   *   {
   *     refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request', resource: 'stripe:charge:{charge}' },
   *     current_time: UNGUARDED,
   *   },
   *   { onBlocked: (error) => error.message },
   * );
   * const call = { name: 'wipe_disk', arguments: '{}' }; // by a model
   * console.log(await tools.refund({ charge: 'ch_123', amount: 4900 }));
   * console.log(await tools[call.name]?.(JSON.parse(call.arguments))); // wipe_disk was not run: deny …
   * ```
   */
  protectTools<T extends ToolFunctions, B = never>(
    tools: T,
    actions: { readonly [K in keyof T]: ToolAction<Parameters<T[K]>> | typeof UNGUARDED },
    options: ProtectToolsOptions<B> = {},
  ): ProtectedTools<T, B> {
    return placing(METHODS.protectTools, () => protectingTools(this, tools, actions, options)) as ProtectedTools<T, B>;
  }

  /**
   * Issues a passport: a signed, short-lived, single-use token that limits an agent's requests.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not retried if the gateway may have processed it.
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
   * Verifies a passport with the gateway, as presented to `audience`; the other members must match if given. An invalid
   * passport does not throw.
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
   * Verifies a passport locally with the gateway's cached public keys.
   *
   * Checks the signature (EdDSA or ES256), issuer, audience, expiry and tenant, and the agent and user if given, with 10 seconds of
   * clock leeway. Issuer and tenant default to the key set's, then to the client's. Only the gateway can detect a
   * revoked or spent passport. Keys are refetched after 10 minutes, and immediately for an unknown key id (at most once a
   * second). If that fails, cached keys are used until they are one hour old.
   *
   * @throws {@link ActPassError} No public keys are available. An invalid passport does not throw.
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
   * Revokes the passport with the id `jti` (`ap_…`); the ledger records `reason`.
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
   * Appends an application event to a chain of the gateway's tamper-evident ledger.
   *
   * @throws {@link ActPassError} As {@link ActPass.preflight}. The call is not retried if the gateway may have processed it.
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
   * Returns a client with defaults for its calls; options of a call take precedence. Both clients share connections,
   * settings and {@link ActPass.close}.
   *
   * @throws {@link ActPassArgumentError} A default is unknown or invalid.
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
   * Calls `body` with `scope` as the defaults of all calls of this client, and of clients derived from it, inside `body`, also
   * after an `await`. Options of a call and of {@link ActPass.withOptions} take precedence. Scopes nest. Uses
   * `AsyncLocalStorage`.
   *
   * @returns The result of `body`.
   * @throws {@link ActPassArgumentError} A member of `scope` is unknown or invalid. Errors of `body` propagate.
   *
   * @example
   * ```ts
   * import { ActPass } from '@actpass/sdk';
   *
   * const actpass = new ActPass();
   * const handle = () =>
   *   actpass.preflight({ goal: 'send_status_update', tool: 'gmail.send', args: { to: 'customer@example.com' } });
   * const decision = await actpass.bind({ userId: 'user_7' }, handle);
   * console.log(decision.decision);
   * ```
   */
  bind<R>(scope: Scope, body: () => R): R {
    const [storage, members] = placing(METHODS.bind, () => {
      const { connection } = partsOf(this);
      const given = checkDefaults(opened(connection), toMembers(scope, SCOPE));
      checkFunction('body', body);
      connection.scope ??= scopeStorage();
      if (connection.scope === undefined) {
        throw wrongSetting(
          'bind: this host has no AsyncLocalStorage; pass the options to each call, or use withOptions',
        );
      }
      return [connection.scope, joined(connection.scope.getStore(), given)];
    });
    return storage.run(members, body);
  }

  /**
   * Closes the connections of this client and of all clients that share them. Calls in flight are cancelled; later calls
   * throw an {@link ActPassConfigError}. An unreferenced client closes when it is garbage collected; `using` closes it at the
   * end of a block.
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

  /** Calls {@link ActPass.close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** Calls {@link ActPass.close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /**
   * State of the circuit breaker: `closed`, `open` (the gateway was unreachable `circuitFailures` times in a row, and calls
   * fail immediately) or `half_open` (one call probes the gateway).
   */
  get circuit(): 'closed' | 'half_open' | 'open' {
    return placing(METHODS.circuit, () => opened(partsOf(this).connection).circuit);
  }

  /**
   * The engine that decides: `native`, the native module, or `wasm`, which sends with the host's `fetch`. On Node, wasm is used
   * if no native module fits; the environment variable `ACTPASS_ENGINE` forces one.
   */
  get engine(): 'native' | 'wasm' {
    return placing(METHODS.engine, () => partsOf(this) && (native.engine ?? 'native'));
  }

  /** Same as the function {@link hashPayload}. */
  hashPayload(payload: unknown): string {
    return placing(METHODS.hashPayload, () => hashOf(payload));
  }

  /** Same as the function {@link signPayload}. */
  signPayload(secret: string, payload: unknown): string {
    return placing(METHODS.signPayload, () => signatureOf(secret, payload));
  }
}

/** The original methods, at which stack traces are cut; a program may replace the prototype's methods. */
const METHODS = Object.fromEntries(
  Object.entries(Object.getOwnPropertyDescriptors(ActPass.prototype)).map(([name, { get, value }]) => [
    name,
    get ?? value,
  ]),
) as Record<keyof ActPass, Function>;

/**
 * Creates a client; same as `new ActPass(options)`.
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

/** Returns the id of `approval`, which is an id or an object with one. */
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
