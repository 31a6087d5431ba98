/** ES module entry point of the CommonJS implementation, so that both share the same classes. Names are static. */
export {
  ActionBlockedError,
  ActPass,
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
  canonicalOutcome,
  createActPass,
  dpopThumbprint,
  hashPayload,
  signPayload,
  UNGUARDED,
} from './index.js';
export type * from './index.js';
