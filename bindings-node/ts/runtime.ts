/** The calls of this thread that are under way: how they begin, what ends them, what they end with. */

import { type DescribedError, ofNative, Passed, toError } from './errors.js';
import { describe, wrongArgument } from './json.js';
import type { Log } from './log.js';
import { type Batch, type CallName, type Client, How, native } from './native.js';
import { tell } from './telemetry.js';

/** @internal What a call ended with. */
export interface Ended {
  /** The number of the call. */
  call: number;
  failed: boolean;
  /** The core ruled that the action may run. */
  permitted: boolean;
  /** The JSON text of the answer, the outcome or the error. */
  text: string;
}

/** @internal What makes a call. */
export interface Caller {
  readonly client: Client;
  readonly log: Log;
  /** The method that was called, as errors name it. */
  readonly operation: string;
}

interface UnderWay {
  readonly log: Log;
  resolve(ended: Ended): void;
}

const underWay = new Map<number, UnderWay>();
let lastNumber = 0;

/** @internal What calls and permits go through. */
export const door = new native.Bridge((batch: Batch) => {
  for (let at = 0; at < batch.length; at += 4) {
    const call = batch[at] as number;
    const how = batch[at + 1];
    const text = batch[at + 2] as string;
    const lines = batch[at + 3] as string;
    const ended = underWay.get(call);
    leave(call);
    if (lines !== '') {
      tell(() => ended?.log.write(lines));
    }
    ended?.resolve({ call, failed: how === How.Failed, permitted: how === How.Permitted, text });
  }
});

/** @internal Begins a call. The promise is rejected only by `signal`; while it is pending, the process stays alive. */
export function begin(caller: Caller, name: CallName, input: string, signal: AbortSignal | undefined): Promise<Ended> {
  if (signal === undefined) {
    return new Promise((resolve) => {
      enter(caller, name, input, resolve);
    });
  }
  checkSignal(signal);
  return new Promise((resolve, reject) => {
    if (isAborted(signal)) {
      throw new Passed(signal.reason);
    }
    let call: number | undefined;
    const forget = Listening.to(signal).add(() => {
      if (call !== undefined) {
        leave(call);
        door.cancel(call);
      }
      reject(new Passed(signal.reason));
    });
    try {
      call = enter(caller, name, input, (ended) => {
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
 * @internal What a call ended with, unless its caller has lost interest meanwhile. An error is one of the method `operation`.
 */
export function take(ended: Ended, signal: AbortSignal | undefined, operation: string): Ended {
  let hasLost = true;
  try {
    hasLost = signal !== undefined && isAborted(signal);
  } finally {
    if (hasLost) {
      door.cancel(ended.call);
    }
  }
  if (hasLost) {
    throw new Passed(signal?.reason);
  }
  if (ended.failed) {
    throw toError(JSON.parse(ended.text) as DescribedError, operation);
  }
  return ended;
}

/** @internal Calls the native half, whose errors arrive as texts. */
export function converting<R>(call: () => R): R {
  try {
    return call();
  } catch (error) {
    throw ofNative(error);
  }
}

/** Begins a call and returns its number. */
function enter({ client, log }: Caller, name: CallName, input: string, resolve: (ended: Ended) => void): number {
  lastNumber += 1;
  const call = lastNumber;
  converting(() => client[name](door, call, input));
  if (underWay.size === 0) {
    door.hold();
  }
  underWay.set(call, { log, resolve });
  return call;
}

function leave(call: number): void {
  if (underWay.delete(call) && underWay.size === 0) {
    door.release();
  }
}

/** The calls that wait under one signal. They share one listener, so that their number causes no warning. */
class Listening {
  static readonly #all = new WeakMap<AbortSignal, Listening>();

  readonly #signal: AbortSignal;
  readonly #abandons = new Set<() => void>();
  readonly #aborted = () => {
    Listening.#all.delete(this.#signal);
    for (const abandon of [...this.#abandons]) {
      abandon();
    }
  };

  private constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  static to(signal: AbortSignal): Listening {
    const known = Listening.#all.get(signal);
    if (known !== undefined) {
      return known;
    }
    const listening = new Listening(signal);
    try {
      signal.addEventListener('abort', listening.#aborted, { once: true });
    } catch (error) {
      throw wrongArgument('signal: adding a listener to it failed', error);
    }
    Listening.#all.set(signal, listening);
    return listening;
  }

  /** Has `abandon` called when the signal aborts, until the returned function is called. */
  add(abandon: () => void): () => void {
    this.#abandons.add(abandon);
    return () => {
      if (this.#abandons.delete(abandon) && this.#abandons.size === 0 && Listening.#all.delete(this.#signal)) {
        // A signal may be of the program's own making; the other calls of the batch still have to end.
        tell(() => this.#signal.removeEventListener('abort', this.#aborted));
      }
    };
  }
}

/** Whether `signal` is aborted. What its members do is the program's own. */
function isAborted(signal: AbortSignal): boolean {
  try {
    return signal.aborted;
  } catch (error) {
    throw wrongArgument('signal: reading its members failed', error);
  }
}

/** @internal Checks that `signal` is an AbortSignal, of whatever realm. */
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
