/**
 * Serializes JavaScript values to JSON text in one pass. Each value is read once, so that getters and proxies cannot return
 * other values after validation. All languages send the same bytes.
 */

import { types } from './host.js';
import { ActPassArgumentError, ActPassConfigError, type ActPassError, fresh } from './errors.js';
import { native } from './native.js';

const MAX_DEPTH = 128;
/** The maximum length of a class name in messages. */
const MAX_SHOWN = 200;
/** Class names that messages may contain. */
const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;

/** Creates the error for an invalid member. */
type Wrong = (message: string, cause?: unknown) => ActPassError;

/** @internal The members of a caller's object, each read once. */
export type Members = { [name: string]: unknown };

/**
 * Creates an object that inherits no members, so that those of `Object.prototype` are not mistaken for options. V8 reads and
 * copies it much faster than one without a prototype.
 */
const Bare = function () {} as unknown as new () => Members;
Bare.prototype = Object.freeze(Object.create(null));

/** @internal Merges `sources`; later ones take precedence. The result inherits no members. */
export function joined(...sources: (object | undefined)[]): Members {
  return Object.assign(new Bare(), ...sources);
}

/** @internal Creates the error of an invalid argument. */
export const wrongArgument: Wrong = (message, cause) =>
  fresh(ActPassArgumentError, message, {
    code: 'actpass.invalid_argument',
    kind: 'argument',
    ...(cause !== undefined && { cause }),
  });

/** @internal Creates the error of an invalid setting. */
export const wrongSetting: Wrong = (message, cause) =>
  fresh(ActPassConfigError, message, {
    code: 'actpass.invalid_config',
    kind: 'config',
    ...(cause !== undefined && { cause }),
  });

/** @internal A value that is already serialized. */
export class Written {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  get text(): string {
    return this.#text;
  }

  /** Whether `value` is one. Runs no user code, unlike `instanceof` on a proxy. */
  static is(value: unknown): value is Written {
    return typeof value === 'object' && value !== null && #text in value;
  }
}

/**
 * @internal Reads the members of `given` once, without `undefined` values; throws for a member that is not in `known`.
 */
export function toMembers(given: unknown, known: readonly string[], wrong = wrongArgument): Members {
  if (typeof given !== 'object' || given === null) {
    throw wrong(`expected an object of ${known[0]} and others, found ${describe(given)}`);
  }
  const members = joined();
  let names: string[];
  try {
    names = Object.keys(given);
  } catch (error) {
    throw wrong(`expected an object of ${known[0]} and others, found one whose members cannot be read`, error);
  }
  for (const name of names) {
    if (!known.includes(name)) {
      // Quoted like a key in a path, because it may be any string.
      const shown = native.argumentPath('', [name]).replace(/^\./, '');
      throw wrong(`${shown}: expected one of ${known.join(', ')}`);
    }
    let value: unknown;
    try {
      value = (given as Members)[name];
    } catch (error) {
      throw wrong(`${name}: reading it failed`, error);
    }
    if (value !== undefined) {
      members[name] = value;
    }
  }
  return members;
}

/** @internal Reads the members of `given`, an object of `expected` by any names, once, without `undefined` values. */
export function toDictionary(member: string, expected: string, given: unknown): Members {
  try {
    if (typeof given === 'object' && given !== null && !Array.isArray(given)) {
      return joined(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)));
    }
  } catch (error) {
    throw wrongArgument(`${member}: expected an object of ${expected}, found one whose members cannot be read`, error);
  }
  throw wrongArgument(`${member}: expected an object of ${expected}, found ${describe(given)}`);
}

/** @internal Serializes the members that are listed in `names`. */
export function toInput(members: Members, names: readonly string[], wrong = wrongArgument): string {
  let text = '';
  for (const name of names) {
    const value = members[name];
    if (value !== undefined) {
      const written = Written.is(value) ? value.text : new Writer(name, wrong).write(value, 1);
      text += `${text && ', '}"${name}": ${written}`;
    }
  }
  return `{${text}}`;
}

/** @internal Serializes `value`; `member` is its name in messages. */
export function toJson(member: string, value: unknown): string {
  return new Writer(member, wrongArgument).write(value, 0);
}

/** @internal Serializes one member of an input. */
export function toMember(member: string, value: unknown): string {
  return new Writer(member, wrongArgument).write(value, 1);
}

/** @internal Describes the type of `value` for messages. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'object':
      return value === null ? 'null' : describeObject(value);
    case 'number':
      return `${value}`;
    case 'undefined':
      return 'undefined';
    default:
      return `a ${typeof value}`;
  }
}

/** @internal Whether `value` is an object literal of any realm. */
export function isPlain(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Serializes one value and tracks the current path. */
class Writer {
  readonly #member: string;
  readonly #wrong: Wrong;
  /** The path to the current value. */
  readonly #path: (string | number)[] = [];
  /** The arrays and objects that are open, outermost first. */
  readonly #open: object[] = [];

  constructor(member: string, wrong: Wrong) {
    this.#member = member;
    this.#wrong = wrong;
  }

  write(value: unknown, depth: number): string {
    switch (typeof value) {
      case 'string':
        return this.#quote(value);
      case 'number':
        if (!Number.isFinite(value)) {
          break;
        }
        return Object.is(value, -0) ? '0' : `${value}`;
      case 'boolean':
        return value ? 'true' : 'false';
      case 'object':
        return value === null ? 'null' : this.#container(value, depth);
      default:
        break;
    }
    throw this.#invalid(value);
  }

  #container(value: object, depth: number): string {
    if (depth >= MAX_DEPTH) {
      throw this.#tooDeep();
    }
    this.#open.push(value);
    const text = this.#text(value, depth);
    this.#open.pop();
    return text;
  }

  #text(value: object, depth: number): string {
    if (types.isDate(value) && Number.isNaN(this.#reading(() => Date.prototype.getTime.call(value)))) {
      throw this.#invalid(value);
    }
    // Ignore Buffer's toJSON.
    const toJSON = ArrayBuffer.isView(value) ? undefined : this.#reading(() => (value as { toJSON?: unknown }).toJSON);
    if (typeof toJSON === 'function') {
      return this.#converted(value, toJSON, depth);
    }
    if (this.#reading(() => Array.isArray(value))) {
      return this.#array(value as unknown[], depth);
    }
    if (!this.#reading(() => isPlain(value))) {
      throw this.#invalid(value);
    }
    let text = '';
    for (const name of this.#reading(() => Object.keys(value))) {
      const key = this.#quote(name);
      this.#path.push(name);
      const item = this.#reading(() => (value as Members)[name]);
      if (item !== undefined) {
        text += `${text && ', '}${key}: ${this.write(item, depth + 1)}`;
      }
      this.#path.pop();
    }
    return `{${text}}`;
  }

  #array(items: unknown[], depth: number): string {
    let text = '';
    const length = this.#reading(() => items.length);
    for (let at = 0; at < length; at += 1) {
      this.#path.push(at);
      const item = this.#reading(() => items[at]);
      text += `${at ? ', ' : ''}${this.write(item, depth + 1)}`;
      this.#path.pop();
    }
    return `[${text}]`;
  }

  #converted(value: object, toJSON: Function, depth: number): string {
    const made: unknown = this.#reading(() => toJSON.call(value, `${this.#path.at(-1) ?? ''}`));
    if (types.isPromise(made)) {
      // Rejected below; an unhandled rejection must not end the process.
      made.catch(() => {});
    }
    if (made === null) {
      // Libraries serialize invalid dates this way.
      throw this.#wrong(
        `${this.#place()}: expected a value that is JSON, found ${describe(value)} whose toJSON returned null; ` +
          'pass null itself, or a valid value',
      );
    }
    return this.write(made, depth + 1);
  }

  #quote(text: string): string {
    // No characters to escape.
    if (/^[ !#-[\]-~]*$/.test(text)) {
      return `"${text}"`;
    }
    if (!text.isWellFormed()) {
      throw this.#wrong(`${this.#place()}: expected text in Unicode, found a lone surrogate; pass text.toWellFormed()`);
    }
    return JSON.stringify(text).replace(
      /[\x7f-\uffff]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
  }

  /** Runs user code: a getter, a toJSON, a proxy trap. */
  #reading<R>(read: () => R): R {
    try {
      return read();
    } catch (error) {
      throw this.#wrong(
        `${this.#place()}: expected a value that can be read, found one whose getter, toJSON or proxy threw`,
        error,
      );
    }
  }

  #invalid(value: unknown): ActPassError {
    const expected = typeof value === 'number' ? 'a finite number' : 'a value that is JSON';
    // For other members the native module names the expected type.
    const hint = this.#path.length > 0 || typeof value === 'object' ? `; ${remedy(value)}` : '';
    return this.#wrong(`${this.#place()}: expected ${expected}, found ${describe(value)}${hint}`);
  }

  #tooDeep(): ActPassError {
    const first = this.#open.findIndex((value, at) => this.#open.indexOf(value) < at);
    return first < 0
      ? this.#wrong(`${this.#place()}: nested deeper than ${MAX_DEPTH} levels`)
      : this.#wrong(`${this.#place(first)}: expected a value that is JSON, found a cycle; omit the reference`);
  }

  /** `args.order.items[0].price` */
  #place(length = this.#path.length): string {
    return native.argumentPath(this.#member, this.#path.slice(0, length));
  }
}

/** Returns how to convert a value that is not JSON. */
function remedy(value: unknown): string {
  switch (typeof value) {
    case 'number':
      return 'pass null or a string';
    case 'bigint':
      return 'pass Number(value) if it is a safe integer, else a string';
    case 'undefined':
      return 'pass null, or omit the item';
    case 'function':
      return 'omit it, or pass its result';
    case 'symbol':
      return 'pass its description';
    default:
      return remedyOfObject(value as object);
  }
}

function remedyOfObject(value: object): string {
  if (types.isDate(value)) {
    return 'pass null, or a valid date';
  }
  if (types.isMap(value)) {
    return 'pass Object.fromEntries(map)';
  }
  if (types.isSet(value)) {
    return 'pass [...set]';
  }
  if (types.isAnyArrayBuffer(value) || ArrayBuffer.isView(value)) {
    return "pass [...bytes], or Buffer.from(bytes).toString('base64')";
  }
  if (types.isPromise(value)) {
    return 'await it first';
  }
  if (types.isRegExp(value)) {
    return 'pass its source';
  }
  if (types.isNativeError(value)) {
    return 'pass its message';
  }
  if (types.isBoxedPrimitive(value)) {
    return 'pass value.valueOf()';
  }
  return 'pass an object literal such as { ...value }, or add a toJSON method to its class';
}

function describeObject(value: object): string {
  try {
    if (Array.isArray(value)) {
      return 'an array';
    }
    if (types.isDate(value) && Number.isNaN(Date.prototype.getTime.call(value))) {
      return 'an invalid Date';
    }
    const name: unknown = value.constructor?.name;
    return typeof name === 'string' && IDENTIFIER.test(name) && name !== 'Object'
      ? `an instance of ${shortened(name)}`
      : 'an object';
  } catch {
    return 'an object that cannot be read';
  }
}

function shortened(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
}
