/** The engine of a host without native addons. The build puts it in place of `native.ts`. */

import module from '#wasm';
import type { Native } from '../abi.js';
import { wasmEngine } from '../engine.js';
import { ActPassConfigError } from '../errors.js';
import { environment, readText } from '../host.js';

export * from '../abi.js';

interface HostGlobals {
  document?: unknown;
  EdgeRuntime?: unknown;
  Deno?: unknown;
  Bun?: unknown;
  WorkerGlobalScope?: unknown;
  navigator?: { userAgent?: string };
  process?: { versions?: { node?: string } };
}

/** Whether the code runs in a browser: in a page, a worker or an extension. */
function isBrowser(): boolean {
  const { document, EdgeRuntime, Deno, Bun, WorkerGlobalScope, navigator, process } = globalThis as HostGlobals;
  const isServer =
    EdgeRuntime !== undefined ||
    Deno !== undefined ||
    Bun !== undefined ||
    process?.versions?.node !== undefined ||
    navigator?.userAgent === 'Cloudflare-Workers';
  return !isServer && (document !== undefined || WorkerGlobalScope !== undefined);
}

export function takeFallback(): string | undefined {
  return undefined;
}

/** This build has no native module. */
const forced = environment('ACTPASS_ENGINE') || 'wasm';
if (forced !== 'wasm') {
  throw new ActPassConfigError(`ACTPASS_ENGINE: expected wasm, the only engine here, found ${JSON.stringify(forced)}`, {
    code: 'actpass.invalid_config',
    kind: 'config',
  });
}

export const native: Native = wasmEngine(module, { environment, readText, isBrowser: isBrowser() });
