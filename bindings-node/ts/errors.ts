import type { BlockingDecision, PendingApproval } from './types.js';

/** Key of the class name on each prototype, shared by all copies of this module in the process. */
const BRAND: unique symbol = Symbol.for('@actpass/sdk.error') as never;
/** Errors of the SDK that do not have the caller's stack yet. */
const unstamped = new WeakSet<ActPassError>();

/** Members of an {@link ActPassError} other than its message. */
export interface ActPassErrorDetails {
  /** The stable error code. */
  code?: string;
  /** The short name of the class. */
  kind?: string;
  /** The HTTP status of a response outside 2xx. */
  status?: number;
  /** The body of a response outside 2xx. */
  body?: string;
  /** The name of the method that failed. */
  operation?: string;
  /** The `x-request-id` of the gateway's response. */
  requestId?: string;
  /** The value of the `Retry-After` header in milliseconds. */
  retryAfterMs?: number;
  /** Whether the same call may succeed later. */
  retryable?: boolean;
  /** The cause. */
  cause?: unknown;
}

/** Members of an {@link ActionBlockedError} other than its decision. */
export interface ActionBlockedDetails {
  /** The message for a model. Default: the tool, the decision and its reason code. */
  message?: string | undefined;
  /** The message for a developer. Default: the one for a model. */
  developerText?: string | undefined;
  /** Whether the same call may succeed later. Default: that of `cause`. */
  retryable?: boolean | undefined;
  /** The failure of the gate. */
  cause?: ActPassError | undefined;
  /** The tool of the action. */
  tool?: string | undefined;
  /** Data for `resume` after a human approval. */
  approval?: PendingApproval | undefined;
  /** The method that was called. */
  operation?: string | undefined;
  /** The `x-request-id` of the gateway's response. */
  requestId?: string | undefined;
}

/**
 * Base class of all errors of the SDK. When in doubt, treat it as "do not execute".
 *
 * Message, stack and cause never contain the API key, a passport or a credential. The stack starts at the caller's frame.
 * `instanceof` also recognizes errors of other copies of this package and of other realms (Jest, `node:vm`).
 *
 * @example
 * ```ts
 * import { ActPass, ActPassError } from '@actpass/sdk';
 *
 * const actpass = new ActPass();
 * try {
 *   await actpass.preflight({ goal: 'send_status_update', tool: 'gmail.send', args: { to: 'customer@example.com' } });
 * } catch (error) {
 *   if (!(error instanceof ActPassError)) throw error;
 *   console.error(error.code, error.operation, error.requestId, error.retryable);
 * }
 * ```
 */
export class ActPassError extends Error {
  /** The stable error code, such as `actpass.unreachable`: branch and alert on it. */
  readonly code: string;
  /** The short name of the class, such as `connection`. */
  readonly kind: string;
  /** The HTTP status of a response outside 2xx; `undefined` without one. */
  declare readonly status: number | undefined;
  /**
   * The body of a response outside 2xx, with secrets redacted; `undefined` without one, if it is larger than 64 KiB, or if it
   * may still contain a secret.
   */
  declare readonly body: string | undefined;
  /** The method that failed, such as `guard`; `undefined` for a constructor and for functions. */
  declare readonly operation: string | undefined;
  /** The `x-request-id` of the gateway's response. */
  declare readonly requestId: string | undefined;
  /** The value of the `Retry-After` header in milliseconds. */
  declare readonly retryAfterMs: number | undefined;
  /** Whether the same call may succeed later. The client has already used its retries. */
  readonly retryable: boolean;

  constructor(message: string, given: ActPassErrorDetails = {}) {
    const details = Object(given) as ActPassErrorDetails;
    super(textOf(message), 'cause' in details ? { cause: details.cause } : undefined);
    this.code = details.code ?? 'actpass.internal';
    this.kind = details.kind ?? 'internal';
    this.retryable = details.retryable ?? false;
    // Omit absent members, to keep printed errors short.
    const { status, body, operation, requestId, retryAfterMs } = details;
    Object.assign(this, without({ status, body, operation, requestId, retryAfterMs }));
  }

  /** Returns the members of the error, with `name` and `message` and without the stack, for `JSON.stringify` and loggers. */
  toJSON(): { [member: string]: unknown } {
    const { name, message, cause } = this;
    const reason = cause instanceof ActPassError ? { cause: cause.toJSON() } : {};
    return Object.assign({}, { name, message }, this as object, reason);
  }

  static {
    named(ActPassError, 'ActPassError');
  }

  /** @internal Whether `value` is an instance of this class or of a copy of it. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (Function.prototype[Symbol.hasInstance].call(this, value)) {
      return true;
    }
    // A program's subclass has no own brand.
    const brand = Object.hasOwn(this.prototype, BRAND) ? (this.prototype as Branded)[BRAND] : undefined;
    return brand !== undefined && brandsOf(value).includes(brand);
  }
}

interface Branded {
  [BRAND]?: string;
}

/** The names of the SDK's classes that `value` is an instance of. */
function brandsOf(value: unknown): string[] {
  const brands = [];
  try {
    for (let at = Object(value) as object | null; at !== null; at = Object.getPrototypeOf(at) as object | null) {
      if (Object.hasOwn(at, BRAND)) {
        brands.push((at as Branded)[BRAND] as string);
      }
    }
  } catch {
    // A proxy that cannot be inspected is not an error of the SDK.
  }
  return brands;
}

/** A setting is missing or invalid; the message names it. Nothing was sent. */
export class ActPassConfigError extends ActPassError {
  static {
    named(ActPassConfigError, 'ActPassConfigError');
  }
}

/** An argument is invalid: not JSON, nested too deeply, empty or of the wrong type. Nothing was sent or run. */
export class ActPassArgumentError extends ActPassConfigError {
  static {
    named(ActPassArgumentError, 'ActPassArgumentError');
  }
}

/** The gateway is unreachable: name resolution, connection or TLS failed, or the connection was reset. */
export class ActPassConnectionError extends ActPassError {
  static {
    named(ActPassConnectionError, 'ActPassConnectionError');
  }
}

/** The deadline expired before the gateway responded. */
export class ActPassTimeoutError extends ActPassError {
  static {
    named(ActPassTimeoutError, 'ActPassTimeoutError');
  }
}

/** The gateway responded with an error status. Redirects are errors: the client never follows them. */
export class ActPassStatusError extends ActPassError {
  static {
    named(ActPassStatusError, 'ActPassStatusError');
  }
}

/** 401: the API key is unknown. */
export class ActPassAuthenticationError extends ActPassStatusError {
  static {
    named(ActPassAuthenticationError, 'ActPassAuthenticationError');
  }
}

/** 403: the API key lacks the permission. */
export class ActPassPermissionError extends ActPassStatusError {
  static {
    named(ActPassPermissionError, 'ActPassPermissionError');
  }
}

/** 429 after the last retry; `retryAfterMs` is the requested wait, if the gateway sent one. */
export class ActPassRateLimitError extends ActPassStatusError {
  static {
    named(ActPassRateLimitError, 'ActPassRateLimitError');
  }
}

/** An invalid 2xx response: not JSON, truncated, too large, or without a required member. */
export class ActPassResponseError extends ActPassError {
  static {
    named(ActPassResponseError, 'ActPassResponseError');
  }
}

/** A bug in the SDK; please report it. */
export class ActPassInternalError extends ActPassError {
  static {
    named(ActPassInternalError, 'ActPassInternalError');
  }
}

/**
 * An action was blocked and did not run. Thrown by `unwrap()` of a blocked outcome, by functions of {@link ActPass.protect},
 * and by {@link Permit.spend}.
 *
 * `message` is written for a model: the blocked tool, the reason, whether to retry and what to do instead. It contains no
 * infrastructure details and is the same in every language. `developerText` describes the failure and what to check. `code` is
 * the decision's reason code. If the gate failed, `cause` is its error; `status`, `requestId` and `retryAfterMs` are copied from
 * it. `retryable` states whether the same call may succeed later unchanged: the gate failed temporarily, or a stop was issued
 * between the decision and the run (`actpass.halted`).
 *
 * @example
 * ```ts
 * import { ActionBlockedError, ActPass } from '@actpass/sdk';
 *
 * const actpass = new ActPass();
 * const action = { goal: 'resolve_refund_request', tool: 'stripe.refund.create', args: { amount: 90_000, currency: 'usd' } };
 * try {
 *   const outcome = await actpass.guard({ ...action, execute: () => 're_1' });
 *   console.log(outcome.unwrap());
 * } catch (error) {
 *   if (!(error instanceof ActionBlockedError)) throw error;
 *   console.log(error.tool, error.decision.reason_code, error.approval?.approval_request_id);
 * }
 * ```
 */
export class ActionBlockedError extends ActPassError {
  /** The blocking decision. */
  readonly decision: BlockingDecision;
  /** The tool of the action. */
  declare readonly tool: string | undefined;
  /** The blocked tool, the failure and what to check, in one line. */
  readonly developerText: string;
  /** Data for `resume` after a human approval; `undefined` if no approval is pending. */
  declare readonly approval: PendingApproval | undefined;

  constructor(decision: BlockingDecision, given: ActionBlockedDetails = {}) {
    const { message, developerText, retryable, cause, tool, approval, operation, requestId } = Object(
      given,
    ) as ActionBlockedDetails;
    const { decision: word, reason_code } = Object(decision) as Partial<BlockingDecision>;
    const code = typeof reason_code === 'string' ? reason_code : 'actpass.blocked';
    const text = textOf(message ?? `${textOf(tool ?? 'the action')} was not run: ${textOf(word)} (${code}).`);
    const known = without({ operation, requestId, retryable });
    super(text, {
      ...(cause && { ...(cause as object), cause }),
      ...known,
      code,
      kind: 'blocked',
    });
    this.decision = decision;
    this.developerText = textOf(developerText ?? text);
    Object.assign(this, without({ tool, approval }));
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

/** @internal An error as serialized by the native module. */
export interface DescribedError extends ActPassErrorDetails {
  name: keyof typeof CLASSES;
  message: string;
  causes: string[];
}

/** @internal Creates the error that the native module serialized, for a call of `operation`. */
export function toError(described: DescribedError, operation?: string): ActPassError {
  const { name, message, causes, ...details } = described;
  const cause = causes.reduceRight<Error | undefined>(
    (inner, text) => oneLine(new Error(text, inner && { cause: inner })),
    undefined,
  );
  // Replace the native module's name of the request by the name of the called method.
  const prefix = `${details.operation}: `;
  const problem = message.startsWith(prefix) ? message.slice(prefix.length) : undefined;
  const text = problem !== undefined && operation !== undefined ? `${operation}: ${problem}` : message;
  const error = new CLASSES[name](text, {
    ...details,
    ...(operation !== undefined && { operation }),
    ...(cause && { cause }),
  });
  return freshly(error);
}

/** @internal Converts an exception of a native function, of any type and realm. */
export function ofNative(thrown: unknown): ActPassError {
  try {
    const { message } = Object(thrown) as { message?: unknown };
    if (typeof message === 'string' && message.startsWith('{"name":')) {
      return toError(JSON.parse(message) as DescribedError);
    }
  } catch {
    // Reported as a defect below.
  }
  return defect(thrown);
}

/** @internal The error for a bug in the SDK. */
export function defect(thrown: unknown): ActPassError {
  return fresh(ActPassInternalError, 'the SDK failed; please report this with its cause', {
    code: 'actpass.internal',
    kind: 'internal',
    cause: thrown,
  });
}

/** @internal Creates an error that receives the caller's stack when it leaves the SDK. */
export function fresh(
  errorClass: new (message: string, details: ActPassErrorDetails) => ActPassError,
  message: string,
  details: ActPassErrorDetails,
): ActPassError {
  return freshly(new errorClass(message, details));
}

/** @internal The call site of `above`, a function of the SDK. */
export class Site {
  readonly #above: Function;
  #frames: { stack?: unknown } | undefined;

  constructor(above: Function, when: 'now' | 'later' = 'now') {
    this.#above = above;
    if (when === 'now') {
      this.capture();
    }
  }

  /** Captures the frames of a site for `later`: before `above` returns. */
  capture(): void {
    if (this.#frames === undefined) {
      this.#frames = {};
      try {
        Error.captureStackTrace?.(this.#frames, this.#above);
      } catch {
        // A program may replace the function. The call is in flight and must not fail.
      }
    }
  }

  get stack(): unknown {
    this.capture();
    return this.#frames?.stack;
  }
}

/** @internal Returns `thrown`; an error of the SDK gets the stack of `site` and the name of the method. */
export function stamped(thrown: unknown, site: Site, operation?: string): unknown {
  if (typeof thrown !== 'object' || thrown === null || !unstamped.delete(thrown as ActPassError)) {
    return thrown;
  }
  const error = thrown as ActPassError;
  if (operation !== undefined && error.operation === undefined) {
    Object.assign(error, { operation });
  }
  return withFrames(error, site);
}

/** @internal Wraps a value of the program, such as a signal's reason, that must leave the call unchanged. */
export class Passed {
  readonly #value: unknown;

  constructor(value: unknown) {
    this.#value = value;
  }

  get value(): unknown {
    return this.#value;
  }

  /** Whether `thrown` is one. Runs no user code, unlike `instanceof` on a proxy. */
  static is(thrown: unknown): thrown is Passed {
    return typeof thrown === 'object' && thrown !== null && #value in thrown;
  }
}

/**
 * @internal Converts `thrown` for the caller: values of the program stay unchanged, errors of the SDK get the stack of
 * `site`, anything else is a defect.
 */
export function leaving(thrown: unknown, site: Site, operation?: string): unknown {
  if (Passed.is(thrown)) {
    return thrown.value;
  }
  return stamped(unstamped.has(thrown as ActPassError) ? thrown : defect(thrown), site, operation);
}

/** @internal Runs `body` for `above`, a function of the SDK; its errors get the stack of the caller. */
export function placing<R>(above: Function, body: () => R, operation?: string): R {
  try {
    return body();
  } catch (error) {
    throw leaving(error, new Site(above), operation);
  }
}

/** @internal Marks `error` to receive the caller's stack when it leaves the SDK. */
export function freshly<E extends ActPassError>(error: E): E {
  unstamped.add(error);
  return error;
}

/** @internal Gives `error` the stack of `site`. */
export function withFrames<E extends Error>(error: E, { stack }: Site): E {
  // A program may replace the stack format.
  return typeof stack === 'string' && stack.includes('\n')
    ? withStack(error, `${error.name}: ${error.message}${stack.slice(stack.indexOf('\n'))}`)
    : error;
}

/** @internal Reduces the stack of `error` to its first line, for a cause of an error with the same frames. */
export function oneLine<E extends Error>(error: E): E {
  return withStack(error, `${error.name}: ${error.message}`);
}

function withStack<E extends Error>(error: E, stack: string): E {
  return Object.defineProperty(error, 'stack', { value: stack, configurable: true, writable: true });
}

/** Converts `value` to text; empty if that fails. */
function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return '';
  }
}

/** Returns `members` without `undefined` values. */
function without(members: object): object {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** Sets the name on the prototype, like built-in errors do; it survives minifying. */
function named(errorClass: { readonly prototype: Error }, name: string): void {
  Object.defineProperty(errorClass.prototype, 'name', { value: name, configurable: true, writable: true });
  Object.defineProperty(errorClass.prototype, BRAND, { value: name });
}
