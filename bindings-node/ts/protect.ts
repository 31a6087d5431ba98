/** The wrappers of `protect` and `protectTools`: functions that run only if permitted, with the evaluated arguments. */

import { type CheckedAction, checkedAction, guarding } from './action.js';
import { checkFunction } from './body.js';
import { type ActionBlockedError, Site, stamped } from './errors.js';
import { MappedTool, ToolMap } from './integrations/common.js';
import { describe, toDictionary, toMembers, wrongArgument } from './json.js';
import { native } from './native.js';
import { PROTECT_OPTIONS } from './options.js';
import type { BlockedOutcome } from './outcome.js';
import { blockedBy, unmappedOutcome, unwrapped } from './report.js';
import type { ToolActions } from './types.js';

/** A function to protect. */
type Run = (...args: unknown[]) => unknown;
type OnBlocked = ((error: ActionBlockedError) => unknown) | undefined;

/** @internal Wraps `run`; options that are not functions are checked immediately. */
export function protecting(client: object, run: unknown, options: unknown): Function {
  checkFunction('run', run);
  const { withContext = false, onBlocked, ...given } = toMembers(options, PROTECT_OPTIONS);
  if (typeof withContext !== 'boolean') {
    throw wrongArgument(`withContext: expected true or false, found ${describe(withContext)}`);
  }
  const { name, length } = run as Run;
  const wrapper = protectedFunction(client, run as Run, checkedAction(client, given), checked(onBlocked), withContext);
  return shaped(wrapper, name, length);
}

/** @internal Wraps each of `tools` by its action. */
export function protectingTools(client: object, tools: unknown, actions: unknown, options: unknown): object {
  const given = toDictionary('tools', 'functions by their names', tools);
  const onBlocked = checked(toMembers(options, ['onBlocked'])['onBlocked']);
  const map = new ToolMap(client, actions as ToolActions);
  map.checkCoverage(Object.keys(given), { isComplete: true });
  const wrapped = Object.create(denying(onBlocked)) as { [name: string]: Function };
  for (const [name, run] of Object.entries(given)) {
    checkFunction(native.argumentPath('tools', [name]), run);
    const action = map.lookup(name);
    const bound = (run as Run).bind(tools);
    const wrapper =
      action instanceof MappedTool
        ? protectedFunction(client, bound, action.action, onBlocked)
        : async (...args: unknown[]) => bound(...args);
    // Unlike an assignment, also for the name `__proto__`.
    Object.defineProperty(wrapped, name, { value: shaped(wrapper, name, (run as Run).length), enumerable: true });
  }
  return Object.freeze(wrapped);
}

/** Names that the language reads from any object, for `await` and `JSON.stringify`. */
const READ_BY_THE_LANGUAGE = ['then', 'toJSON'];

/** Returns a prototype that has a function, which is blocked, for each name. */
function denying(onBlocked: OnBlocked): object {
  return new Proxy(Object.freeze(Object.create(null) as object), {
    get(_, name) {
      if (typeof name === 'symbol' || READ_BY_THE_LANGUAGE.includes(name)) {
        return undefined;
      }
      const denied = async () => {
        const site = new Site(denied);
        return answerOf(unmappedOutcome({ operation: 'protect', site }, name), onBlocked, site);
      };
      return shaped(denied, name, 0);
    },
  });
}

/** Returns the wrapper of `run`. */
function protectedFunction(
  client: object,
  run: Run,
  action: CheckedAction,
  onBlocked: OnBlocked,
  withContext = false,
): Function {
  const guarded = async function (this: unknown, ...args: unknown[]): Promise<unknown> {
    const site = new Site(guarded);
    const outcome = await guarding({
      client,
      operation: 'protect',
      above: guarded,
      action,
      args,
      run: (own, context) => run.apply(this, withContext ? [context, ...own] : own),
    });
    return outcome.kind === 'blocked' ? answerOf(outcome, onBlocked, site) : unwrapped(outcome, 'protect', () => site);
  };
  return guarded;
}

/** Returns the result of `onBlocked`; without one, throws the error of the blocked call. */
function answerOf(outcome: BlockedOutcome, onBlocked: OnBlocked, site: Site): unknown {
  const error = stamped(blockedBy(outcome, 'protect'), site) as ActionBlockedError;
  if (onBlocked === undefined) {
    throw error;
  }
  return onBlocked(error);
}

function checked(onBlocked: unknown): OnBlocked {
  if (onBlocked !== undefined) {
    checkFunction('onBlocked', onBlocked);
  }
  return onBlocked as OnBlocked;
}

/** Gives a wrapper the name and the length of its function. */
function shaped(wrapper: Function, name: string, length: number): Function {
  return Object.defineProperties(wrapper, {
    name: { value: name, configurable: true },
    length: { value: length, configurable: true },
  });
}
