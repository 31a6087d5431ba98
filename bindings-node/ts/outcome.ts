import type { ActPassError } from './errors.js';
import type {
  BlockingDecision,
  Decision,
  DenyDecision,
  ExecutionContext,
  PendingApproval,
  RecordedEvidence,
  SpendOptions,
} from './types.js';

/** The result of recording an outcome, with `recordOutcome`. */
export interface Recorded {
  /** The recorded event. */
  evidence?: RecordedEvidence;
  /** Why recording failed. */
  evidenceError?: ActPassError;
}

/** Members of every outcome. */
export interface OutcomeBase<T> {
  /** Whether the action ran. */
  readonly executed: boolean;
  /** The gateway's decision, or the SDK's denial because the gate failed. */
  readonly decision: Decision;
  /** The `x-request-id` of the gateway's response; `undefined` if it sent none. */
  readonly requestId?: string;
  /**
   * Returns the action's result or throws its error; throws an {@link ActionBlockedError} if it did not run. If `monitor` ran
   * the action despite a failed gate, returns its result.
   */
  unwrap(): T;
}

/** The action ran and returned. */
export interface ReturnedOutcome<T> extends OutcomeBase<T>, Recorded {
  /** The end of the call. */
  readonly kind: 'returned';
  /** Whether the action ran. */
  readonly executed: true;
  /** Its result: the same value, not a copy. */
  readonly result: T;
  /** Always absent. */
  readonly error?: undefined;
  /** Always absent. */
  readonly approval?: undefined;
}

/** The gate failed, `monitor` ran the action, and it returned. */
export interface ObservedOutcome<T> extends OutcomeBase<T>, Recorded {
  /** The end of the call. */
  readonly kind: 'returned';
  /** Whether the action ran. */
  readonly executed: true;
  /** The SDK's denial. */
  readonly decision: DenyDecision;
  /** Its result: the same value, not a copy. */
  readonly result: T;
  /** The failure of the gate. */
  readonly error: ActPassError;
  /** Always absent. */
  readonly approval?: undefined;
}

/** The action ran and threw or rejected. */
export interface FailedOutcome extends OutcomeBase<never>, Recorded {
  /** The end of the call. */
  readonly kind: 'failed';
  /** Whether the action ran. */
  readonly executed: true;
  /** Always absent. */
  readonly result?: undefined;
  /**
   * The thrown value itself, of any type, as in a `catch` clause. `undefined` is replaced by an `Error`.
   */
  readonly error: NonNullable<unknown> | null;
  /** Always absent. */
  readonly approval?: undefined;
}

/** The action did not run. */
export interface BlockedOutcome extends OutcomeBase<never> {
  /** The end of the call. */
  readonly kind: 'blocked';
  /** Whether the action ran. */
  readonly executed: false;
  /** The gateway's decision, or the SDK's denial because the gate failed. */
  readonly decision: BlockingDecision;
  /** Always absent. */
  readonly result?: undefined;
  /** The failure of the gate; `undefined` if the gateway decided. */
  readonly error?: ActPassError;
  /** Data for `resume` after a human approval; `undefined` if no approval is pending. */
  readonly approval?: PendingApproval;
  /** Always absent. */
  readonly evidence?: undefined;
  /** Always absent. */
  readonly evidenceError?: undefined;
}

/**
 * The outcome of a guard. `kind` is the end of the call; `unwrap()` returns the result or throws.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 *
 * const actpass = new ActPass();
 * const outcome = await actpass.guard({
 *   goal: 'resolve_refund_request',
 *   tool: 'stripe.refund.create',
 *   args: { amount: 4900, currency: 'usd' },
 *   execute: () => 're_1',
 * });
 * switch (outcome.kind) {
 *   case 'returned':
 *     console.log('refunded', outcome.result);
 *     break;
 *   case 'failed':
 *     console.error('the refund failed', outcome.error);
 *     break;
 *   case 'blocked':
 *     console.log('blocked', outcome.decision.reason_code, outcome.decision.explain.summary);
 * }
 * ```
 */
export type GuardOutcome<T> = BlockedOutcome | ObservedOutcome<T> | ReturnedOutcome<T> | FailedOutcome;

/**
 * Single-use permission to run an action, returned by {@link ActPass.authorize}.
 *
 * Expires five minutes after the decision, or earlier with its credential.
 */
export interface Permit {
  /** Distinguishes a permit from a blocked outcome. */
  readonly kind: 'permitted';
  /** The decision about the action. */
  readonly decision: Decision;
  /**
   * Spends the permit and returns the execution context. Run the action immediately afterwards.
   *
   * @throws {@link ActPassArgumentError} The permit was already spent. The action must not run.
   * @throws {@link ActionBlockedError} The permit expired, or `args` differ from the evaluated arguments. In `monitor` the action
   * may still run, without a credential.
   */
  spend(options?: SpendOptions): ExecutionContext;
  /**
   * Reports that the action returned; with `recordOutcome`, records it (`evidence` or `evidenceError`).
   *
   * @throws {@link ActPassArgumentError} The permit is not spent, or its outcome was already reported.
   */
  returned<T>(result: T): Promise<ReturnedOutcome<T> | ObservedOutcome<T>>;
  /**
   * Reports that the action threw `error`; otherwise as {@link Permit.returned}.
   *
   * @throws {@link ActPassArgumentError} As {@link Permit.returned}.
   */
  failed(error: unknown): Promise<FailedOutcome>;
  /**
   * Reports that the action was cancelled while it ran, for `reason`, by default an `AbortError`. Recording it as `cancelled`
   * takes at most one second; otherwise as {@link Permit.failed}.
   *
   * @throws {@link ActPassArgumentError} As {@link Permit.returned}.
   */
  cancelled(reason?: unknown): Promise<FailedOutcome>;
  /**
   * Reports that the action ended in the control flow of a framework, such as an interrupt, with the thrown `signal`. It is
   * recorded as `suspended`; otherwise as {@link Permit.failed}.
   *
   * @throws {@link ActPassArgumentError} As {@link Permit.returned}.
   */
  suspended(signal?: unknown): Promise<FailedOutcome>;
}
