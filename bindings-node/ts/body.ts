/** Functions whose call runs nothing, and results whose body has not run: neither is the end of an action. */

import { types } from 'node:util';
import { describe, wrongArgument } from './json.js';

/** What a call of such a function returns is refused by {@link unrun} as well; this finds it before anything is sent. */
const GENERATOR_FUNCTIONS = ['GeneratorFunction', 'AsyncGeneratorFunction'];
/** The tags of iterators over existing data, such as `Map Iterator`: they run nothing of the program. */
const DATA_ITERATOR = / Iterator$/;
/** The text of a class, and not that of a method of this name. */
const CLASS = /^class(?=[\s{/])(?!\s*\()/;

/**
 * @internal Checks that a call of `run` runs it; `member` is its name in messages. Generator functions are refused, bound
 * and proxied ones too, and so are classes and revoked proxies.
 */
export function checkFunction(member: string, run: unknown): void {
  if (typeof run !== 'function') {
    throw wrongArgument(`${member}: expected a function, found ${describe(run)}`);
  }
  const found = uncallable(run);
  if (found !== undefined) {
    throw wrongArgument(`${member}: expected a function that runs when it is called, found ${found}`);
  }
}

function uncallable(run: Function): string | undefined {
  try {
    if (types.isGeneratorFunction(run) || GENERATOR_FUNCTIONS.includes(tagOf(run))) {
      return 'a generator function: a call runs nothing of its body';
    }
    return CLASS.test(Function.prototype.toString.call(run)) ? 'a class: it needs new' : undefined;
  } catch {
    return 'a proxy that cannot be read';
  }
}

/**
 * @internal What `result` is, for messages, if its body runs only when somebody iterates: a generator, or another iterator
 * that is none over existing data. It is closed. `undefined` for any other result, a stream among them.
 */
export function unrun(result: unknown): string | undefined {
  try {
    const found = kindOf(result);
    if (found !== undefined) {
      close(result as { return?: unknown });
    }
    return found;
  } catch {
    // A proxy that cannot be looked at is what the function returned.
    return undefined;
  }
}

function kindOf(result: unknown): string | undefined {
  if (typeof result !== 'object' || result === null) {
    return undefined;
  }
  if (types.isGeneratorObject(result)) {
    return tagOf(result) === 'AsyncGenerator' ? 'an async generator' : 'a generator';
  }
  const {
    next,
    pipe,
    getReader,
    [Symbol.iterator]: iterator,
    [Symbol.asyncIterator]: asyncIterator,
  } = result as Record<string | symbol, unknown>;
  if (typeof next !== 'function' || typeof pipe === 'function' || typeof getReader === 'function') {
    return undefined;
  }
  if (typeof asyncIterator === 'function') {
    return 'an async iterator';
  }
  return typeof iterator === 'function' && !DATA_ITERATOR.test(tagOf(result)) ? 'an iterator' : undefined;
}

/** Ends an iterator, so that what it holds is let go. How it takes that is of no interest. */
function close(iterator: { return?: unknown }): void {
  try {
    if (typeof iterator.return === 'function') {
      Promise.resolve(iterator.return()).catch(() => {});
    }
  } catch {
    // As above.
  }
}

/** The tag of an object's class, which a proxy and a bound function have as well. */
function tagOf(value: object): string {
  return Object.prototype.toString.call(value).slice('[object '.length, -1);
}
