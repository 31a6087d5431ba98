/** Detects functions whose call does not run their body, and results whose body has not run. */

import { types } from './host.js';
import { describe, wrongArgument } from './json.js';

/** The tags of generator functions, also of bound ones and of proxies. */
const GENERATOR_FUNCTIONS = ['GeneratorFunction', 'AsyncGeneratorFunction'];
/** The tags of iterators over existing data, such as `Map Iterator`: they run nothing of the program. */
const DATA_ITERATOR = / Iterator$/;
/** Matches the source of a class, but not of a method named `class`. */
const CLASS = /^class(?=[\s{/])(?!\s*\()/;

/**
 * @internal Checks that a call of `run` runs its body; `member` is its name in messages. Rejects generator functions
 * (including bound and proxied ones), classes and revoked proxies.
 */
export function checkFunction(member: string, run: unknown): void {
  if (typeof run !== 'function') {
    throw wrongArgument(`${member}: expected a function, found ${describe(run)}`);
  }
  const found = uncallable(run);
  if (found !== undefined) {
    throw wrongArgument(`${member}: expected a function that runs when called, found ${found}`);
  }
}

function uncallable(run: Function): string | undefined {
  try {
    if (types.isGeneratorFunction(run) || GENERATOR_FUNCTIONS.includes(tagOf(run))) {
      return 'a generator function: a call does not run its body';
    }
    return CLASS.test(Function.prototype.toString.call(run)) ? 'a class: it needs new' : undefined;
  } catch {
    return 'a proxy that cannot be read';
  }
}

/**
 * @internal Closes `result` and returns its description for messages, if its body runs only when it is iterated: a generator, or
 * an iterator over anything but existing data. Returns `undefined` for any other result, such as a stream.
 */
export function unrun(result: unknown): string | undefined {
  try {
    const found = kindOf(result);
    if (found !== undefined) {
      close(result as { return?: unknown });
    }
    return found;
  } catch {
    // A proxy that cannot be inspected is a result like any other.
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

/** Closes an iterator, so that it releases its resources. Its errors are ignored. */
function close(iterator: { return?: unknown }): void {
  try {
    if (typeof iterator.return === 'function') {
      Promise.resolve(iterator.return()).catch(() => {});
    }
  } catch {
    // The result is rejected in any case.
  }
}

/** Returns the class tag of an object; it works through proxies and bound functions. */
function tagOf(value: object): string {
  return Object.prototype.toString.call(value).slice('[object '.length, -1);
}
