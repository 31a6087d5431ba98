/** The wrapper of `protect`: functions that run only if permitted, with the evaluated arguments. */

import { checkedAction, guarding } from './action.js';
import { checkFunction } from './body.js';
import { type ActionBlockedError, Site, stamped } from './errors.js';
import { describe, toMembers, wrongArgument } from './json.js';
import { PROTECT_OPTIONS } from './options.js';
import { blockedBy, unwrapped } from './report.js';

/** @internal Wraps `body`; options that are not functions are checked immediately. */
export function protecting<R, B>(client: object, body: (...args: unknown[]) => R, options: unknown): Function {
  checkFunction('run', body);
  const { withContext = false, onBlocked, ...given } = toMembers(options, PROTECT_OPTIONS);
  if (typeof withContext !== 'boolean') {
    throw wrongArgument(`withContext: expected true or false, found ${describe(withContext)}`);
  }
  if (onBlocked !== undefined) {
    checkFunction('onBlocked', onBlocked);
  }
  const action = checkedAction(client, given);
  const guarded = async function (this: unknown, ...args: unknown[]): Promise<Awaited<R> | B> {
    const site = new Site(guarded);
    const outcome = await guarding<R>({
      client,
      operation: 'protect',
      above: guarded,
      action,
      args,
      run: (own, context) => body.apply(this, withContext ? [context, ...own] : own),
    });
    if (outcome.kind === 'blocked' && onBlocked !== undefined) {
      return (onBlocked as (error: ActionBlockedError) => B)(
        stamped(blockedBy(outcome, 'protect'), site) as ActionBlockedError,
      );
    }
    return unwrapped(outcome, 'protect', () => site);
  };
  Object.defineProperty(guarded, 'name', { value: body.name, configurable: true });
  Object.defineProperty(guarded, 'length', { value: body.length, configurable: true });
  return guarded;
}
