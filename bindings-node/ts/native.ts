/** The engine of this process: the native module, or wasm if no native module fits. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Native } from './abi.js';
import { wasm, wasmEngine } from './engine.js';
import { ActPassConfigError, ActPassError } from './errors.js';
import { herePath } from './here.js';
import { proxyProblem, readText } from './host.js';
import { loadNative } from './load.js';
import { VERSION } from './version.js';

export * from './abi.js';

/** The environment variable that forces an engine. */
const ENGINE = 'ACTPASS_ENGINE';
const FILE = 'actpass.wasm';

/** @internal Why the native module is not used, if wasm replaces it; reported once. */
export let fallback: string | undefined;

/** @internal Takes {@link fallback}. */
export function takeFallback(): string | undefined {
  const taken = fallback;
  fallback = undefined;
  return taken;
}

function choose(): Native {
  const forced = process.env[ENGINE] || undefined;
  switch (forced) {
    case 'native':
      return loadNative() as Native;
    case 'wasm':
      return loadWasm();
    case undefined:
      break;
    default:
      throw new ActPassConfigError(`${ENGINE}: expected native or wasm, found ${JSON.stringify(forced)}`, {
        code: 'actpass.invalid_config',
        kind: 'config',
      });
  }
  try {
    return loadNative() as Native;
  } catch (error) {
    const file = wasmFile(FILE);
    if (file === undefined) {
      throw error;
    }
    fallback = (error as ActPassError).message;
    return loadWasm();
  }
}

/** @internal Returns the path of a module in wasm: in the package, or next to a bundle. */
export function wasmFile(name: string): string | undefined {
  const folder = dirname(herePath());
  return [join(folder, name), join(folder, '..', name)].find(existsSync);
}

function loadWasm(): Native {
  const file = wasmFile(FILE);
  if (file === undefined) {
    throw new ActPassError(`cannot load the wasm engine of @actpass/sdk: ${FILE} is not next to ${herePath()}`, {
      code: 'actpass.native_missing',
      kind: 'native',
    });
  }
  const module = new wasm.Module(readFileSync(file));
  const engine = wasmEngine(module, {
    environment: (name) => process.env[name],
    readText,
    isBrowser: false,
    refuses: (settings) => proxyProblem(settings, process.env),
  });
  if (engine.VERSION !== VERSION) {
    throw new ActPassError(
      `cannot load the wasm engine of @actpass/sdk: ${file} has the version ${engine.VERSION}, the JavaScript code ${VERSION}`,
      { code: 'actpass.native_version', kind: 'native' },
    );
  }
  return engine;
}

/** @internal */
export const native: Native = choose();
