import Module from 'node:module';
import { fileURLToPath } from 'node:url';

/** @internal The file that this module is in: of the package, or the bundle it was built into, as far as that can be told. */
export const here: string = typeof __filename === 'string' ? __filename : (process.argv[1] ?? process.execPath);

/** @internal {@link here} as a path. */
export function herePath(): string {
  return here.startsWith('file:') ? fileURLToPath(here) : here;
}

/** @internal The `require` of Node, seen from the file `here`. Bundlers follow a `createRequire` that is imported by name. */
export function nodeRequire(from = herePath()): NodeJS.Require {
  return Module.createRequire(from);
}

/**
 * @internal Whether bundlers may not see the `require` of a literal that may be missing. `scripts/esm.mjs` replaces the call in
 * the modules for bundlers: webpack and Turbopack cannot parse a binary, and warn about a missing package. They leave the branch
 * out, and their bundles ask {@link nodeRequire} when they run.
 */
export function withoutLiterals(): boolean {
  return false;
}
