import type { BlockingDecision, PendingApproval } from './types.js';

/** Marks the prototype of each class with its name, for every copy of this module in the process. */
const BRAND: unique symbol = Symbol.for('@actpass/sdk.error') as never;
/** The SDK's errors that have no caller's stack yet. */
const unstamped = new WeakSet<ActPassError>();

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
  /** The name of the method that failed. */
  operation?: string;
  /** The gateway's name for the call. */
  requestId?: string;
  /** The value of the `Retry-After` header in milliseconds. */
  retryAfterMs?: number;
  /** Whether the same call may succeed later. */
  retryable?: boolean;
  /** What caused it. */
  cause?: unknown;
}

/** What an {@link ActionBlockedError} holds besides its decision. */
export interface ActionBlockedDetails {
  /** The text for a model. Default: the tool, the decision and its reason code. */
  message?: string | undefined;
  /** The text for a developer. Default: that for a model. */
  developerText?: string | undefined;
  /** How the gate failed. */
  cause?: ActPassError | undefined;
  /** The tool of the action. */
  tool?: string | undefined;
  /** The handle of the approval that the action waits for. */
  approval?: PendingApproval | undefined;
  /** The method that was called. */
  operation?: string | undefined;
  /** The gateway's name for the call. */
  requestId?: string | undefined;
}

/**
 * The base of everything that the SDK throws or reports. When in doubt, treat it as "do not execute".
 *
 * No message, stack or cause shows the API key, a passport or a credential. The stack begins with the caller's own frame.
 * `instanceof` also recognizes an error of another copy of this package and of another realm (Jest, `node:vm`).
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
  /** The method that failed, such as `guard`; `undefined` for a constructor and for functions. */
  declare readonly operation: string | undefined;
  /** The `x-request-id` that the gateway gave the call. */
  declare readonly requestId: string | undefined;
  /** The value of the `Retry-After` header in milliseconds. */
  declare readonly retryAfterMs: number | undefined;
  /** Whether the same call may succeed later. The client has already retried what it could. */
  readonly retryable: boolean;

  constructor(message: string, given: ActPassErrorDetails = {}) {
    const details = Object(given) as ActPassErrorDetails;
    super(textOf(message), 'cause' in details ? { cause: details.cause } : undefined);
    this.code = details.code ?? 'actpass.internal';
    this.kind = details.kind ?? 'internal';
    this.retryable = details.retryable ?? false;
    // What there is not is left out, so that it does not clutter what is printed.
    const { status, body, operation, requestId, retryAfterMs } = details;
    Object.assign(this, without({ status, body, operation, requestId, retryAfterMs }));
  }

  /** The members of the error, `name` and `message` among them, for `JSON.stringify` and loggers. It has no stack. */
  toJSON(): { [member: string]: unknown } {
    const { name, message, cause } = this;
    const reason = cause instanceof ActPassError ? { cause: cause.toJSON() } : {};
    return Object.assign({}, { name, message }, this as object, reason);
  }

  static {
    named(ActPassError, 'ActPassError');
  }

  /** @internal Whether `value` is of this class, of whatever copy of it. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (Function.prototype[Symbol.hasInstance].call(this, value)) {
      return true;
    }
    // A class that a program derives has no brand of its own.
    const brand = Object.hasOwn(this.prototype, BRAND) ? (this.prototype as Branded)[BRAND] : undefined;
    return brand !== undefined && brandsOf(value).includes(brand);
  }
}

interface Branded {
  [BRAND]?: string;
}

/** The names of the SDK's classes that `value` is of. */
function brandsOf(value: unknown): string[] {
  const brands = [];
  try {
    for (let at = Object(value) as object | null; at !== null; at = Object.getPrototypeOf(at) as object | null) {
      if (Object.hasOwn(at, BRAND)) {
        brands.push((at as Branded)[BRAND] as string);
      }
    }
  } catch {
    // A proxy that cannot be inspected is no error of the SDK.
  }
  return brands;
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
 * The action did not run: thrown by `unwrap()` of a blocked outcome, by a function that {@link ActPass.protect} made, and by
 * {@link Permit.spend}.
 *
 * `message` is written for a model, in every language with the same words: what was not done, why in terms of the policy,
 * whether trying again can help and what to do instead. `developerText` also says what failed and what to check.
 * `code` is the decision's reason code. If the gate failed, `cause` is its error, of which `status`, `requestId`,
 * `retryAfterMs` and `retryable` are repeated.
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
  /** Why it did not run. */
  readonly decision: BlockingDecision;
  /** The tool of the action. */
  declare readonly tool: string | undefined;
  /** What was not run, what failed and what to check, in one line. */
  readonly developerText: string;
  /** What to keep in order to `resume` the action; `undefined` if it waits for no approval. */
  declare readonly approval: PendingApproval | undefined;

  constructor(decision: BlockingDecision, given: ActionBlockedDetails = {}) {
    const { message, developerText, cause, tool, approval, operation, requestId } = Object(
      given,
    ) as ActionBlockedDetails;
    const { decision: word, reason_code } = Object(decision) as Partial<BlockingDecision>;
    const code = typeof reason_code === 'string' ? reason_code : 'actpass.blocked';
    const text = textOf(message ?? `${textOf(tool ?? 'the action')} was not run: ${textOf(word)} (${code}).`);
    const known = without({ operation, requestId });
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

/** @internal An error as the native half describes it. */
export interface DescribedError extends ActPassErrorDetails {
  name: keyof typeof CLASSES;
  message: string;
  causes: string[];
}

/** @internal The error that the native half described, of a call of the method `operation`. */
export function toError(described: DescribedError, operation?: string): ActPassError {
  const { name, message, causes, ...details } = described;
  const cause = causes.reduceRight<Error | undefined>(
    (inner, text) => oneLine(new Error(text, inner && { cause: inner })),
    undefined,
  );
  // The native half names the request that failed, a caller knows the method.
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

/** @internal The error for what a function of the native half threw, whatever it is and whatever realm it is of. */
export function ofNative(thrown: unknown): ActPassError {
  try {
    const { message } = Object(thrown) as { message?: unknown };
    if (typeof message === 'string' && message.startsWith('{"name":')) {
      return toError(JSON.parse(message) as DescribedError);
    }
  } catch {
    // It is reported below as it is.
  }
  return defect(thrown);
}

/** @internal The error for what only a defect of the SDK can have thrown. */
export function defect(thrown: unknown): ActPassError {
  return fresh(ActPassInternalError, 'the SDK failed; please report this with its cause', {
    code: 'actpass.internal',
    kind: 'internal',
    cause: thrown,
  });
}

/** @internal An error of the SDK that gets the caller's stack when it leaves the SDK. */
export function fresh(
  errorClass: new (message: string, details: ActPassErrorDetails) => ActPassError,
  message: string,
  details: ActPassErrorDetails,
): ActPassError {
  return freshly(new errorClass(message, details));
}

/** @internal Where a call of `above`, a function of the SDK, was made. */
export class Site {
  declare readonly stack: unknown;

  constructor(above: Function) {
    Error.captureStackTrace?.(this, above);
  }
}

/** @internal `thrown`; if the SDK made it in this call, with the stack of `site` and the name of the method. */
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

/** @internal What of the program's own leaves a call as it is, such as the reason of its signal. */
export class Passed {
  readonly #value: unknown;

  constructor(value: unknown) {
    this.#value = value;
  }

  get value(): unknown {
    return this.#value;
  }

  /** Whether `thrown` is one, without any code of a program running, as `instanceof` on a proxy would. */
  static is(thrown: unknown): thrown is Passed {
    return typeof thrown === 'object' && thrown !== null && #value in thrown;
  }
}

/**
 * @internal What a caller gets for what was `thrown` inside of the SDK: what is the program's own as it is, the SDK's errors
 * with the stack of `site`, and anything else as a defect.
 */
export function leaving(thrown: unknown, site: Site, operation?: string): unknown {
  if (Passed.is(thrown)) {
    return thrown.value;
  }
  return stamped(unstamped.has(thrown as ActPassError) ? thrown : defect(thrown), site, operation);
}

/** @internal Runs `body` for `above`, a function of the SDK: what fails in it has the stack of the caller. */
export function placing<R>(above: Function, body: () => R, operation?: string): R {
  try {
    return body();
  } catch (error) {
    throw leaving(error, new Site(above), operation);
  }
}

/** @internal `error`, one of the SDK's, which gets the caller's stack when it leaves the SDK. */
export function freshly<E extends ActPassError>(error: E): E {
  unstamped.add(error);
  return error;
}

/** @internal `error` with the stack of `site`. */
export function withFrames<E extends Error>(error: E, { stack }: Site): E {
  // A program may replace how stacks are written.
  return typeof stack === 'string' && stack.includes('\n')
    ? withStack(error, `${error.name}: ${error.message}${stack.slice(stack.indexOf('\n'))}`)
    : error;
}

/** @internal `error`, whose stack is its first line: it is the cause of one that has the frames. */
export function oneLine<E extends Error>(error: E): E {
  return withStack(error, `${error.name}: ${error.message}`);
}

function withStack<E extends Error>(error: E, stack: string): E {
  return Object.defineProperty(error, 'stack', { value: stack, configurable: true, writable: true });
}

/** `value` as text; nothing if it has none. */
function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return '';
  }
}

/** `members` less those that are `undefined`. */
function without(members: object): object {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** Names a class on its prototype, as the errors of the language are: it is shown once, and survives minifying. */
function named(errorClass: { readonly prototype: Error }, name: string): void {
  Object.defineProperty(errorClass.prototype, 'name', { value: name, configurable: true, writable: true });
  Object.defineProperty(errorClass.prototype, BRAND, { value: name });
}
