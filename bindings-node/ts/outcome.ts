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

/** Whether the end of an action was recorded, if `recordOutcome` asked for it. */
export interface Recorded {
  /** The event in the ledger. */
  evidence?: RecordedEvidence;
  /** Why there is none. */
  evidenceError?: ActPassError;
}

/** What every outcome has besides its `kind`. */
export interface OutcomeBase<T> {
  /** Whether the action ran. */
  readonly executed: boolean;
  /** The gateway's decision, or one that the SDK made because the gate failed. */
  readonly decision: Decision;
  /** The `x-request-id` that the gateway gave the request that was decided; `undefined` if it gave none. */
  readonly requestId?: string;
  /**
   * Returns what the action returned. Throws what the action threw, or an {@link ActionBlockedError} if it did not run. In
   * `monitor`, an action that ran although the gate failed returns as any other.
   */
  unwrap(): T;
}

/** The action ran and returned. */
export interface ReturnedOutcome<T> extends OutcomeBase<T>, Recorded {
  /** How the call ended. */
  readonly kind: 'returned';
  /** Whether the action ran. */
  readonly executed: true;
  /** What it returned: the same value, not a copy. */
  readonly result: T;
  /** What went wrong: nothing. */
  readonly error?: undefined;
  /** What to resume: nothing. */
  readonly approval?: undefined;
}

/** The gate failed, `monitor` ran the action, and it returned. */
export interface ObservedOutcome<T> extends OutcomeBase<T>, Recorded {
  /** How the call ended. */
  readonly kind: 'returned';
  /** Whether the action ran. */
  readonly executed: true;
  /** The decision that the SDK made. */
  readonly decision: DenyDecision;
  /** What it returned: the same value, not a copy. */
  readonly result: T;
  /** How the gate failed. */
  readonly error: ActPassError;
  /** What to resume: nothing. */
  readonly approval?: undefined;
}

/** The action ran and threw. */
export interface FailedOutcome extends OutcomeBase<never>, Recorded {
  /** How the call ended. */
  readonly kind: 'failed';
  /** Whether the action ran. */
  readonly executed: true;
  /** What it returned: nothing. */
  readonly result?: undefined;
  /**
   * What it threw: the same value, of any type, as in a `catch` clause. `undefined`, which says nothing, is replaced by an
   * `Error` that says so.
   */
  readonly error: NonNullable<unknown> | null;
  /** What to resume: nothing. */
  readonly approval?: undefined;
}

/** The action did not run. */
export interface BlockedOutcome extends OutcomeBase<never> {
  /** How the call ended. */
  readonly kind: 'blocked';
  /** Whether the action ran. */
  readonly executed: false;
  /** The gateway's decision, or one that the SDK made because the gate failed. */
  readonly decision: BlockingDecision;
  /** What it returned: nothing. */
  readonly result?: undefined;
  /** How the gate failed; `undefined` if the gateway decided. */
  readonly error?: ActPassError;
  /** What to keep in order to `resume` once a person has approved it; `undefined` if it waits for no approval. */
  readonly approval?: PendingApproval;
  /** The event in the ledger: none, because nothing ran. */
  readonly evidence?: undefined;
  /** Why there is none: nothing ran. */
  readonly evidenceError?: undefined;
}

/**
 * What a guard reports. `kind` says how the call ended; `unwrap()` returns the result or throws.
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
 * Leave to run an action, once: what {@link ActPass.authorize} returns for an action that may run.
 *
 * It is void five minutes after the verdict, and once its credential has expired.
 */
export interface Permit {
  /** Tells a permit from a blocked outcome. */
  readonly kind: 'permitted';
  /** The decision under which the action may run. */
  readonly decision: Decision;
  /**
   * Spends the permit: run the action at once, with what this returns.
   *
   * @throws {@link ActPassArgumentError} It is spent. The action must not run.
   * @throws {@link ActionBlockedError} It is void, or `args` are not those that were judged. In `monitor` the action runs,
   * without a credential.
   */
  spend(options?: SpendOptions): ExecutionContext;
  /**
   * Reports that the action returned; with `recordOutcome`, that is recorded, and `evidence` or `evidenceError` says whether.
   *
   * @throws {@link ActPassArgumentError} The permit is not spent, or an end was reported before.
   */
  returned<T>(result: T): Promise<ReturnedOutcome<T> | ObservedOutcome<T>>;
  /**
   * Reports that the action threw; otherwise as {@link Permit.returned}.
   *
   * @throws {@link ActPassArgumentError} As {@link Permit.returned}.
   */
  failed(error: unknown): Promise<FailedOutcome>;
  /**
   * Reports that the action was stopped while it ran, for `reason`, by default an `AbortError`. It is recorded as `cancelled`,
   * within a second or not at all; otherwise as {@link Permit.failed}.
   *
   * @throws {@link ActPassArgumentError} As {@link Permit.returned}.
   */
  cancelled(reason?: unknown): Promise<FailedOutcome>;
}
