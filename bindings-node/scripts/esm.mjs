/**
 * Finishes `dist/esm`, the modules that bundlers take (the condition `module`); Node itself takes CommonJS. Two expressions
 * differ in them, because TypeScript cannot write them for both, and binaries are one folder up:
 *
 * - `here` is the file of the bundle, whether that is CommonJS or an ES module.
 * - webpack evaluates `typeof __webpack_require__`, and Turbopack `process.env.TURBOPACK`, when they build. They leave out the
 *   branch with the binaries, which they cannot parse, and with `@opentelemetry/api`, of whose absence they would warn.
 */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';

const WITHOUT_LITERALS = "typeof __webpack_require__ === 'function' || process.env.TURBOPACK";
const REPLACED = [
  ['here.js', /(?<=^export const here = ).*(?=;$)/m, "typeof __filename === 'string' ? __filename : import.meta.url"],
  ['load.js', /(?<=if \()withoutLiterals\(\)/, WITHOUT_LITERALS],
  ['telemetry.js', /(?<=if \()withoutLiterals\(\)/, WITHOUT_LITERALS],
  ['load.js', /(?<=require\('\.)\/actpass\./g, './actpass.'],
];

for (const [name, pattern, replacement] of REPLACED) {
  const path = resolve(import.meta.dirname, '..', 'dist', 'esm', name);
  const text = readFileSync(path, 'utf8');
  assert.match(text, pattern, `dist/esm/${name} does not hold what is to be replaced`);
  writeFileSync(path, text.replace(pattern, replacement));
}
