/** Copies the arguments of a call, so that an action runs with the evaluated arguments. */

import { types } from './host.js';
import { isPlain, wrongArgument } from './json.js';

/**
 * @internal Copies `args` deeply: object literals, arrays, dates, maps and sets. Other values (functions, streams, class
 * instances) are shared with the copy. Cycles are preserved.
 */
export function copied<A extends unknown[]>(args: A): A {
  try {
    const copies = new Map<object, object>();
    return args.map((value) => copyOf(value, copies)) as A;
  } catch (error) {
    throw wrongArgument('arguments: expected values that can be copied, found one whose getter or proxy threw', error);
  }
}

function copyOf(value: unknown, copies: Map<object, object>): unknown {
  if (typeof value !== 'object' || value === null) {
    return value;
  }
  const known = copies.get(value);
  if (known !== undefined) {
    return known;
  }
  if (Array.isArray(value)) {
    return isOf(value, Array.prototype) ? arrayOf(value, copies) : value;
  }
  if (isPlain(value)) {
    return literalOf(value, copies);
  }
  if (types.isDate(value) && isOf(value, Date.prototype)) {
    return new Date(value.getTime());
  }
  if (types.isMap(value) && isOf(value, Map.prototype)) {
    const copy = kept(value, new Map<unknown, unknown>(), copies);
    value.forEach((item, key) => copy.set(copyOf(key, copies), copyOf(item, copies)));
    return copy;
  }
  if (types.isSet(value) && isOf(value, Set.prototype)) {
    const copy = kept(value, new Set<unknown>(), copies);
    value.forEach((item) => copy.add(copyOf(item, copies)));
    return copy;
  }
  return value;
}

function arrayOf(value: unknown[], copies: Map<object, object>): unknown[] {
  const copy = kept(value, new Array<unknown>(value.length), copies);
  for (const at of value.keys()) {
    if (at in value) {
      copy[at] = copyOf(value[at], copies);
    }
  }
  return copy;
}

function literalOf(value: object, copies: Map<object, object>): object {
  const prototype = Object.getPrototypeOf(value) === null ? null : Object.prototype;
  const copy = kept(value, Object.create(prototype) as object, copies);
  for (const name of Reflect.ownKeys(value)) {
    if (Object.prototype.propertyIsEnumerable.call(value, name)) {
      const item = copyOf((value as Record<string | symbol, unknown>)[name], copies);
      Object.defineProperty(copy, name, { value: item, configurable: true, enumerable: true, writable: true });
    }
  }
  return copy;
}

function kept<C extends object>(value: object, copy: C, copies: Map<object, object>): C {
  copies.set(value, copy);
  return copy;
}

/** Returns whether the class of `value` is the built-in itself, of any realm, and not a subclass. */
function isOf(value: object, prototype: object): boolean {
  const own = Object.getPrototypeOf(value) as object | null;
  if (own === null || own === prototype) {
    return own !== null;
  }
  const above = Object.getPrototypeOf(own) as object | null;
  const isBuiltIn = above !== null && Object.getPrototypeOf(above) === null;
  return isBuiltIn && own.constructor?.name === prototype.constructor.name;
}
