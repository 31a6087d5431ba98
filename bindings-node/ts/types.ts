/// <reference lib="esnext.disposable" preserve="true" />

/** How a guard treats the answer. */
export type Mode =
  /** Runs on `allow` only. The default. */
  | 'enforce'
  /** As enforce, and only when the gateway recorded its decision. */
  | 'strict'
  /** Runs on `allow` and on `warn`, with which the gateway answers where enforce would not allow. */
  | 'warn'
  /** Observes: runs always, and reports what enforce would have decided. */
  | 'monitor';

/** How much an action could damage. */
export type RiskTier = 'low' | 'medium' | 'high' | 'critical';

/** Anything that is JSON. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [member: string]: JsonValue };

/**
 * The settings of a client.
 */
export interface ActPassOptions {
  /** The key, which is the identity: `apk_…` or `apdv_…`. Default: the environment variable `ACTPASS_API_KEY`. */
  apiKey?: string | undefined;
  /** The tenant, a routing hint that the gateway does not trust. Default: none. */
  tenantId?: string | undefined;
  /** The agent's name. Default: `sdk`. */
  agentId?: string | undefined;
  /**
   * The gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else the hosted gateway. Plain `http` is
   * accepted to this machine only.
   */
  baseUrl?: string | undefined;
  /** The total deadline of a call in milliseconds, retries and waits included; above 0, at most a day. Default: 30000. */
  timeoutMs?: number | undefined;
  /** The longest that one attempt may take to connect, in milliseconds. Default: 5000, or `timeoutMs` if that is less. */
  connectTimeoutMs?: number | undefined;
  /**
   * How often a call is tried again at most, 0 to 10. Calls that are not safe to repeat are retried only where the gateway
   * certainly did not take them. Default: 2.
   */
  maxRetries?: number | undefined;
  /**
   * How many calls in a row must fail to reach the gateway for the circuit to open; while it is open, calls fail at once as
   * `actpass.unreachable`. 0 turns that off. Default: 5.
   */
  circuitFailures?: number | undefined;
  /** The mode of calls that name none. Nothing in the environment can change it. Default: `enforce`. */
  mode?: Mode | undefined;
  /** Certificates of authorities to trust besides the system's, in PEM. */
  ca?: string | Uint8Array | undefined;
  /**
   * Permits plain `http` to another machine, where everyone on the way can read the key and forge decisions.
   * Default: `false`.
   */
  dangerAllowInsecureHttp?: boolean | undefined;
  /** What log lines go to, such as `console` or a logger of pino or winston. Default: standard error. */
  logger?: Logger | undefined;
  /**
   * The least important lines that are logged. Default: the environment variable `ACTPASS_LOG`; else `info` with a
   * `logger` and `off` without.
   */
  logLevel?: LogLevel | undefined;
}

/** Which log lines are written: those of this level and of the more important ones. */
export type LogLevel =
  /** None. */
  | 'off'
  /** None yet: what fails is thrown or reported. */
  | 'error'
  /** A gate that failed. */
  | 'warn'
  /** Also each action that was blocked. */
  | 'info'
  /** Also each call, each retry and each action that may run. */
  | 'debug';

/**
 * What log lines go to. Each method is called with one line, which holds no secret, when the call that it is about ends.
 * What a method throws or rejects with changes nothing.
 */
export interface Logger {
  /** Takes a line of the level `error`. */
  error(line: string): unknown;
  /** Takes a line of the level `warn`. */
  warn(line: string): unknown;
  /** Takes a line of the level `info`. */
  info(line: string): unknown;
  /** Takes a line of the level `debug`. */
  debug(line: string): unknown;
}

/** What {@link ActPass.withScope} gives to every call that is made inside of it and does not say otherwise. */
export interface Scope {
  /** On whose behalf the agent acts, for `guard`, `preflight`, `protect` and `issuePassport`. */
  userId?: string | undefined;
  /** To whom a passport is shown, for `guard`, `preflight` and `protect`. */
  audience?: string | undefined;
  /** Ends the wait of every call. */
  signal?: AbortSignal | undefined;
  /** The trace of every call. */
  traceparent?: string | undefined;
}

/** What {@link ActPass.withOptions} gives to every call of the client that it returns, unless the call says otherwise. */
export interface ClientDefaults extends Scope {
  /** How answers are treated. */
  mode?: Mode | undefined;
  /** The deadline of a call, as in {@link CallOptions}; `waitForApproval` keeps its own. */
  timeoutMs?: number | undefined;
  /** How often a call is tried again at most, as in {@link CallOptions}. */
  maxRetries?: number | undefined;
  /** For how many milliseconds an action is held for an approval, as in {@link ExecuteOptions}. */
  waitForApprovalMs?: number | undefined;
  /** Whether the end of an action is recorded, as in {@link ExecuteOptions}. */
  recordOutcome?: boolean | undefined;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the wait: the call rejects with the signal's reason at once, and nothing runs. */
  signal?: AbortSignal | undefined;
  /**
   * The trace that the call is part of, as W3C Trace Context writes it. Default: the current span of OpenTelemetry, if the
   * program has set that up.
   */
  traceparent?: string | undefined;
  /**
   * The deadline of each request of this call in milliseconds, retries and backoff included; above 0, at most a day.
   * Default: the client's.
   */
  timeoutMs?: number | undefined;
  /** How often a request of this call is tried again at most, 0 to 10. Default: the client's. */
  maxRetries?: number | undefined;
}

/**
 * What an agent is about to do, and why.
 */
export interface Action {
  /** What the agent wants to achieve. */
  goal: string;
  /** The tool that it is about to use. */
  tool: string;
  /**
   * The tool's arguments: an object of what is JSON, nested at most 127 deep. Sent as it is; a member that is `undefined`
   * is left out, `-0` is sent as `0`.
   */
  args: object;
  /** What the tool acts on, such as `stripe:charge:ch_123`. Default: nothing. */
  resource?: string | undefined;
  /** On whose behalf the agent acts. */
  userId?: string | undefined;
  /** The passport that the action spends. */
  passport?: string | undefined;
  /** How the answer is treated. Default: the client's. */
  mode?: Mode | undefined;
  /**
   * What makes a repetition known as one: a second call with the same key runs nothing. Default: a fresh UUIDv7, kept on
   * retries.
   */
  idempotencyKey?: string | undefined;
  /** To whom the passport is shown. */
  audience?: string | undefined;
  /** The approved request that the action spends. */
  approvalRequestId?: string | undefined;
  /** The hash of the tool's definition as the agent sees it. */
  toolManifestHash?: string | undefined;
}

/** An action to ask about. */
export interface PreflightOptions extends Action, CallOptions {}

/** What else to do about an action than to ask about it. */
export interface PermitOptions extends CallOptions {
  /**
   * For how many milliseconds an action that needs an approval is held until a person decided; once approved, it is asked
   * about again, and that answer rules. Comes on top of `timeoutMs`, which is that of each request. Default: it is not held,
   * and reported as blocked at once.
   */
  waitForApprovalMs?: number | undefined;
  /**
   * Records in the ledger, on the decision's chain, how the action ended, with the hash of its result if that is JSON. What
   * came of recording stands in the outcome and changes nothing else about it. Default: `false`.
   */
  recordOutcome?: boolean | undefined;
}

/** What to run, and what else to do about it. */
export interface ExecuteOptions<T> extends PermitOptions {
  /**
   * What to run if it may: called at most once, after the verdict, on the caller's thread and in the caller's
   * `AsyncLocalStorage` context. What it returns is awaited. A generator function and a class are refused before anything is
   * sent; a generator or another iterator that it returns has run nothing, and is reported as `error`.
   */
  execute: (context: ExecutionContext) => T | PromiseLike<T>;
}

/** An action to authorize. */
export interface AuthorizeOptions extends Action, PermitOptions {}

/** How an action is about to run. */
export interface SpendOptions {
  /** The arguments, if they may differ from those that were judged: a difference blocks. Default: they are not compared. */
  args?: object | undefined;
}

/** An action to guard. */
export interface GuardOptions<T> extends Action, ExecuteOptions<T> {}

/** How to go on with an action that waited for a person. */
export interface ResumeOptions<T> extends ExecuteOptions<T> {
  /** The passport that the action spends; it is a secret, and was not kept. */
  passport?: string | undefined;
}

/**
 * An action that waits for a person: without secrets, and JSON to be kept until somebody decided, also in another process.
 * The gateway holds the action against the one that was approved, so a changed copy runs nothing.
 */
export interface PendingApproval {
  /** The approval's id. */
  approval_request_id: string;
  /** What the agent wants to achieve. */
  goal: string;
  /** The tool that it is about to use. */
  tool: string;
  /** The tool's arguments. */
  args: { [member: string]: JsonValue };
  /** What the tool acts on. */
  resource?: string;
  /** On whose behalf the agent acts. */
  user_id?: string;
  /** The mode that it was asked in. */
  mode?: Mode;
  /** To whom a passport is shown. */
  audience?: string;
  /** The hash of the tool's definition. */
  tool_manifest_hash?: string;
}

/** How to wait for a person. */
export interface WaitForApprovalOptions extends Omit<CallOptions, 'timeoutMs'> {
  /** For how many milliseconds at most; each request has the client's deadline. Default: 0, which is one poll. */
  timeoutMs?: number | undefined;
}

/** Where an approval stands. */
export interface Approval {
  /** Its id. */
  id: string;
  /** What became of it. */
  status: 'pending' | 'approved' | 'rejected' | 'expired';
  /** The hash of the action that it is for. */
  action_hash?: string;
  /** Who decided; `null` if nobody did. */
  decided_by?: string | null;
  /** When. */
  decided_at?: string | null;
  /** When it expires. */
  deadline?: string;
}

/** What `execute` is given. */
export interface ExecutionContext {
  /** The secret that the gateway's vault holds for the tool; `null` where it holds none. Nobody else is handed it. */
  credential: Credential | null;
  /** The decision under which it runs. */
  decision: Decision;
}

/** A secret that the gateway's vault holds for the tool. */
export interface Credential {
  /** The secret. */
  token: string;
  /** Until when it holds. */
  expires_at?: string | null;
}

/** Why a decision is as it is. */
export interface Explain {
  /** A sentence; empty if the gateway gave none. */
  summary: string;
  /** The names of the rules that decided; empty if the gateway gave none. */
  matched_rules: string[];
  /** What could be done, a sentence each; empty if the gateway gave none. */
  next_steps: string[];
}

/** The members of every decision, named as on the wire. Members that are not listed are kept as they came. */
export interface DecisionBase {
  /** Stable and dotted, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the gateway gave none. */
  reason_code: string;
  /** How much the action could damage. */
  risk_tier?: RiskTier;
  /** Why, for people. */
  explain: Explain;
  /** The ledger entry of this decision. */
  evidence_event_id?: string;
  /** The chain of that entry. */
  evidence_chain_id?: string;
  /** The hash of the request that it answers. */
  request_hash?: string;
  /** The hash of the policy that decided. */
  policy_hash?: string;
  /** Whether the gateway repeats an earlier answer to a request with the same idempotency key. */
  replayed?: boolean | null;
  /** How long ago the gateway first recorded the repeated answer, in milliseconds. */
  replay_age_ms?: number | null;
  /** Which vaulted credential `execute` is handed. */
  credential_id?: string;
}

/** The action may run. */
export interface AllowDecision extends DecisionBase {
  /** Its word. */
  decision: 'allow';
}

/** The action may not run. So decides the gateway, or the SDK when the gate failed. */
export interface DenyDecision extends DecisionBase {
  /** Its word. */
  decision: 'deny';
}

/** The action may not run before a person approved it. */
export interface RequireApprovalDecision extends DecisionBase {
  /** Its word. */
  decision: 'require_approval';
  /** What was asked of that person; once approved, give it to `approvalRequestId`. */
  approval_request_id?: string;
}

/** The tool's definition changed since it was approved. */
export interface RequireToolReapprovalDecision extends DecisionBase {
  /** Its word. */
  decision: 'require_tool_reapproval';
}

/** Enforce would not allow it, and the mode asked for warnings only. */
export interface WarnDecision extends DecisionBase {
  /** Its word. */
  decision: 'warn';
  /** What enforce would decide. */
  would_be?: string;
}

/** A type of its own, so that a `switch` on the known words leaves it over. It is a string; no value has this very text. */
declare enum Unknown {
  Word = '(unknown)',
}

/** A word that this version does not know: some string. */
export type UnknownDecisionWord = Unknown;

/** A decision of a kind that this version does not know, as it came. It runs nothing outside `monitor`. */
export interface UnknownDecision extends DecisionBase {
  /** Its word. */
  decision: UnknownDecisionWord;
}

/** What the gateway decided; `switch` on its member `decision`. */
export type Decision =
  | AllowDecision
  | DenyDecision
  | RequireApprovalDecision
  | RequireToolReapprovalDecision
  | UnknownDecision
  | WarnDecision;

/** A decision under which nothing runs. */
export type BlockingDecision = Exclude<Decision, AllowDecision>;

/** The words of a decision. */
export type DecisionWord = Exclude<Decision, UnknownDecision>['decision'];

/** What to ask a passport for. */
export interface IssuePassportOptions extends CallOptions {
  /** Whom the passport is shown to, such as `mcp://stripe-production`. */
  audience: string;
  /** What the agent is to achieve. */
  goal: string;
  /** The tools that it may ask for. */
  allowedTools: readonly string[];
  /** The resources that it may ask for. Default: none. */
  allowedResources?: readonly string[] | undefined;
  /** Values that bound the arguments: `{ max_amount: 10000, currency: 'usd' }`. Sent as it is. */
  resourceConstraints?: object | undefined;
  /** Who delegated. */
  userId?: string | undefined;
  /** How much may be at risk. Default: `medium`. */
  riskTier?: RiskTier | undefined;
  /** For how many seconds it holds. Default: the gateway's. */
  ttlSeconds?: number | undefined;
  /** The approved request that the passport stands for: it is for that one action, and spends the approval. */
  approvalRequestId?: string | undefined;
}

/** A passport that was issued. */
export interface IssuedPassport {
  /** The passport itself, a secret: give it to `passport`. */
  token: string;
  /** Where the public keys are. */
  jwks_uri?: string;
  /** Its name, by which it is revoked. */
  jti?: string;
  /** Until when it holds. */
  expires_at?: string;
}

/** What to have verified. */
export interface VerifyPassportOptions extends CallOptions {
  /** The passport. */
  token: string;
  /** Whom it is shown to. */
  audience: string;
  /** The agent that it must be made out to. */
  agentId?: string | undefined;
  /** Who must have delegated. */
  userId?: string | undefined;
  /** The hash of the tool's definition as it is now. */
  currentToolManifestHash?: string | undefined;
  /** The hash of the policy as it is now. */
  policyHash?: string | undefined;
}

/** What to verify without asking the gateway about it. */
export interface VerifyPassportOfflineOptions extends CallOptions {
  /** The passport. */
  token: string;
  /** Whom it is shown to. */
  audience: string;
  /** Who must have issued it. Default: whom the gateway names with its keys, else the gateway's URL. */
  issuer?: string | undefined;
  /** The tenant that it must be of. Default: the one that the gateway names with its keys, else the client's, if it has one. */
  tenantId?: string | undefined;
  /** The agent that it must be made out to. */
  agentId?: string | undefined;
  /** Who must have delegated. */
  userId?: string | undefined;
}

/** Whether a passport is valid. */
export interface PassportVerification {
  /** Whether it is. */
  valid: boolean;
  /** What is wrong with it: codes such as `passport.expired`. */
  errors?: string[];
  /** What it says, if valid. */
  claims?: { [claim: string]: JsonValue };
}

/** Whether a passport was revoked. */
export interface PassportRevocation {
  /** Whether it was. */
  revoked: boolean;
}

/** An event of your own. */
export interface RecordEvidenceOptions extends CallOptions {
  /** What happened, by your own naming. */
  eventType: string;
  /** The chain; it begins with its first event. */
  chainId: string;
  /** The tool. */
  toolId?: string | undefined;
  /** The word of the decision that it followed. */
  decision?: string | undefined;
  /** That decision's reason code. */
  reasonCode?: string | undefined;
  /** Anything else: an object of what is JSON. */
  metadata?: object | undefined;
  /** `hashPayload` of what was asked for. */
  requestHash?: string | undefined;
  /** `hashPayload` of what came out of it. */
  responseHash?: string | undefined;
}

/** An event that is in the ledger. */
export interface RecordedEvidence {
  /** Its name in the ledger. */
  event_id: string;
  /** Its hash, which the next event of the chain covers. */
  current_event_hash?: string;
}

/**
 * `A` itself. A generic function infers `A` from other places first, so that a function of fewer parameters here does not
 * make optional parameters there required.
 */
export type Inferred<A extends readonly unknown[]> = { [K in keyof A]: A[K] };

/** A value, or a function that makes it of what a protected function is called with. */
export type PerCall<A extends readonly unknown[], V> = V | ((...args: A) => V);

/**
 * How a function is protected. `goal`, `args`, `resource` and `userId` are made twice, at the call and right before the
 * function runs, and a difference blocks; the others once.
 */
export interface ProtectOptions<A extends readonly unknown[]> extends CallOptions {
  /** What the agent wants to achieve. */
  goal: PerCall<A, string>;
  /** The tool that the function is. */
  tool: string;
  /**
   * The tool's arguments as the policy sees them: nothing else of the call is sent. Default: the first argument, which must
   * be an object literal, or nothing if the function is called with nothing. The arguments behind it, such as the options
   * that a framework passes, are neither sent nor judged.
   */
  args?: PerCall<A, object> | undefined;
  /** What the tool acts on. */
  resource?: PerCall<A, string> | undefined;
  /** On whose behalf the agent acts. */
  userId?: PerCall<A, string | undefined> | undefined;
  /** The passport that the action spends. */
  passport?: PerCall<A, string | undefined> | undefined;
  /** What makes a repetition known as one. */
  idempotencyKey?: ((...args: A) => string) | undefined;
  /** To whom the passport is shown. */
  audience?: string | undefined;
  /** The approved request that the action spends. */
  approvalRequestId?: ((...args: A) => string | undefined) | undefined;
  /** How the answer is treated. Default: the client's. */
  mode?: Mode | undefined;
  /** The hash of the tool's definition as the agent sees it. */
  toolManifestHash?: string | undefined;
  /** For how many milliseconds it is held until a person decided, as in a guard. Default: not. */
  waitForApprovalMs?: number | undefined;
  /** Records how the function ended, as in a guard; a failure to record is silent here. Default: `false`. */
  recordOutcome?: boolean | undefined;
  /**
   * Passes the {@link ExecutionContext}, which holds the vaulted credential, to the function as an additional first
   * argument. Default: `false`.
   */
  withContext?: boolean | undefined;
}
