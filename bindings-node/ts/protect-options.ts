/** The options of `protect` and `protectTools`. */

import type { ActionBlockedError } from './errors.js';
import type { CallOptions, ToolAction } from './types.js';

/**
 * Options of {@link ActPass.protect}.
 *
 * @typeParam A - The parameters of the function.
 * @typeParam B - The result of `onBlocked`.
 */
export interface ProtectOptions<A extends readonly unknown[], B = unknown> extends ToolAction<A>, CallOptions {
  /** Identifies repetitions of the request. */
  idempotencyKey?: ((...args: A) => string) | undefined;
  /**
   * Passes the {@link ExecutionContext}, which holds the vaulted credential, to the function as an additional first
   * argument. Default: `false`.
   */
  withContext?: boolean | undefined;
  /**
   * Called with the error of a blocked call; the call then resolves with its result instead of rejecting. Not called for
   * errors of the function itself. `(error) => error.message` returns the text for a model. Default: the call rejects.
   */
  onBlocked?: ((error: ActionBlockedError) => B) | undefined;
}

/**
 * Options of {@link ActPass.protectTools}.
 *
 * @typeParam B - The result of `onBlocked`.
 */
export interface ProtectToolsOptions<B = unknown> {
  /** Called with the error of a blocked call, as in {@link ProtectOptions}. Default: the call rejects. */
  onBlocked?: ((error: ActionBlockedError) => B) | undefined;
}
