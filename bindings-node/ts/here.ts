import Module from 'node:module';
import { fileURLToPath } from 'node:url';

/** @internal The file of this module, or of the bundle that contains it, if known. */
export const here: string = typeof __filename === 'string' ? __filename : (process.argv[1] ?? process.execPath);

/** @internal {@link here} as a path. */
export function herePath(): string {
  return here.startsWith('file:') ? fileURLToPath(here) : here;
}

/** @internal Node's `require`, relative to `here`. A namespace import, because bundlers follow a named `createRequire`. */
export function nodeRequire(from = herePath()): NodeJS.Require {
  return Module.createRequire(from);
}

/**
 * @internal Whether to hide literal `require` calls from the bundler. `scripts/esm.mjs` replaces this call in the modules for
 * bundlers: webpack and Turbopack cannot parse binaries and warn about missing packages. They remove the branch, and their
 * bundles use {@link nodeRequire} at run time.
 */
export function withoutLiterals(): boolean {
  return false;
}
