/** Common steps of all methods: read options, start, await, convert errors. */

import { leaving, Site } from './errors.js';
import { joined, type Members, toInput, toMembers } from './json.js';
import { type Connection, opened, partsOf } from './connection.js';
import type { CallName } from './native.js';
import { INPUTS, OF_ANY_CALL } from './options.js';
import { begin, type Caller, take } from './runtime.js';
import { type CallSpan, currentTrace, instrument } from './telemetry.js';
import type { CallOptions } from './types.js';

/** @internal A call of a method. */
export interface Call extends Caller {
  /** Options with defaults applied. */
  readonly members: Members;
  /** The call site. */
  readonly site: Site;
  readonly span: CallSpan;
}

/** @internal The description of a call. */
export interface Making {
  /** The `this` of the method. */
  client: unknown;
  /** The method's name. */
  operation: string;
  /** The name of the call's span. */
  span: string;
  /** The function of the SDK that the caller called. */
  above: Function;
  /** Reads the options, each member once. */
  read(defaults: Members): Members;
  /** Returns the object with `tool` and `mode` for the span. */
  about?(members: Members): Members;
}

/** @internal For calls whose options contain `tool` and `mode`. */
export const itself = (members: Members): Members => members;

/** @internal Runs a call. Its errors name the called method and have the caller's stack. */
export function calling<R>(making: Making, body: (call: Call) => Promise<R>): Promise<R> {
  const { operation, about } = making;
  const site = new Site(making.above, 'later');
  let began: { connection: Connection; members: Members } | { failure: unknown };
  try {
    const { connection, defaults } = partsOf(making.client);
    began = { connection, members: making.read(scoped(connection, defaults)) };
  } catch (failure) {
    began = { failure };
  }
  const attributes = () => {
    if (about === undefined || 'failure' in began) {
      return {};
    }
    const { tool, mode = began.connection.mode } = about(began.members);
    const given = Object.entries({ 'actpass.tool': tool, 'actpass.mode': mode });
    return Object.fromEntries(given.filter(([, value]) => typeof value === 'string')) as Record<string, string>;
  };
  const answer = instrument(making.span, attributes, async (span) => {
    try {
      if ('failure' in began) {
        throw began.failure;
      }
      const { connection, members } = began;
      return await body({ client: opened(connection), log: connection.log, operation, members, site, span });
    } catch (error) {
      throw leaving(error, site, operation);
    }
  });
  // This takes some microseconds, in which the request is on its way.
  site.capture();
  return answer;
}

function scoped({ scope }: Connection, defaults: Members): Members {
  const bound = scope?.getStore();
  return bound === undefined ? defaults : joined(bound, defaults);
}

/** @internal Runs a call of the method `above` that is not about an action. */
export async function asking<A>(
  above: Function,
  client: unknown,
  operation: 'issuePassport' | 'recordEvidence' | 'verifyPassport' | 'verifyPassportOffline',
  given: object,
  known: readonly string[],
  defaulted = OF_ANY_CALL,
): Promise<A> {
  const read = (defaults: Members) => withDefaults(toMembers(given, [...known, ...OF_ANY_CALL]), defaults, defaulted);
  const span = operation.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return calling({ client, operation, span, above, read }, (call) => ask<A>(call, operation));
}

/** @internal Sends the request of a call and returns the response. */
export async function ask<A>(call: Call, name: CallName): Promise<A> {
  const { signal } = call.members as CallOptions;
  const ended = await begin(call, name, inputOf(name, call.members), signal);
  return JSON.parse(take(ended, signal, call.operation).text) as A;
}

/** @internal Serializes the options of a call for the native module. */
export function inputOf(name: CallName, members: Members): string {
  const { traceparent = currentTrace() } = members;
  return toInput(traceparent === undefined ? members : joined(members, { traceparent }), INPUTS[name]);
}

/** @internal Adds missing members from `defaults` that are listed in `known`. */
export function withDefaults(members: Members, defaults: Members, known: readonly string[]): Members {
  const missing = Object.keys(defaults).filter(
    (name) => members[name] === undefined && defaults[name] !== undefined && known.includes(name),
  );
  return missing.length === 0
    ? members
    : joined(members, Object.fromEntries(missing.map((name) => [name, defaults[name]])));
}
