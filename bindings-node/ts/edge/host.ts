/** A host without the API of Node. The build puts this module in place of `host.ts`. */

import type { ScopeStorage } from '../host.js';

/** The tag of an object, such as `Map`; a program can change it, which only changes a message. */
const tagOf = (value: unknown) => Object.prototype.toString.call(value).slice(8, -1);
const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;

/** Whether `read` accepts `value`: methods of built-in classes throw for any other object. */
function has(value: unknown, read: (value: never) => unknown): boolean {
  try {
    read(value as never);
    return isObject(value);
  } catch {
    return false;
  }
}

const sizeOfMap = Object.getOwnPropertyDescriptor(Map.prototype, 'size')?.get as Function;
const sizeOfSet = Object.getOwnPropertyDescriptor(Set.prototype, 'size')?.get as Function;

/** As in `node:util`, for the classes of any realm. */
export const types = {
  isAnyArrayBuffer: (value: unknown) => ['ArrayBuffer', 'SharedArrayBuffer'].includes(tagOf(value)),
  isBoxedPrimitive: (value: unknown) =>
    isObject(value) && ['Number', 'String', 'Boolean', 'BigInt', 'Symbol'].includes(tagOf(value)),
  isDate: (value: unknown): value is Date => has(value, (date) => Date.prototype.getTime.call(date)),
  isGeneratorFunction: (value: unknown) => ['GeneratorFunction', 'AsyncGeneratorFunction'].includes(tagOf(value)),
  isGeneratorObject: (value: unknown) => ['Generator', 'AsyncGenerator'].includes(tagOf(value)),
  isMap: (value: unknown): value is Map<unknown, unknown> => has(value, (map) => sizeOfMap.call(map)),
  isNativeError: (value: unknown): value is Error => value instanceof Error || tagOf(value) === 'Error',
  isPromise: (value: unknown): value is Promise<unknown> => value instanceof Promise || tagOf(value) === 'Promise',
  isRegExp: (value: unknown): value is RegExp => tagOf(value) === 'RegExp',
  isSet: (value: unknown): value is Set<unknown> => has(value, (set) => sizeOfSet.call(set)),
  isUint8Array: (value: unknown): value is Uint8Array => tagOf(value) === 'Uint8Array',
};

interface HostGlobals {
  AsyncLocalStorage?: new () => ScopeStorage<unknown>;
  process?: { env?: { [name: string]: string | undefined }; getBuiltinModule?(name: string): unknown };
  Deno?: { env: { get(name: string): string | undefined } };
}
const globals = globalThis as HostGlobals;

export function scopeStorage<T>(): ScopeStorage<T> | undefined {
  let Storage = globals.AsyncLocalStorage;
  try {
    const hooks = globals.process?.getBuiltinModule?.('node:async_hooks') as HostGlobals | undefined;
    Storage ??= hooks?.AsyncLocalStorage;
  } catch {
    // Not in this host.
  }
  return Storage && (new Storage() as ScopeStorage<T>);
}

export function environment(name: string): string | undefined {
  try {
    return globals.Deno !== undefined ? globals.Deno.env.get(name) : globals.process?.env?.[name];
  } catch {
    // Not permitted.
    return undefined;
  }
}

/** The files of Bun, Deno and Node. */
interface Files {
  readFileSync(path: string, encoding: 'utf8'): string;
}

export function readText(path: string): string {
  const files = globals.process?.getBuiltinModule?.('node:fs') as Files | undefined;
  if (files === undefined) {
    throw new Error('this host has no files: pass the key as dpopKey');
  }
  return files.readFileSync(path, 'utf8');
}

export function writeLine(line: string): void {
  console.error(line);
}

export function textOfBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
}
