/**
 * What calls tell the program's OpenTelemetry, if it uses it; `docs/telemetry.md` has the names.
 *
 * Nothing is imported: a program that set OpenTelemetry up is found by the global symbol at which its API keeps what was set
 * up. Each call of it goes through {@link tell}, one at a time: whatever it throws, rejects or returns changes nothing.
 */

import type { Decision } from './types.js';

/** Where version 1 of `@opentelemetry/api`, whichever copy of it, keeps what the program set up. */
const API = 'opentelemetry.js.api.1';
/** The key of the current span in a context of that API. */
const SPAN = 'OpenTelemetry Context Key SPAN';
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
  const found = tell(api);
  if (found === undefined) {
    return call(NOBODY);
  }
  return watched(new Watch(found, operation, tell(about) ?? {}), call);
}

async function watched<R>(watch: Watch, call: (told: Told) => Promise<R>): Promise<R> {
  try {
    return await watch.over(() => call(watch));
  } catch (error) {
    watch.failed(error);
    throw error;
  } finally {
    watch.end();
  }
}

/** @internal The input of a call, with the current trace in it unless it names one. */
export function traced(input: string, named: string | undefined): string {
  const traceparent = named === undefined ? tell(current) : undefined;
  if (traceparent === undefined) {
    return input;
  }
  const member = `"traceparent": "${traceparent}"`;
  return input === '{}' ? `{${member}}` : `{${member}, ${input.slice(1)}`;
}

/** The `traceparent` of the current span. */
function current(): string | undefined {
  const active = tell(() => api()?.context?.active());
  const span = tell(() => active?.getValue(Symbol.for(SPAN)) as Span | undefined);
  const named = tell(() => span?.spanContext());
  if (named === undefined) {
    return undefined;
  }
  const { traceId, spanId, traceFlags } = named;
  const text = `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, '0')}`;
  // One that is malformed is left away: a trace is no reason to block an action.
  return /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(text) ? text : undefined;
}

/** What the program set up, if it traces or measures. */
function api(): Api | undefined {
  const found = (globalThis as Record<symbol, unknown>)[Symbol.for(API)] as Api | undefined;
  return found?.trace === undefined && found?.metrics === undefined ? undefined : found;
}

/** The instrument of each provider of metrics, which makes one only. */
const histograms = new WeakMap<object, Histogram>();

function histogramOf(metrics: NonNullable<Api['metrics']>): Histogram | undefined {
  let histogram = histograms.get(metrics);
  if (histogram === undefined) {
    const meter = tell(() => metrics.getMeter('actpass'));
    histogram = meter?.createHistogram(DURATION, {
      unit: 's',
      description: 'How long a call of the gateway took, retries and waits included.',
      advice: { explicitBucketBoundaries: BUCKETS },
    });
    if (histogram !== undefined) {
      histograms.set(metrics, histogram);
    }
  }
  return histogram;
}

class Watch implements Told {
  readonly #attributes: Attributes;
  readonly #began = now();
  readonly #context: Api['context'];
  readonly #span: Span | undefined;
  readonly #inside: Context | undefined;
  readonly #histogram: Histogram | undefined;
  #isMeasured = false;

  constructor(found: Api, operation: string, about: Attributes) {
    this.#attributes = { 'actpass.operation': operation };
    const options = { kind: KIND_CLIENT, attributes: { ...about, ...this.#attributes } };
    this.#context = tell(() => found.context);
    const around = tell(() => this.#context?.active());
    const tracer = tell(() => found.trace?.getTracer('actpass'));
    this.#span = tell(() => tracer?.startSpan(PREFIX + operation, options, around));
    this.#inside = tell(() => this.#span && around?.setValue(Symbol.for(SPAN), this.#span));
    this.#histogram = tell(() => found.metrics && histogramOf(found.metrics));
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
      tell(() => {
        const returned = context.with(inside, once);
        // The outcome of the call is `made`; what a context manager makes of it is nobody's.
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
    // An error is the program's own object, whose members may throw.
    const type = tell(() => typeOf(error)) ?? typeof error;
    if (!this.#isMeasured) {
      this.#attributes['error.type'] = type;
    }
    this.#set('error.type', type);
    tell(() => this.#span?.setStatus({ code: STATUS_ERROR }));
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
  const { code, constructor, name } = Object(error) as { code?: unknown; constructor?: Function; name?: unknown };
  return typeof code === 'string' && code.startsWith(PREFIX) ? code : `${constructor?.name || name || typeof error}`;
}

/**
 * @internal Runs `call`, which calls code that observes: what it returned, or `undefined` where it threw or promised
 * something. The first failure of the process is printed, the others are dropped.
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

/** Whether `returned` is a promise, whose rejection then goes to `rejected` and is nobody else's. */
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
    // There is nobody left to tell.
  }
}
