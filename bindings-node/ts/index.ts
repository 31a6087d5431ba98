/**
 * ActPass: an agent acts only when it may.
 *
 * {@link ActPass} asks an ActPass gateway about an action. {@link ActPass.preflight} returns the decision;
 * {@link ActPass.guard} runs your function only when the decision allows it. A denial, a pending approval, a tool that
 * changed, a gateway that cannot be reached: your function does not run.
 *
 * @packageDocumentation
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
export { canonicalOutcome, hashPayload, signPayload } from './hash.js';
export type * from './outcome.js';
export type * from './types.js';
