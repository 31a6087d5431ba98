/** The wrapper of `protect`: functions that run only if permitted, with the evaluated arguments. */

import { types } from 'node:util';
import { checkFunction } from './body.js';
import { calling, itself, withDefaults } from './call.js';
import { checkAction, opened, partsOf } from './connection.js';
import { copied } from './copy.js';
import { Site } from './errors.js';
import { presentInput, run } from './guard.js';
import { describe, joined, type Members, toMember, toMembers, Written, wrongArgument } from './json.js';
import { DEFAULTS, JUDGED, OF_CALL, PROTECT_OPTIONS } from './options.js';
import type { GuardOutcome } from './outcome.js';
import { unwrapped } from './report.js';
import type { ExecutionContext } from './types.js';

/** @internal Wraps `body`; options that are not functions are checked immediately. */
export function protecting<R>(client: object, body: (...args: unknown[]) => R, options: unknown): Function {
  checkFunction('run', body);
  const { connection } = partsOf(client);
  const given = toMembers(options, PROTECT_OPTIONS);
  const { withContext = false } = given;
  if (typeof withContext !== 'boolean') {
    throw wrongArgument(`withContext: expected true or false, found ${describe(withContext)}`);
  }
  const fixed = Object.entries(given).filter(([name, value]) => !OF_CALL.includes(name) || typeof value !== 'function');
  const placeholders = { args: {}, ...(typeof given['goal'] === 'function' && { goal: 'placeholder' }) };
  checkAction(opened(connection), joined(placeholders, Object.fromEntries(fixed)));
  const guarded = async function (this: unknown, ...args: unknown[]): Promise<Awaited<R>> {
    const judged: Judged = { options: given, args, own: args, texts: new Map() };
    const site = new Site(guarded);
    const outcome = await calling<GuardOutcome<Awaited<R>>>(
      {
        client,
        operation: 'protect',
        span: 'guard',
        about: itself,
        above: guarded,
        read: (defaults) => {
          const members = withDefaults(judge(judged), defaults, DEFAULTS);
          const execute = (context: ExecutionContext) =>
            body.apply(this, withContext ? [context, ...judged.own] : judged.own);
          return joined(members, { execute });
        },
      },
      (begun) => run(begun, 'authorize', { member: 'run', present: () => present(judged, begun.members) }),
    );
    return unwrapped(outcome, 'protect', () => site);
  };
  Object.defineProperty(guarded, 'name', { value: body.name, configurable: true });
  Object.defineProperty(guarded, 'length', { value: body.length, configurable: true });
  return guarded;
}

/** The arguments of one call of a protected function. */
interface Judged {
  /** The options of `protect`. */
  readonly options: Members;
  /** The arguments of the call. */
  readonly args: unknown[];
  /** The arguments to run with: copies of the evaluated ones. */
  own: unknown[];
  /** The JSON texts of the evaluated members. */
  readonly texts: Map<string, string>;
}

/** Returns the members of the action of one call. */
function judge(judged: Judged): Members {
  const { options, args, texts } = judged;
  if (JUDGED.some((name) => typeof options[name] === 'function')) {
    judged.own = copied(args);
  } else if (options['args'] === undefined) {
    judged.own = [...copied(args.slice(0, 1)), ...args.slice(1)];
  }
  const members = joined();
  for (const name of PROTECT_OPTIONS) {
    const value = ofCall(name, options, judged.own);
    if (value === undefined || !JUDGED.includes(name)) {
      members[name] = value;
    } else {
      const text = toMember(name, value);
      texts.set(name, text);
      members[name] = new Written(text);
    }
  }
  return members;
}

/** Returns the current action as JSON text; throws if a member cannot be serialized. */
function present({ options, args, texts }: Judged, members: Members): string {
  const now = [...texts.keys()].map((name) => [name, ofCall(name, options, args)]);
  return presentInput(joined(members, Object.fromEntries(now)));
}

/** Returns the value of an option for a call with `args`. */
function ofCall(name: string, options: Members, args: unknown[]): unknown {
  const option = options[name];
  if (name === 'args' && option === undefined) {
    return firstOf(args);
  }
  if (typeof option !== 'function' || !OF_CALL.includes(name)) {
    return option;
  }
  let value: unknown;
  try {
    value = option(...args);
  } catch (error) {
    throw wrongArgument(`${name}: expected a function that returns its value, found one that threw`, error);
  }
  if (types.isPromise(value)) {
    value.catch(() => {});
    throw wrongArgument(`${name}: expected a function that returns its value, found one that returns a promise`);
  }
  return value;
}

/** Returns the arguments for the policy if the option `args` is absent. */
function firstOf([first]: unknown[]): object {
  if (first === undefined) {
    return {};
  }
  if (Array.isArray(first) || typeof first !== 'object' || first === null) {
    throw wrongArgument(
      `args: expected an object literal as the first argument of the function, found ${describe(first)}: ` +
        'use the option args, such as args: (charge, amount) => ({ charge, amount })',
    );
  }
  return first;
}
