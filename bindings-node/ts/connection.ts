/** The parts of a client: its shared connection and its defaults. */

import { type ScopeStorage, textOfBytes, types } from './host.js';
import { joined, type Members, toInput, toMembers, wrongArgument, wrongSetting } from './json.js';
import { type Log, logOf } from './log.js';
import { type Client, native, takeFallback } from './native.js';
import { INPUTS, SETTINGS } from './options.js';
import { checkSignal, converting } from './runtime.js';
import type { Mode } from './types.js';

/** @internal State shared by a client and those derived by {@link ActPass.withOptions}. */
export interface Connection {
  /** `undefined` once the client is closed. */
  native: Client | undefined;
  readonly mode: Mode;
  readonly log: Log;
  /** Created by the first {@link ActPass.bind}, because it slows down every promise of the process. */
  scope: ScopeStorage<Members> | undefined;
}

/** @internal Constructor argument for a client that shares the connection of another. */
export class Derived {
  readonly #connection: Connection;
  readonly #defaults: Members;

  constructor(connection: Connection, defaults: Members) {
    this.#connection = connection;
    this.#defaults = defaults;
  }

  /** Returns the parts if `given` is a `Derived`. Runs no user code, unlike `instanceof` on a proxy. */
  static partsOf(given: unknown): { connection: Connection; defaults: Members } | undefined {
    const isDerived = typeof given === 'object' && given !== null && #connection in given;
    return isDerived ? { connection: given.#connection, defaults: given.#defaults } : undefined;
  }
}

/** The parts of each client. */
const parts = new WeakMap<object, Parts>();

/** @internal The parts of a client. */
export interface Parts {
  readonly connection: Connection;
  readonly defaults: Members;
}

/** @internal Sets the parts of `client`. */
export function made(client: object, its: Parts): void {
  parts.set(client, its);
}

/** @internal Returns the parts of a client; throws for any other `this`. */
export function partsOf(client: unknown): Parts {
  const found = parts.get(client as object);
  if (found === undefined) {
    throw wrongArgument('this: expected a client: call the method on it, as in actpass.guard(...)');
  }
  return found;
}

/** @internal Returns the native client; throws if it is closed. */
export function opened({ native: client }: Connection): Client {
  if (client === undefined) {
    throw wrongSetting('client: closed; create a new one');
  }
  return client;
}

/** @internal Creates the connection of a client with these settings. */
export function connect(options: unknown): Connection {
  const members = toMembers(options, [...SETTINGS, 'logger', 'logLevel'], wrongSetting);
  const log = logOf(members['logger'], members['logLevel']);
  const { ca } = members;
  const settings = joined(members, types.isUint8Array(ca) ? { ca: textOfBytes(ca) } : undefined, {
    logLevel: log.level,
  });
  const text = toInput(settings, [...SETTINGS, 'logLevel'], wrongSetting);
  const client = converting(() => new native.Client(text));
  const reason = log.level === 'off' ? undefined : takeFallback();
  if (reason !== undefined) {
    log.write(JSON.stringify([['warn', `the engine is wasm: ${reason}`]]));
  }
  return { native: client, mode: (members['mode'] ?? 'enforce') as Mode, log, scope: undefined };
}

/** @internal Validates `given` like the members of an action, and returns it. */
export function checkDefaults(client: Client, given: Members): Members {
  checkAction(client, joined({ goal: 'checked', tool: 'checked', args: {} }, given));
  return given;
}

/** @internal Validates the members of an action without sending it. */
export function checkAction(client: Client, members: Members): void {
  if (members['signal'] !== undefined) {
    checkSignal(members['signal']);
  }
  const text = toInput(members, INPUTS.authorize);
  converting(() => client.check(text));
}
