/**
 * JavaScript values to JSON text, in one pass: what is checked is what is sent, whatever getters and proxies answer when
 * they are asked twice. The layout is the wire's, so that every language sends the same bytes.
 */

import { types } from 'node:util';
import { ActPassArgumentError, type ActPassError } from './errors.js';

const MAX_DEPTH = 128;

/** Makes the error for a member that cannot be sent. */
type Wrong = (message: string) => ActPassError;

/** @internal An error of a call's arguments. */
export const wrongArgument: Wrong = (message) =>
  new ActPassArgumentError(message, { code: 'actpass.invalid_argument', kind: 'argument' });

/** @internal A value whose JSON text was written before. */
export class Written {
  constructor(readonly text: string) {}
}

/**
 * @internal The JSON text of `given`, an object whose members are all among `known`; those that are `undefined` are left
 * out, and so are those in `kept`, which are no JSON.
 */
export function toInput(
  given: unknown,
  known: readonly string[],
  kept: readonly string[] = [],
  wrong = wrongArgument,
): string {
  if (typeof given !== 'object' || given === null) {
    throw wrong(`expected an object of ${known[0]} and others, found ${describe(given)}`);
  }
  let text = '';
  for (const [name, value] of Object.entries(given)) {
    if (kept.includes(name)) {
      continue;
    }
    if (!known.includes(name)) {
      throw wrong(`${name}: expected one of ${[...known, ...kept].join(', ')}`);
    }
    if (value !== undefined) {
      const written = value instanceof Written ? value.text : write(name, value, 1, wrong);
      text += `${text && ', '}"${name}": ${written}`;
    }
  }
  return `{${text}}`;
}

/** @internal The JSON text of `value`; `member` is its name in messages. */
export function toJson(member: string, value: unknown): string {
  return write(member, value, 0, wrongArgument);
}

/** @internal The JSON text of a member of an input. */
export function toMember(member: string, value: unknown): string {
  return write(member, value, 1, wrongArgument);
}

/** @internal What `value` is, for messages. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'object':
      return value === null ? 'null' : Array.isArray(value) ? 'an array' : className(value);
    case 'number':
      return `${value}`;
    case 'undefined':
      return 'undefined';
    default:
      return `a ${typeof value}`;
  }
}

function write(member: string, value: unknown, depth: number, wrong: Wrong): string {
  switch (typeof value) {
    case 'string':
      return quote(member, value, wrong);
    case 'number':
      if (!Number.isFinite(value)) {
        break;
      }
      return Object.is(value, -0) ? '0' : `${value}`;
    case 'boolean':
      return value ? 'true' : 'false';
    case 'object':
      return value === null ? 'null' : container(member, value, depth, wrong);
    default:
      break;
  }
  throw wrong(`${member}: expected values that are JSON, found ${describe(value)}`);
}

function container(member: string, value: object, depth: number, wrong: Wrong): string {
  if (depth >= MAX_DEPTH) {
    throw wrong(`${member}: nested past ${MAX_DEPTH} levels`);
  }
  if (Array.isArray(value)) {
    let text = '';
    for (let at = 0; at < value.length; at += 1) {
      text += `${at ? ', ' : ''}${write(member, value[at], depth + 1, wrong)}`;
    }
    return `[${text}]`;
  }
  const { toJSON } = value as { toJSON?: unknown };
  if (typeof toJSON === 'function') {
    const made: unknown = toJSON.call(value, member);
    if (types.isPromise(made)) {
      // It is refused below, and nobody else awaits it.
      made.catch(() => {});
    }
    return write(member, made, depth + 1, wrong);
  }
  if (!isPlain(value)) {
    throw wrong(`${member}: expected values that are JSON, found ${describe(value)}`);
  }
  let text = '';
  for (const [name, item] of Object.entries(value)) {
    if (item !== undefined) {
      text += `${text && ', '}${quote(member, name, wrong)}: ${write(member, item, depth + 1, wrong)}`;
    }
  }
  return `{${text}}`;
}

function quote(member: string, text: string, wrong: Wrong): string {
  // Nothing in it needs an escape.
  if (/^[ !#-[\]-~]*$/.test(text)) {
    return `"${text}"`;
  }
  if (!text.isWellFormed()) {
    throw wrong(`${member}: expected text in Unicode, found a lone surrogate`);
  }
  return JSON.stringify(text).replace(
    /[\x7f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** @internal Whether `value` is an object literal, of this realm or of another. */
export function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function className(value: object): string {
  const name: unknown = value.constructor?.name;
  return typeof name === 'string' && name !== '' && name !== 'Object' ? `an instance of ${name}` : 'an object';
}
