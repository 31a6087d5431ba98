/**
 * What calls tell the program's OpenTelemetry, if it uses it; `docs/telemetry.md` has the names.
 *
 * Nothing is imported: a program that set OpenTelemetry up is found by the global symbol at which its API keeps what was set
 * up. That somebody could not be told changes nothing of what a call does.
 */

import type { Decision } from './types.js';

/** Where version 1 of `@opentelemetry/api`, whichever copy of it, keeps what the program set up. */
const API = Symbol.for('opentelemetry.js.api.1');
/** The key of the current span in a context of that API. */
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN');
const PREFIX = 'actpass.';
const DURATION = 'actpass.client.duration';
/** In seconds: a call takes some tenths of a millisecond to a gateway nearby, and up to its deadline. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** As that API numbers them. */
const KIND_CLIENT = 2;
const STATUS_ERROR = 2;

type Attributes = Record<string, string | boolean>;

interface Span {
  spanContext(): { traceId: string; spanId: string; traceFlags: number };
  setAttribute(name: string, value: string | boolean): unknown;
  setStatus(status: { code: number }): unknown;
  end(): void;
}

interface Context {
  getValue(key: symbol): unknown;
  setValue(key: symbol, value: unknown): Context;
}

interface Histogram {
  record(value: number, attributes: Attributes): void;
}

interface Api {
  context?: { active(): Context; with<R>(context: Context, call: () => R): R };
  trace?: { getTracer(name: string, version?: string): { startSpan(...given: unknown[]): Span } };
  metrics?: { getMeter(name: string, version?: string): { createHistogram(...given: unknown[]): Histogram } };
}

/** @internal What is told of one call. */
export interface Told {
  /** What the gate said, or how it failed. */
  decided(decision: Decision, error?: unknown): void;
  /** What came of an action that may have run. */
  ended(executed: boolean, error?: unknown): void;
}

const NOBODY: Told = { decided() {}, ended() {} };

/** @internal Makes `call`, as a span that is current meanwhile if the program listens. */
export function watching<R>(operation: string, about: () => Attributes, call: (told: Told) => Promise<R>): Promise<R> {
  const watch = attempt(() => Watch.begin(operation, about));
  return watch === undefined ? call(NOBODY) : watched(watch, call);
}

async function watched<R>(watch: Watch, call: (told: Told) => Promise<R>): Promise<R> {
  try {
    return await watch.over(() => call(watch));
  } catch (error) {
    attempt(() => watch.failed(error));
    throw error;
  } finally {
    attempt(() => watch.end());
  }
}

/** @internal The input of a call, with the current trace in it unless it names one. */
export function traced(input: string, named: string | undefined): string {
  const traceparent = named === undefined ? attempt(current) : undefined;
  if (traceparent === undefined) {
    return input;
  }
  const member = `"traceparent": "${traceparent}"`;
  return input === '{}' ? `{${member}}` : `{${member}, ${input.slice(1)}`;
}

/** The `traceparent` of the current span. */
function current(): string | undefined {
  const span = api()?.context?.active().getValue(SPAN) as Span | undefined;
  if (span === undefined) {
    return undefined;
  }
  const { traceId, spanId, traceFlags } = span.spanContext();
  const text = `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, '0')}`;
  // One that is malformed is left away: a trace is no reason to block an action.
  return /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(text) ? text : undefined;
}

function api(): Api | undefined {
  return (globalThis as Record<symbol, unknown>)[API] as Api | undefined;
}

/** The instrument of each provider of metrics, which makes one only. */
const histograms = new WeakMap<object, Histogram>();

function histogramOf(metrics: NonNullable<Api['metrics']>): Histogram {
  let histogram = histograms.get(metrics);
  if (histogram === undefined) {
    histogram = metrics.getMeter('actpass').createHistogram(DURATION, {
      unit: 's',
      description: 'How long a call of the gateway took, retries and waits included.',
      advice: { explicitBucketBoundaries: BUCKETS },
    });
    histograms.set(metrics, histogram);
  }
  return histogram;
}

class Watch implements Told {
  readonly #attributes: Attributes;
  readonly #began = performance.now();
  readonly #context: Api['context'];
  readonly #inside: Context | undefined;
  readonly #span: Span | undefined;
  readonly #histogram: Histogram | undefined;
  #isMeasured = false;

  private constructor({ context, trace, metrics }: Api, operation: string, about: Attributes) {
    this.#attributes = { 'actpass.operation': operation };
    const around = context?.active();
    const options = { kind: KIND_CLIENT, attributes: { ...about, ...this.#attributes } };
    this.#context = context;
    this.#span = trace?.getTracer('actpass').startSpan(PREFIX + operation, options, around);
    this.#inside = this.#span && around?.setValue(SPAN, this.#span);
    this.#histogram = metrics && histogramOf(metrics);
  }

  static begin(operation: string, about: () => Attributes): Watch | undefined {
    const found = api();
    if (found?.trace === undefined && found?.metrics === undefined) {
      return undefined;
    }
    return new Watch(found, operation, about());
  }

  /** Makes `call` once, whatever the program's OpenTelemetry does. */
  over<R>(call: () => Promise<R>): Promise<R> {
    const [context, inside] = [this.#context, this.#inside];
    let made: Promise<R> | undefined;
    const once = () => {
      made ??= call();
      return made;
    };
    if (context !== undefined && inside !== undefined) {
      attempt(() => context.with(inside, once));
    }
    return once();
  }

  decided(decision: Decision, error?: unknown): void {
    attempt(() => {
      const { decision: word, reason_code, evidence_event_id } = decision as object as Partial<Record<string, unknown>>;
      this.#attributes['actpass.decision'] = `${word}`;
      this.#span?.setAttribute('actpass.decision', `${word}`);
      if (typeof reason_code === 'string') {
        this.#span?.setAttribute('actpass.reason_code', reason_code);
      }
      if (typeof evidence_event_id === 'string') {
        this.#span?.setAttribute('actpass.evidence_event_id', evidence_event_id);
      }
      if (error !== undefined) {
        this.failed(error);
      }
      this.#measure();
    });
  }

  ended(executed: boolean, error?: unknown): void {
    attempt(() => {
      this.#span?.setAttribute('actpass.executed', executed);
      if (error !== undefined) {
        this.failed(error);
      }
    });
  }

  failed(error: unknown): void {
    const { code, constructor, name } = Object(error) as { code?: unknown; constructor?: Function; name?: unknown };
    const type =
      typeof code === 'string' && code.startsWith(PREFIX) ? code : `${constructor?.name || name || typeof error}`;
    if (!this.#isMeasured) {
      this.#attributes['error.type'] = type;
    }
    this.#span?.setAttribute('error.type', type);
    this.#span?.setStatus({ code: STATUS_ERROR });
  }

  end(): void {
    this.#measure();
    this.#span?.end();
  }

  #measure(): void {
    if (!this.#isMeasured) {
      this.#isMeasured = true;
      this.#histogram?.record((performance.now() - this.#began) / 1e3, this.#attributes);
    }
  }
}

function attempt<R>(tell: () => R): R | undefined {
  try {
    return tell();
  } catch {
    return undefined;
  }
}
