/** Calls in flight on this thread: start, completion, cancellation. */

import { type DescribedError, ofNative, Passed, toError } from './errors.js';
import { halted } from './halt.js';
import { describe, wrongArgument } from './json.js';
import type { Log } from './log.js';
import { type Batch, type CallName, type Client, How, native } from './native.js';
import { ignoreTelemetryError } from './telemetry.js';

/** @internal A completed call. */
export interface Ended {
  /** The number of the call. */
  call: number;
  failed: boolean;
  /** Whether the core permits the action. */
  permitted: boolean;
  /** The JSON text of the response, outcome or error. */
  text: string;
}

/** @internal The origin of a call. */
export interface Caller {
  readonly client: Client;
  readonly log: Log;
  /** The method that was called, as errors name it. */
  readonly operation: string;
}

interface InFlight {
  readonly log: Log;
  resolve(ended: Ended): void;
}

const inFlight = new Map<number, InFlight>();
let lastNumber = 0;

/** @internal What calls and permits go through. */
export const door = new native.Bridge((batch: Batch) => {
  for (let at = 0; at < batch.length; at += 4) {
    const call = batch[at] as number;
    const how = batch[at + 1];
    const text = batch[at + 2] as string;
    const lines = batch[at + 3] as string;
    if (how === How.Halted) {
      halted(call);
      continue;
    }
    const ended = inFlight.get(call);
    inFlight.delete(call);
    if (lines !== '') {
      ignoreTelemetryError(() => ended?.log.write(lines));
    }
    ended?.resolve({ call, failed: how === How.Failed, permitted: how === How.Permitted, text });
  }
});

/** @internal Starts a call. Only `signal` rejects the promise. While it is pending, the process stays alive. */
export function begin(caller: Caller, name: CallName, input: string, signal: AbortSignal | undefined): Promise<Ended> {
  if (signal === undefined) {
    return new Promise((resolve) => {
      start(caller, name, input, resolve);
    });
  }
  checkSignal(signal);
  return new Promise((resolve, reject) => {
    if (isAborted(signal)) {
      throw new Passed(signal.reason);
    }
    let call: number | undefined;
    const forget = AbortListener.to(signal).add(() => {
      if (call !== undefined) {
        inFlight.delete(call);
        door.cancel(call);
      }
      reject(new Passed(signal.reason));
    });
    try {
      call = start(caller, name, input, (ended) => {
        forget();
        resolve(ended);
      });
    } catch (error) {
      forget();
      throw error;
    }
  });
}

/**
 * @internal Returns a completed call; throws its error, as one of the method `operation`, or the reason of an aborted signal.
 */
export function take(ended: Ended, signal: AbortSignal | undefined, operation: string): Ended {
  let isCancelled = true;
  try {
    isCancelled = signal !== undefined && isAborted(signal);
  } finally {
    if (isCancelled) {
      door.cancel(ended.call);
    }
  }
  if (isCancelled) {
    throw new Passed(signal?.reason);
  }
  if (ended.failed) {
    throw toError(JSON.parse(ended.text) as DescribedError, operation);
  }
  return ended;
}

/** @internal Calls the native module and converts its errors, which are serialized as text. */
export function converting<R>(call: () => R): R {
  try {
    return call();
  } catch (error) {
    throw ofNative(error);
  }
}

/** Starts a native call and returns its number. */
function start({ client, log }: Caller, name: CallName, input: string, resolve: (ended: Ended) => void): number {
  lastNumber += 1;
  const call = lastNumber;
  converting(() => client[name](door, call, input));
  inFlight.set(call, { log, resolve });
  return call;
}

/** Calls with the same signal share one listener, to avoid the max-listeners warning. */
class AbortListener {
  static readonly #all = new WeakMap<AbortSignal, AbortListener>();

  readonly #signal: AbortSignal;
  readonly #callbacks = new Set<() => void>();
  readonly #aborted = () => {
    AbortListener.#all.delete(this.#signal);
    for (const callback of [...this.#callbacks]) {
      callback();
    }
  };

  private constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  static to(signal: AbortSignal): AbortListener {
    const known = AbortListener.#all.get(signal);
    if (known !== undefined) {
      return known;
    }
    const listener = new AbortListener(signal);
    try {
      signal.addEventListener('abort', listener.#aborted, { once: true });
    } catch (error) {
      throw wrongArgument('signal: adding a listener to it failed', error);
    }
    AbortListener.#all.set(signal, listener);
    return listener;
  }

  /** Calls `callback` when the signal aborts; the returned function removes it. */
  add(callback: () => void): () => void {
    this.#callbacks.add(callback);
    return () => {
      if (this.#callbacks.delete(callback) && this.#callbacks.size === 0 && AbortListener.#all.delete(this.#signal)) {
        // A custom signal may throw; the other calls of the batch must still complete.
        ignoreTelemetryError(() => this.#signal.removeEventListener('abort', this.#aborted));
      }
    };
  }
}

/** Returns whether `signal` is aborted; a custom signal may throw. */
function isAborted(signal: AbortSignal): boolean {
  try {
    return signal.aborted;
  } catch (error) {
    throw wrongArgument('signal: reading its members failed', error);
  }
}

/** @internal Checks that `signal` is an AbortSignal of any realm. */
export function checkSignal(signal: unknown): void {
  try {
    const { aborted, addEventListener, removeEventListener } = Object(signal) as Partial<AbortSignal>;
    const isSignal =
      typeof aborted === 'boolean' &&
      typeof addEventListener === 'function' &&
      typeof removeEventListener === 'function';
    if (isSignal) {
      return;
    }
  } catch (error) {
    throw wrongArgument('signal: reading its members failed', error);
  }
  throw wrongArgument(`signal: expected an AbortSignal, found ${describe(signal)}`);
}
