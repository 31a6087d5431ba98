/** The host of the SDK: Node. `edge/host.ts` replaces this module in the build for other hosts. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { readFileSync } from 'node:fs';
import { types } from 'node:util';
import type { Settings } from './engine.js';

export { types };

/** @internal A value that follows the calls of a function, also after an `await`. */
export interface ScopeStorage<T> {
  getStore(): T | undefined;
  run<R>(value: T, body: () => R): R;
}

/** @internal Creates a {@link ScopeStorage}; `undefined` if the host does not support it. */
export function scopeStorage<T>(): ScopeStorage<T> | undefined {
  return new AsyncLocalStorage<T>();
}

/** @internal Reads an environment variable. */
export function environment(name: string): string | undefined {
  return process.env[name];
}

/** @internal Reads a text file. */
export function readText(path: string): string {
  return readFileSync(path, 'utf8');
}

/** @internal Writes a line of the log without a logger. */
export function writeLine(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** @internal Converts the bytes of a PEM text. */
export function textOfBytes(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1');
}

/** @internal Returns why a request would not use the proxy of the environment, as `fetch` of Node ignores it. */
export function proxyProblem(
  settings: Settings,
  variables: { [name: string]: string | undefined },
): string | undefined {
  const url = settings['baseUrl'] ?? variables['ACTPASS_API_BASE_URL'] ?? 'https://www.api.actpass.org';
  const name = ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'].find((one) => variables[one]);
  if (name === undefined || variables['NODE_USE_ENV_PROXY'] === '1' || !`${url}`.startsWith('https:')) {
    return undefined;
  }
  const host = URL.canParse(`${url}`) ? new URL(`${url}`).hostname : '';
  const except = (variables['no_proxy'] || variables['NO_PROXY'] || '').split(',').map((one) => one.trim());
  if (except.some((one) => one === '*' || (one !== '' && `.${host}`.endsWith(`.${one.replace(/^\./, '')}`)))) {
    return undefined;
  }
  return (
    `${name}: the engine is wasm, which sends with fetch of Node, and that ignores the proxy: set NODE_USE_ENV_PROXY=1 ` +
    'if this Node has it, exclude the gateway with NO_PROXY, or use the native engine'
  );
}
