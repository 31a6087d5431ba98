/**
 * The spans and metrics of calls, by the program's OpenTelemetry; `docs/telemetry.md` has the names.
 *
 * `@opentelemetry/api` is an optional peer dependency, which the first call loads if it is installed. Each use of it goes through
 * {@link tell}, one at a time: whatever it throws, rejects or returns changes nothing.
 */

import type { Context, Histogram, Span } from '@opentelemetry/api';
import { nodeRequire, withoutLiterals } from './here.js';
import type { Decision } from './types.js';

const PREFIX = 'actpass.';
const DURATION = 'actpass.client.duration';
/** In seconds: a call takes some tenths of a millisecond to a gateway nearby, and up to its deadline. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

type Api = typeof import('@opentelemetry/api');
type Attributes = Record<string, string | boolean>;

/** @internal The span of one call. */
export interface CallSpan {
  /** What the gate said, or how it failed. */
  decided(decision: Decision, error?: unknown): void;
  /** What came of an action that may have run. */
  ended(executed: boolean, error?: unknown): void;
  /** What failed, which may be `undefined` where a function threw that. */
  failed(error: unknown): void;
}

const UNOBSERVED: CallSpan = { decided() {}, ended() {}, failed() {} };

/** @internal Makes `call` in a span of its own, if the program has OpenTelemetry. */
export function instrument<R>(
  operation: string,
  about: () => Attributes,
  call: (span: CallSpan) => Promise<R>,
): Promise<R> {
  const found = api();
  if (found === undefined) {
    return call(UNOBSERVED);
  }
  return instrumented(new Instrumentation(found, operation, tell(about) ?? {}), call);
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

/** @internal The `traceparent` of the current span, if the program has OpenTelemetry. */
export function currentTrace(): string | undefined {
  const found = api();
  return found && tell(() => traceOf(found));
}

function traceOf({ context, trace }: Api): string | undefined {
  const active = tell(() => context.active());
  const span = tell(() => active && trace.getSpan(active));
  const named = tell(() => span?.spanContext());
  if (named === undefined) {
    return undefined;
  }
  const { traceId, spanId, traceFlags } = named;
  const text = `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, '0')}`;
  // One that is malformed is left away: a trace is no reason to block an action.
  return /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(text) ? text : undefined;
}

/** `null` if it is not installed, `undefined` before it was looked for. */
let loaded: Api | null | undefined;

/** The API, if the program has it. */
function api(): Api | undefined {
  if (loaded === undefined) {
    loaded = load() ?? null;
  }
  return loaded ?? undefined;
}

/** Bundlers take a literal `require` inside its own `try` for an optional dependency. In their modules it may be missing. */
function load(): Api | undefined {
  if (withoutLiterals()) {
    // Left to Node, below.
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
      say(error);
    }
    return undefined;
  }
}

/** What some bundlers put in the place of a missing package is not the API. */
function checked(found: Partial<Api>): Api {
  const { context, metrics, trace } = found;
  if (context === undefined || metrics === undefined || trace === undefined) {
    throw new Error('@opentelemetry/api: expected version 1.3 or later');
  }
  return found as Api;
}

/** The instrument of each provider of metrics, which makes one only. */
const histograms = new WeakMap<object, Histogram>();

function histogramOf({ metrics }: Api): Histogram | undefined {
  const provider = metrics.getMeterProvider();
  let histogram = histograms.get(provider);
  if (histogram === undefined) {
    const meter = tell(() => metrics.getMeter('actpass'));
    histogram = meter?.createHistogram(DURATION, {
      unit: 's',
      description: 'How long a call of the gateway took, retries and waits included.',
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
    const around = tell(() => found.context.active());
    const tracer = tell(() => found.trace.getTracer('actpass'));
    this.#span = tell(() => tracer?.startSpan(PREFIX + operation, options, around));
    this.#inside = tell(() => around && this.#span && found.trace.setSpan(around, this.#span));
    this.#histogram = tell(() => histogramOf(found));
  }

  /** Makes `call` once, whatever the program's OpenTelemetry does. */
  over<R>(call: () => Promise<R>): Promise<R> {
    const inside = this.#inside;
    let made: Promise<R> | undefined;
    const once = () => {
      made ??= call();
      return made;
    };
    if (inside !== undefined) {
      tell(() => {
        const returned = this.#api.context.with(inside, once);
        // The outcome of the call is `made`. A promise that the context manager derives from it may reject as well.
        drop(returned, () => {});
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
    // The members of a program's own error may throw.
    const type = tell(() => typeOf(error)) ?? typeof error;
    if (!this.#isMeasured) {
      this.#attributes['error.type'] = type;
    }
    this.#set('error.type', type);
    tell(() => this.#span?.setStatus({ code: this.#api.SpanStatusCode.ERROR }));
  }

  end(): void {
    this.#measure();
    tell(() => this.#span?.end());
  }

  #set(name: string, value: string | boolean): void {
    tell(() => this.#span?.setAttribute(name, value));
  }

  #measure(): void {
    if (!this.#isMeasured) {
      this.#isMeasured = true;
      const seconds = (now() - this.#began) / 1e3;
      tell(() => this.#histogram?.record(seconds, this.#attributes));
    }
  }
}

function now(): number {
  return tell(() => performance.now()) ?? 0;
}

function typeOf(error: unknown): string {
  if (error === undefined || error === null) {
    return `${error}`;
  }
  const { code, constructor, name } = Object(error) as { code?: unknown; constructor?: Function; name?: unknown };
  return typeof code === 'string' && code.startsWith(PREFIX) ? code : `${constructor?.name || name || typeof error}`;
}

/**
 * @internal Runs `call`, which calls an observer. Returns its value, or `undefined` if it threw or returned a promise. The
 * first failure of the process is printed, the others are dropped.
 */
export function tell<R>(call: () => R): R | undefined {
  try {
    const returned = call();
    return drop(returned, say) ? undefined : returned;
  } catch (error) {
    say(error);
    return undefined;
  }
}

/** Whether `returned` is a promise. Its rejection goes to `rejected` and is handled there. */
function drop(returned: unknown, rejected: (error: unknown) => void): boolean {
  const { then } = Object(returned) as { then?: unknown };
  if (typeof then !== 'function') {
    return false;
  }
  then.call(returned, () => {}, rejected);
  return true;
}

let hasSaid = false;

function say(error: unknown): void {
  if (hasSaid) {
    return;
  }
  hasSaid = true;
  try {
    const text = String(error).replace(/\s+/g, ' ').slice(0, 200);
    // The console may be the program's own as well, and throw or reject.
    drop(
      console.warn(
        `actpass: code that observes calls failed; outcomes are unchanged, further failures are silent: ${text}`,
      ),
      () => {},
    );
  } catch {
    // Reporting failed as well; the outcome stands.
  }
}
