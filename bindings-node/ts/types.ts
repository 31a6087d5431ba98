/// <reference lib="esnext.disposable" preserve="true" />

import type { UNGUARDED } from './unguarded.js';

/** The guard's mode: the decisions on which an action runs. */
export type Mode =
  /** Runs on `allow` only. The default. */
  | 'enforce'
  /** Runs on an `allow` that the gateway recorded for this request. */
  | 'strict'
  /** Runs on `allow` and `warn`; `warn` means that enforce would have blocked the action. */
  | 'warn'
  /** Always runs, and reports what enforce would have decided. */
  | 'monitor';

/** The risk of an action. */
export type RiskTier = 'low' | 'medium' | 'high' | 'critical';

/** Any JSON value. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [member: string]: JsonValue };

/**
 * The settings of a client.
 */
export interface ActPassOptions {
  /** The API key, which is the client's identity: `apk_…` or `apdv_…`. Default: the environment variable `ACTPASS_API_KEY`. */
  apiKey?: string | undefined;
  /** The tenant: a routing hint that the gateway does not trust. Default: none. */
  tenantId?: string | undefined;
  /** The agent's name. Default: `sdk`. */
  agentId?: string | undefined;
  /**
   * The gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else the hosted gateway. Plain `http` is
   * accepted for loopback addresses only.
   */
  baseUrl?: string | undefined;
  /** The total deadline of a call in milliseconds, including retries and backoff; above 0, at most a day. Default: 30000. */
  timeoutMs?: number | undefined;
  /** The deadline of one connection attempt in milliseconds. Default: 5000, or `timeoutMs` if shorter. */
  connectTimeoutMs?: number | undefined;
  /**
   * The maximum number of retries of a call, 0 to 10. A call that is not idempotent is retried only if the gateway certainly
   * did not process it. Default: 2.
   */
  maxRetries?: number | undefined;
  /**
   * Number of consecutive calls that must fail to reach the gateway before the circuit opens; while open, calls fail
   * immediately with `actpass.unreachable`. 0 disables it. Default: 5.
   */
  circuitFailures?: number | undefined;
  /** The default mode of calls. No environment variable changes it. Default: `enforce`. */
  mode?: Mode | undefined;
  /** Additional trusted CA certificates, in PEM. */
  ca?: string | Uint8Array | undefined;
  /**
   * The passkeys that must sign approvals, as JSON text with `rp_id`, `origins` and `keys`. An approved action without a valid
   * signature is blocked (`actpass.approval_unsigned`). Default: none.
   */
  approvalKeys?: string | undefined;
  /**
   * The private key that the API key is bound to (DPoP, RFC 9449), P-256 or Ed25519 in PKCS#8 PEM; see
   * {@link dpopThumbprint}. Default: the file in the environment variable `ACTPASS_DPOP_KEY_FILE`, else none.
   */
  dpopKey?: string | undefined;
  /**
   * Permits plain `http` to other machines. Anyone on the network path can then read the key and forge decisions.
   * Default: `false`.
   */
  dangerAllowInsecureHttp?: boolean | undefined;
  /**
   * Permits a browser, where everyone who opens the page can read the API key. Without effect elsewhere. Default: `false`.
   */
  dangerAllowBrowser?: boolean | undefined;
  /** Receives the log lines, such as `console` or a pino or winston logger. Default: standard error. */
  logger?: Logger | undefined;
  /**
   * The lowest level to log. Default: the environment variable `ACTPASS_LOG`; else `info` with a `logger` and `off`
   * without.
   */
  logLevel?: LogLevel | undefined;
}

/** The lowest level of log lines to write. */
export type LogLevel =
  /** No lines. */
  | 'off'
  /** Reserved: errors are thrown or reported, not logged. */
  | 'error'
  /** Failures of the gate. */
  | 'warn'
  /** Also each blocked action. */
  | 'info'
  /** Also each call, retry and permitted action. */
  | 'debug';

/**
 * A logger. The SDK calls a method with one line, without secrets, when a call ends. Errors and rejections of the methods
 * are ignored.
 */
export interface Logger {
  /** Logs a line of level `error`. */
  error(line: string): unknown;
  /** Logs a line of level `warn`. */
  warn(line: string): unknown;
  /** Logs a line of level `info`. */
  info(line: string): unknown;
  /** Logs a line of level `debug`. */
  debug(line: string): unknown;
}

/** Defaults of all calls inside {@link ActPass.bind}. */
export interface Scope {
  /** The agent's goal, for `protect` and tools without their own. */
  goal?: string | undefined;
  /** The user on whose behalf the agent acts, for `guard`, `preflight`, `protect` and `issuePassport`. */
  userId?: string | undefined;
  /** The passport that an action spends, for `guard`, `preflight`, `protect` and `resume`. */
  passport?: string | undefined;
  /** The service to which a passport is presented, for `guard`, `preflight` and `protect`. */
  audience?: string | undefined;
  /** Aborts every call. */
  signal?: AbortSignal | undefined;
  /** The trace of every call. */
  traceparent?: string | undefined;
}

/** Defaults of all calls of the client that {@link ActPass.withOptions} returns. */
export interface ClientDefaults extends Scope {
  /** How decisions are applied. */
  mode?: Mode | undefined;
  /** The deadline of a call, as in {@link CallOptions}; `waitForApproval` keeps its own. */
  timeoutMs?: number | undefined;
  /** The maximum number of retries, as in {@link CallOptions}. */
  maxRetries?: number | undefined;
  /** Time to wait for an approval in milliseconds, as in {@link ExecuteOptions}. */
  waitForApprovalMs?: number | undefined;
  /** Whether to record outcomes, as in {@link ExecuteOptions}. */
  recordOutcome?: boolean | undefined;
}

/** Options of every call. */
export interface CallOptions {
  /** Aborts the call: it rejects immediately with the signal's reason, and nothing runs. */
  signal?: AbortSignal | undefined;
  /**
   * The trace that the call is part of, in W3C Trace Context format. Default: the current OpenTelemetry span, if
   * OpenTelemetry is configured.
   */
  traceparent?: string | undefined;
  /**
   * The deadline of each request of this call in milliseconds, including retries and backoff; above 0, at most a day.
   * Default: the client's.
   */
  timeoutMs?: number | undefined;
  /** The maximum number of retries of each request of this call, 0 to 10. Default: the client's. */
  maxRetries?: number | undefined;
}

/**
 * An action of an agent, with its goal.
 */
export interface Action {
  /** The agent's goal. */
  goal: string;
  /** The tool that the action uses. */
  tool: string;
  /**
   * The tool's arguments: a JSON object, nested at most 127 levels deep. `undefined` members are omitted, `-0` is sent as
   * `0`.
   */
  args: object;
  /** The target of the action, such as `stripe:charge:ch_123`. Default: nothing. */
  resource?: string | undefined;
  /** The user on whose behalf the agent acts. */
  userId?: string | undefined;
  /** The passport that the action spends. */
  passport?: string | undefined;
  /** The guard's mode. Default: the client's. */
  mode?: Mode | undefined;
  /**
   * Identifies repetitions of the request: a second call with the same key runs nothing. Default: a new UUIDv7, reused by
   * retries.
   */
  idempotencyKey?: string | undefined;
  /** The service to which the passport is presented. */
  audience?: string | undefined;
  /** The approved request that the action spends. */
  approvalRequestId?: string | undefined;
  /** The hash of the tool's definition as the agent sees it. */
  toolManifestHash?: string | undefined;
}

/** Options of {@link ActPass.preflight}. */
export interface PreflightOptions extends Action, CallOptions {}

/** Options of calls that may give permission to run. */
export interface PermitOptions extends CallOptions {
  /**
   * Time to wait for a human decision in milliseconds if the action needs approval, at most 30 days; `timeoutMs`
   * applies to each request separately. After an approval the action is preflighted again, and that decision applies.
   * Default: no waiting; the action is blocked.
   */
  waitForApprovalMs?: number | undefined;
  /**
   * Records in the ledger, on the decision's chain, how the action ended, with the hash of its result if that is JSON. The
   * outcome's `evidence` or `evidenceError` reports the recording; nothing else changes. Default: `false`.
   */
  recordOutcome?: boolean | undefined;
}

/** The function to run, and options of the call. */
export interface ExecuteOptions<T> extends PermitOptions {
  /**
   * The function to run: called at most once, after the decision, on the caller's thread and in the caller's
   * `AsyncLocalStorage` context. Its result is awaited. Generator functions and classes are rejected before anything is
   * sent. A returned generator or other iterator, whose body has not run, is reported as `error`.
   */
  execute: (context: ExecutionContext) => T | PromiseLike<T>;
}

/** Options of {@link ActPass.authorize}. */
export interface AuthorizeOptions extends Action, PermitOptions {}

/** Options of {@link Permit.spend}. */
export interface SpendOptions {
  /** The current arguments. If they differ from the evaluated arguments, the action is blocked. Default: no comparison. */
  args?: object | undefined;
}

/** Options of {@link ActPass.guard}. */
export interface GuardOptions<T> extends Action, ExecuteOptions<T> {}

/** Options of {@link ActPass.resume}. */
export interface ResumeOptions<T> extends ExecuteOptions<T> {
  /** The passport that the action spends. A pending approval does not store it, because it is a secret. */
  passport?: string | undefined;
}

/**
 * An action that waits for human approval: JSON without secrets, to store until the decision, also in another process. The
 * gateway compares it with the approved action, so a changed copy does not run.
 */
export interface PendingApproval {
  /** The approval's id. */
  approval_request_id: string;
  /** The agent's goal. */
  goal: string;
  /** The tool that the action uses. */
  tool: string;
  /** The tool's arguments. */
  args: { [member: string]: JsonValue };
  /** The target of the action. */
  resource?: string;
  /** The user on whose behalf the agent acts. */
  user_id?: string;
  /** The mode of the request. */
  mode?: Mode;
  /** The service to which a passport is presented. */
  audience?: string;
  /** The hash of the tool's definition. */
  tool_manifest_hash?: string;
}

/** Options of {@link ActPass.waitForApproval}. */
export interface WaitForApprovalOptions extends Omit<CallOptions, 'timeoutMs'> {
  /** The longest wait in milliseconds, at most 30 days; each request has the client's deadline. Default: 0, one poll. */
  timeoutMs?: number | undefined;
}

/** The state of an approval. */
export interface Approval {
  /** Its id. */
  id: string;
  /** Its status. */
  status: 'pending' | 'approved' | 'rejected' | 'expired';
  /** The hash of the action to approve. */
  action_hash?: string;
  /** The person who decided; `null` while pending. */
  decided_by?: string | null;
  /** When it was decided, RFC 3339; `null` while pending. */
  decided_at?: string | null;
  /** When it expires. */
  deadline?: string;
}

/** The argument of `execute`. */
export interface ExecutionContext {
  /** The vaulted credential of the tool; `null` without one. */
  credential: Credential | null;
  /** The decision about the action. */
  decision: Decision;
  /**
   * Aborted when a person stops the action while the function runs. The function decides what to do: it can finish, end early,
   * or pass the signal on, such as to `fetch`, which then rejects with an `AbortError`. The function is signalled if it has run for
   * longer than a second, or if another response shows the stop; the gateway must support stops.
   *
   * Not enumerable: a copy such as `{ ...context }` does not have it.
   */
  readonly halt: AbortSignal;
}

/** A credential from the gateway's vault. */
export interface Credential {
  /** The secret. */
  token: string;
  /** When it expires, RFC 3339. */
  expires_at?: string | null;
}

/** The state of a budget's account: the sum that is used of the limit in the trailing window. */
export interface BudgetUse {
  /** The name of the budget in the policy. */
  name: string;
  /** The values that identify the account, by path. */
  account: { [path: string]: unknown };
  /** The highest sum in a window. */
  limit: number;
  /** The sum; after an `allow`, with the action. */
  used: number;
  /** The limit without the sum, at least 0. */
  remaining: number;
  /** The window, such as `24h`. */
  window: string;
}

/** Explanation of a decision. */
export interface Explain {
  /** A sentence; empty if the gateway sent none. */
  summary: string;
  /** The names of the matched rules; empty if the gateway sent none. */
  matched_rules: string[];
  /** The next steps, in sentences; empty if the gateway sent none. */
  next_steps: string[];
  /** The budgets that apply to the action; only with one. */
  budgets?: BudgetUse[];
}

/** The members of every decision, named as on the wire. Unlisted members are kept unchanged. */
export interface DecisionBase {
  /** The stable reason, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the gateway sent none. */
  reason_code: string;
  /** The risk of the action. */
  risk_tier?: RiskTier;
  /** The explanation, for people. */
  explain: Explain;
  /** The ledger entry of this decision. */
  evidence_event_id?: string;
  /** The chain of that entry. */
  evidence_chain_id?: string;
  /** The hash of the decided request. */
  request_hash?: string;
  /** The hash of the applied policy. */
  policy_hash?: string;
  /** Whether the gateway repeats an earlier answer to a request with the same idempotency key. */
  replayed?: boolean | null;
  /** Time since the gateway first recorded the repeated response, in milliseconds. */
  replay_age_ms?: number | null;
  /** The id of the vaulted credential that `execute` receives. */
  credential_id?: string;
}

/** The action may run. */
export interface AllowDecision extends DecisionBase {
  /** The decision. */
  decision: 'allow';
}

/** The action may not run: decided by the gateway, or by the SDK because the gate failed. */
export interface DenyDecision extends DecisionBase {
  /** The decision. */
  decision: 'deny';
}

/** The action needs human approval. */
export interface RequireApprovalDecision extends DecisionBase {
  /** The decision. */
  decision: 'require_approval';
  /** The id of the approval request; after approval, pass it as `approvalRequestId`. */
  approval_request_id?: string;
}

/** The tool's definition changed since it was approved. */
export interface RequireToolReapprovalDecision extends DecisionBase {
  /** The decision. */
  decision: 'require_tool_reapproval';
}

/** Enforce would block the action; the mode requests warnings only. */
export interface WarnDecision extends DecisionBase {
  /** The decision. */
  decision: 'warn';
  /** The decision that `enforce` would apply. */
  would_be?: string;
}

/** A separate type, so that a `switch` on the known values narrows to it. No value has this text. */
declare enum Unknown {
  Word = '(unknown)',
}

/** A decision that this version does not know: any string. */
export type UnknownDecisionWord = Unknown;

/** A decision of an unknown kind, unchanged. It runs nothing outside `monitor`. */
export interface UnknownDecision extends DecisionBase {
  /** The decision. */
  decision: UnknownDecisionWord;
}

/** The gateway's decision; `switch` on its member `decision`. */
export type Decision =
  | AllowDecision
  | DenyDecision
  | RequireApprovalDecision
  | RequireToolReapprovalDecision
  | UnknownDecision
  | WarnDecision;

/** A decision that blocks the action. */
export type BlockingDecision = Exclude<Decision, AllowDecision>;

/** The known values of a decision. */
export type DecisionWord = Exclude<Decision, UnknownDecision>['decision'];

/** Options of {@link ActPass.issuePassport}. */
export interface IssuePassportOptions extends CallOptions {
  /** The service to which the passport is presented, such as `mcp://stripe-production`. */
  audience: string;
  /** The agent's goal. */
  goal: string;
  /** The tools that the passport allows. */
  allowedTools: readonly string[];
  /** The resources that it allows. Default: none. */
  allowedResources?: readonly string[] | undefined;
  /** Constraints on the arguments: `{ max_amount: 10000, currency: 'usd' }`. Sent unchanged. */
  resourceConstraints?: object | undefined;
  /** The user on whose behalf the agent acts. */
  userId?: string | undefined;
  /** The risk tier. Default: `medium`. */
  riskTier?: RiskTier | undefined;
  /** Lifetime in seconds, 1 to 3600. Default: the gateway's. */
  ttlSeconds?: number | undefined;
  /** An approved request. The passport is then valid for that action only and spends the approval. */
  approvalRequestId?: string | undefined;
}

/** An issued passport. */
export interface IssuedPassport {
  /** The passport, a secret: pass it as `passport`. */
  token: string;
  /** The URL of the gateway's public keys. */
  jwks_uri?: string;
  /** Its id, for {@link ActPass.revokePassport}. */
  jti?: string;
  /** When it expires, RFC 3339. */
  expires_at?: string;
}

/** Options of {@link ActPass.verifyPassport}. */
export interface VerifyPassportOptions extends CallOptions {
  /** The passport. */
  token: string;
  /** The service that verifies it. */
  audience: string;
  /** The agent that it must be for. Default: any. */
  agentId?: string | undefined;
  /** The user that it must be for. Default: any. */
  userId?: string | undefined;
  /** The hash of the tool's current definition, which must be approved. Default: not checked. */
  currentToolManifestHash?: string | undefined;
  /** The hash of the policy, which must be active. Default: not checked. */
  policyHash?: string | undefined;
}

/** Options of {@link ActPass.verifyPassportOffline}. */
export interface VerifyPassportOfflineOptions extends CallOptions {
  /** The passport. */
  token: string;
  /** The service that verifies it. */
  audience: string;
  /** The issuer that it must be from. Default: the key set's, else the gateway's URL. */
  issuer?: string | undefined;
  /** The tenant that it must be of. Default: the key set's, else the client's, if any. */
  tenantId?: string | undefined;
  /** The agent that it must be for. Default: any. */
  agentId?: string | undefined;
  /** The user that it must be for. Default: any. */
  userId?: string | undefined;
}

/** Whether a passport is valid. */
export interface PassportVerification {
  /** Whether it is valid. */
  valid: boolean;
  /** The codes of its errors, such as `passport.expired`. */
  errors?: string[];
  /** Its claims, if valid. */
  claims?: { [claim: string]: JsonValue };
}

/** Whether a passport was revoked. */
export interface PassportRevocation {
  /** Whether it was revoked. */
  revoked: boolean;
}

/** Options of {@link ActPass.recordEvidence}. */
export interface RecordEvidenceOptions extends CallOptions {
  /** The type of the event; any name. */
  eventType: string;
  /** The chain; its first event creates it. */
  chainId: string;
  /** The tool. */
  toolId?: string | undefined;
  /** The decision that preceded the event. */
  decision?: string | undefined;
  /** The reason code of that decision. */
  reasonCode?: string | undefined;
  /** Additional JSON members. */
  metadata?: object | undefined;
  /** `hashPayload` of the request. */
  requestHash?: string | undefined;
  /** `hashPayload` of the result. */
  responseHash?: string | undefined;
}

/** A recorded event of the ledger. */
export interface RecordedEvidence {
  /** Its id in the ledger. */
  event_id: string;
  /** Its hash, which the next event of the chain includes. */
  current_event_hash?: string;
}

/**
 * `A` itself, with a lower inference priority: a function with fewer parameters in the options does not make optional
 * parameters of the protected function required.
 */
export type Inferred<A extends readonly unknown[]> = { [K in keyof A]: A[K] };

/** A value, or a function that computes it from the arguments of the protected function. */
export type PerCall<A extends readonly unknown[], V> = V | ((...args: A) => V);

/**
 * The meaning of one tool of an agent to the policy, as {@link ActPass.protect}, {@link ActPass.protectTools} and the adapters
 * for agent frameworks read it.
 *
 * `goal` and `resource` are a text, a template or a function. In a template, `{name}` stands for a member of `args`, or else of
 * the tool's first argument, that is a string or an integer; `{{` and `}}` are braces. Functions for `goal`, `args`, `resource`
 * and `userId` are called twice, at the call and right before the tool runs; a difference blocks the call. Other functions are
 * called once.
 *
 * @typeParam A - The parameters of the tool. Default: one, its arguments.
 *
 * @example
 * ```ts
 * import type { ToolAction } from '@actpass/sdk';
 *
 * const refund: ToolAction = {
 *   tool: 'stripe.refund.create',
 *   goal: 'refund for {customer}',
 *   resource: 'stripe:charge:{charge}',
 *   args: ({ amount, currency }) => ({ amount, currency }),
 * };
 * console.log(refund.tool);
 * ```
 */
export interface ToolAction<A extends readonly unknown[] = [args: any]> extends Pick<
  CallOptions,
  'timeoutMs' | 'maxRetries'
> {
  /** The name of the tool in the policy. */
  tool: string;
  /** The agent's goal. Default: that of {@link ActPass.bind}; without one, the call is an error. */
  goal?: PerCall<A, string> | undefined;
  /**
   * The tool's arguments as the policy sees them; no other arguments are sent. Default: the first argument, which must be an
   * object literal, or `{}` if the tool is called without arguments. Further arguments, such as options that a framework
   * passes, are neither sent nor compared.
   */
  args?: PerCall<A, object> | undefined;
  /** The target of the action. */
  resource?: PerCall<A, string> | undefined;
  /** The user on whose behalf the agent acts. */
  userId?: PerCall<A, string | undefined> | undefined;
  /** The passport that the action spends. */
  passport?: PerCall<A, string | undefined> | undefined;
  /** The service to which the passport is presented. */
  audience?: string | undefined;
  /** The approved request that the action spends. */
  approvalRequestId?: PerCall<A, string | undefined> | undefined;
  /** The guard's mode. Default: the client's. */
  mode?: Mode | undefined;
  /** The hash of the tool's definition as the agent sees it. */
  toolManifestHash?: string | undefined;
  /** Time to wait for a human decision in milliseconds, as in a guard. Default: no waiting. */
  waitForApprovalMs?: number | undefined;
  /** Records how the tool ended, as in a guard; recording errors are not reported. Default: `false`. */
  recordOutcome?: boolean | undefined;
}

/** The functions of an agent's tools by the tools' names. */
export interface ToolFunctions {
  readonly [tool: string]: (...args: any[]) => unknown;
}

/** The actions of an agent's tools by the tools' names. A tool that is `UNGUARDED` runs without a decision. */
export interface ToolActions {
  readonly [tool: string]: ToolAction | typeof UNGUARDED;
}

/**
 * The protected functions of {@link ActPass.protectTools} by the names of the tools. Any other name is a function that is
 * blocked.
 *
 * @typeParam T - The functions.
 * @typeParam B - The result of `onBlocked`.
 */
export type ProtectedTools<T extends ToolFunctions, B = never> = {
  readonly [K in keyof T]: (...args: Parameters<T[K]>) => Promise<Awaited<ReturnType<T[K]>> | Awaited<B>>;
} & { readonly [unmapped: string]: (...args: any[]) => Promise<unknown> };
