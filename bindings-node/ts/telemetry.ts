/**
 * OpenTelemetry spans and metrics of calls; `docs/telemetry.md` lists the names.
 *
 * `@opentelemetry/api` is an optional peer dependency, loaded by the first call if installed. Every use of it goes through
 * {@link ignoreTelemetryError}: its errors, rejections and results never affect a call.
 */

import type { Context, Histogram, Span } from '@opentelemetry/api';
import { nodeRequire, withoutLiterals } from './here.js';
import type { Decision } from './types.js';

const PREFIX = 'actpass.';
const DURATION = 'actpass.client.duration';
/** Histogram bounds in seconds: from a fraction of a millisecond (local gateway) to the default deadline. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

type Api = typeof import('@opentelemetry/api');
type Attributes = Record<string, string | boolean>;

/** @internal The span of one call. */
export interface CallSpan {
  /** Records the decision or the failure of the gate. */
  decided(decision: Decision, error?: unknown): void;
  /** Records the outcome. */
  ended(executed: boolean, error?: unknown): void;
  /** Records an error; a function may throw `undefined`. */
  failed(error: unknown): void;
}

const UNOBSERVED: CallSpan = { decided() {}, ended() {}, failed() {} };

/** @internal Runs `call` in its own span, if OpenTelemetry is installed. */
export function instrument<R>(
  operation: string,
  about: () => Attributes,
  call: (span: CallSpan) => Promise<R>,
): Promise<R> {
  const found = api();
  if (found === undefined) {
    return call(UNOBSERVED);
  }
  return instrumented(new Instrumentation(found, operation, ignoreTelemetryError(about) ?? {}), call);
}

/** @internal Records a call of `tool` that the SDK blocked without a request. */
export function observeBlock(tool: string, decision: Decision): void {
  const found = api();
  if (found !== undefined) {
    const span = new Instrumentation(found, 'guard', { 'actpass.tool': tool });
    span.decided(decision);
    span.ended(false);
    span.end();
  }
}

async function instrumented<R>(span: Instrumentation, call: (span: CallSpan) => Promise<R>): Promise<R> {
  try {
    return await span.over(() => call(span));
  } catch (error) {
    span.failed(error);
    throw error;
  } finally {
    span.end();
  }
}

/** @internal Returns the `traceparent` of the current span, if OpenTelemetry is installed. */
export function currentTrace(): string | undefined {
  const found = api();
  return found && ignoreTelemetryError(() => traceOf(found));
}

function traceOf({ context, trace }: Api): string | undefined {
  const active = ignoreTelemetryError(() => context.active());
  const span = ignoreTelemetryError(() => active && trace.getSpan(active));
  const named = ignoreTelemetryError(() => span?.spanContext());
  if (named === undefined) {
    return undefined;
  }
  const { traceId, spanId, traceFlags } = named;
  const text = `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, '0')}`;
  // Omit a malformed one: tracing must not block an action.
  return /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(text) ? text : undefined;
}

/** `null` if not installed, `undefined` before the first lookup. */
let loaded: Api | null | undefined;

/** Returns the API, if installed. */
function api(): Api | undefined {
  if (loaded === undefined) {
    loaded = load() ?? null;
  }
  return loaded ?? undefined;
}

/** Bundlers treat a literal `require` inside its own `try` as an optional dependency. */
function load(): Api | undefined {
  if (withoutLiterals()) {
    // `nodeRequire` below.
  } else {
    try {
      return checked(require('@opentelemetry/api'));
    } catch {
      // Not installed, or no `require` in this bundle.
    }
  }
  try {
    return checked(nodeRequire()('@opentelemetry/api'));
  } catch (error) {
    if ((error as { code?: unknown } | null)?.code !== 'MODULE_NOT_FOUND') {
      reportOnce(error);
    }
    return undefined;
  }
}

/** Rejects the placeholder that some bundlers use for a missing package. */
function checked(found: Partial<Api>): Api {
  const { context, metrics, trace } = found;
  if (context === undefined || metrics === undefined || trace === undefined) {
    throw new Error('@opentelemetry/api: expected version 1.3 or later');
  }
  return found as Api;
}

/** The histogram of each meter provider. */
const histograms = new WeakMap<object, Histogram>();

function histogramOf({ metrics }: Api): Histogram | undefined {
  const provider = metrics.getMeterProvider();
  let histogram = histograms.get(provider);
  if (histogram === undefined) {
    const meter = ignoreTelemetryError(() => metrics.getMeter('actpass'));
    histogram = meter?.createHistogram(DURATION, {
      unit: 's',
      description: 'Duration of a gateway call, including retries and waits.',
      advice: { explicitBucketBoundaries: BUCKETS },
    });
    if (histogram !== undefined) {
      histograms.set(provider, histogram);
    }
  }
  return histogram;
}

class Instrumentation implements CallSpan {
  readonly #api: Api;
  readonly #attributes: Attributes;
  readonly #began = now();
  readonly #span: Span | undefined;
  readonly #inside: Context | undefined;
  readonly #histogram: Histogram | undefined;
  #isMeasured = false;

  constructor(found: Api, operation: string, about: Attributes) {
    this.#api = found;
    this.#attributes = { 'actpass.operation': operation };
    const options = { kind: found.SpanKind.CLIENT, attributes: { ...about, ...this.#attributes } };
    const around = ignoreTelemetryError(() => found.context.active());
    const tracer = ignoreTelemetryError(() => found.trace.getTracer('actpass'));
    this.#span = ignoreTelemetryError(() => tracer?.startSpan(PREFIX + operation, options, around));
    this.#inside = ignoreTelemetryError(() => around && this.#span && found.trace.setSpan(around, this.#span));
    this.#histogram = ignoreTelemetryError(() => histogramOf(found));
  }

  /** Calls `call` exactly once in the span's context, even if OpenTelemetry fails. */
  over<R>(call: () => Promise<R>): Promise<R> {
    const inside = this.#inside;
    let made: Promise<R> | undefined;
    const once = () => {
      made ??= call();
      return made;
    };
    if (inside !== undefined) {
      ignoreTelemetryError(() => {
        const returned = this.#api.context.with(inside, once);
        // The result is `made`. A promise that the context manager derives from it may reject too.
        ignoreRejection(returned, () => {});
      });
    }
    return once();
  }

  decided(decision: Decision, error?: unknown): void {
    const { decision: word, reason_code, evidence_event_id } = decision as object as Partial<Record<string, unknown>>;
    this.#attributes['actpass.decision'] = `${word}`;
    this.#set('actpass.decision', `${word}`);
    if (typeof reason_code === 'string') {
      this.#set('actpass.reason_code', reason_code);
    }
    if (typeof evidence_event_id === 'string') {
      this.#set('actpass.evidence_event_id', evidence_event_id);
    }
    if (error !== undefined) {
      this.failed(error);
    }
    this.#measure();
  }

  ended(executed: boolean, error?: unknown): void {
    this.#set('actpass.executed', executed);
    if (error !== undefined) {
      this.failed(error);
    }
  }

  failed(error: unknown): void {
    // Members of a foreign error may throw.
    const type = ignoreTelemetryError(() => typeOf(error)) ?? typeof error;
    if (!this.#isMeasured) {
      this.#attributes['error.type'] = type;
    }
    this.#set('error.type', type);
    ignoreTelemetryError(() => this.#span?.setStatus({ code: this.#api.SpanStatusCode.ERROR }));
  }

  end(): void {
    this.#measure();
    ignoreTelemetryError(() => this.#span?.end());
  }

  #set(name: string, value: string | boolean): void {
    ignoreTelemetryError(() => this.#span?.setAttribute(name, value));
  }

  #measure(): void {
    if (!this.#isMeasured) {
      this.#isMeasured = true;
      const seconds = (now() - this.#began) / 1e3;
      ignoreTelemetryError(() => this.#histogram?.record(seconds, this.#attributes));
    }
  }
}

function now(): number {
  return ignoreTelemetryError(() => performance.now()) ?? 0;
}

function typeOf(error: unknown): string {
  if (error === undefined || error === null) {
    return `${error}`;
  }
  const { code, constructor, name } = Object(error) as { code?: unknown; constructor?: Function; name?: unknown };
  return typeof code === 'string' && code.startsWith(PREFIX) ? code : `${constructor?.name || name || typeof error}`;
}

/**
 * @internal Calls an observer (OpenTelemetry, a logger). Returns its result, or `undefined` if it threw or returned a promise.
 * The first failure in the process is printed, later ones are ignored.
 */
export function ignoreTelemetryError<R>(call: () => R): R | undefined {
  try {
    const returned = call();
    return ignoreRejection(returned, reportOnce) ? undefined : returned;
  } catch (error) {
    reportOnce(error);
    return undefined;
  }
}

/** Returns whether `returned` is a promise; its rejection goes to `rejected`. */
function ignoreRejection(returned: unknown, rejected: (error: unknown) => void): boolean {
  const { then } = Object(returned) as { then?: unknown };
  if (typeof then !== 'function') {
    return false;
  }
  then.call(returned, () => {}, rejected);
  return true;
}

let hasReported = false;

function reportOnce(error: unknown): void {
  if (hasReported) {
    return;
  }
  hasReported = true;
  try {
    const text = String(error).replace(/\s+/g, ' ').slice(0, 200);
    // The program may have replaced the console.
    ignoreRejection(
      console.warn(
        `actpass: telemetry error ignored; calls are not affected, further errors are not reported: ${text}`,
      ),
      () => {},
    );
  } catch {
    // Ignore a failed report.
  }
}
