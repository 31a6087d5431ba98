/** The same implementation for `import`: the classes are one, whichever way they come. Its names can be read without running it. */
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
  hashPayload,
  signPayload,
} from './index.js';
export type * from './index.js';
