import type { Decision } from './types.js';

/** What an {@link ActPassError} holds besides its message. */
export interface ActPassErrorDetails {
  /** The stable name of what happened. */
  code?: string;
  /** The short name of the kind. */
  kind?: string;
  /** The HTTP status of an answer outside 2xx. */
  status?: number;
  /** The text of an answer outside 2xx. */
  body?: string;
  /** The call that failed. */
  operation?: string;
  /** The gateway's name for the call. */
  requestId?: string;
  /** For how many milliseconds the gateway asked to be left alone. */
  retryAfterMs?: number;
  /** Whether the same call may succeed later. */
  retryable?: boolean;
  /** What caused it. */
  cause?: unknown;
}

/**
 * The base of everything that the SDK throws or reports. When in doubt, treat it as "do not execute".
 *
 * No message, stack or cause shows the API key, a passport or a credential.
 */
export class ActPassError extends Error {
  /** The stable name of what happened, such as `actpass.unreachable`: branch and alert on it. */
  readonly code: string;
  /** The short name of the kind, such as `connection`. */
  readonly kind: string;
  /** The HTTP status of an answer outside 2xx; `undefined` where there was no such answer. */
  declare readonly status: number | undefined;
  /**
   * The text of an answer outside 2xx, every secret taken out; `undefined` where there was none, where it was larger than
   * 64 KiB, or where a secret in it could not be ruled out.
   */
  declare readonly body: string | undefined;
  /** The call that failed, such as `preflight`; `undefined` before there was one. */
  declare readonly operation: string | undefined;
  /** The `x-request-id` that the gateway gave the call. */
  declare readonly requestId: string | undefined;
  /** For how many milliseconds the gateway asked to be left alone. */
  declare readonly retryAfterMs: number | undefined;
  /** Whether the same call may succeed later. The client has already retried what it could. */
  readonly retryable: boolean;

  constructor(message: string, details: ActPassErrorDetails = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : undefined);
    this.code = details.code ?? 'actpass.internal';
    this.kind = details.kind ?? 'internal';
    this.retryable = details.retryable ?? false;
    // What there is not is left out, so that it does not clutter what is printed.
    const { status, body, operation, requestId, retryAfterMs } = details;
    Object.assign(this, without({ status, body, operation, requestId, retryAfterMs }));
  }

  static {
    named(ActPassError, 'ActPassError');
  }
}

/** A setting is missing or wrong; the message names it. Nothing was sent. */
export class ActPassConfigError extends ActPassError {
  static {
    named(ActPassConfigError, 'ActPassConfigError');
  }
}

/** An argument cannot be sent: not JSON, nested too deep, empty, of the wrong type. Nothing was sent or run. */
export class ActPassArgumentError extends ActPassConfigError {
  static {
    named(ActPassArgumentError, 'ActPassArgumentError');
  }
}

/** The gateway could not be reached: name, connection, TLS, or a connection that was reset. */
export class ActPassConnectionError extends ActPassError {
  static {
    named(ActPassConnectionError, 'ActPassConnectionError');
  }
}

/** The deadline passed before there was an answer. */
export class ActPassTimeoutError extends ActPassError {
  static {
    named(ActPassTimeoutError, 'ActPassTimeoutError');
  }
}

/** The gateway answered with an error status. Redirects count as such: they are never followed. */
export class ActPassStatusError extends ActPassError {
  static {
    named(ActPassStatusError, 'ActPassStatusError');
  }
}

/** 401: the gateway does not know the API key. */
export class ActPassAuthenticationError extends ActPassStatusError {
  static {
    named(ActPassAuthenticationError, 'ActPassAuthenticationError');
  }
}

/** 403: the API key may not do this. */
export class ActPassPermissionError extends ActPassStatusError {
  static {
    named(ActPassPermissionError, 'ActPassPermissionError');
  }
}

/** 429, still so after the last retry; `retryAfterMs` says how long to wait if the gateway said so. */
export class ActPassRateLimitError extends ActPassStatusError {
  static {
    named(ActPassRateLimitError, 'ActPassRateLimitError');
  }
}

/** A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold. */
export class ActPassResponseError extends ActPassError {
  static {
    named(ActPassResponseError, 'ActPassResponseError');
  }
}

/** A defect of the SDK; please report it. */
export class ActPassInternalError extends ActPassError {
  static {
    named(ActPassInternalError, 'ActPassInternalError');
  }
}

/**
 * A function made by {@link ActPass.protect} did not run. `code` is the decision's reason code, `cause` the failure of the
 * gate if it failed.
 */
export class ActionBlockedError extends ActPassError {
  /** Why it did not run. */
  readonly decision: Exclude<Decision, { decision: 'allow' }>;

  constructor(decision: Exclude<Decision, { decision: 'allow' }>, cause?: ActPassError) {
    const code = decision.reason_code ?? 'actpass.blocked';
    super(`the action was not run: ${decision.decision} (${code})`, {
      code,
      kind: 'blocked',
      ...(cause && { ...(cause as object), code, kind: 'blocked', cause }),
    });
    this.decision = decision;
  }

  static {
    named(ActionBlockedError, 'ActionBlockedError');
  }
}

const CLASSES = {
  ActPassArgumentError,
  ActPassAuthenticationError,
  ActPassConfigError,
  ActPassConnectionError,
  ActPassInternalError,
  ActPassPermissionError,
  ActPassRateLimitError,
  ActPassResponseError,
  ActPassStatusError,
  ActPassTimeoutError,
};

/** @internal An error as the native half describes it. */
export interface DescribedError extends ActPassErrorDetails {
  name: keyof typeof CLASSES;
  message: string;
  causes: string[];
}

/** @internal The error of which the native half made this description. */
export function toError({ name, message, causes, ...details }: DescribedError): ActPassError {
  const cause = causes.reduceRight<Error | undefined>(
    (inner, text) => new Error(text, inner && { cause: inner }),
    undefined,
  );
  return new CLASSES[name](message, cause ? { ...details, cause } : details);
}

/** @internal Throws what a function of the native half threw, as one of the classes here. */
export function rethrow(thrown: unknown): never {
  const message = thrown instanceof Error ? thrown.message : '';
  throw message.startsWith('{"name":') ? toError(JSON.parse(message) as DescribedError) : thrown;
}

/** `members` less those that are `undefined`. */
function without(members: object): object {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** On the prototype, as with the errors of the language: it is shown once, and survives minifying. */
function named(errorClass: { readonly prototype: Error }, name: string): void {
  Object.defineProperty(errorClass.prototype, 'name', { value: name, configurable: true, writable: true });
}
