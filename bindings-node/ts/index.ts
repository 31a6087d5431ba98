/**
 * ActPass: authorize every action of an agent before it runs.
 *
 * {@link ActPass.preflight} requests a decision about an action from an ActPass gateway. {@link ActPass.guard} requests the
 * decision and runs your function only if it allows the action. After a denial, a pending approval, a changed tool
 * definition or an unreachable gateway, your function does not run.
 *
 * @module @actpass/sdk
 */
export { ActPass, createActPass } from './client.js';
export {
  ActionBlockedError,
  ActPassArgumentError,
  ActPassAuthenticationError,
  ActPassConfigError,
  ActPassConnectionError,
  ActPassError,
  ActPassInternalError,
  ActPassPermissionError,
  ActPassRateLimitError,
  ActPassResponseError,
  ActPassStatusError,
  ActPassTimeoutError,
} from './errors.js';
export { canonicalOutcome, dpopThumbprint, hashPayload, signPayload } from './hash.js';
export { UNGUARDED } from './unguarded.js';
export type * from './outcome.js';
export type * from './protect-options.js';
export type * from './types.js';
