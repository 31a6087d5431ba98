/**
 * Post-processes `dist/esm`, the modules for bundlers (the condition `module`); Node itself loads CommonJS. TypeScript cannot
 * emit these expressions for both formats, and the binaries are one folder up:
 *
 * - `here` is the file of the bundle, in CommonJS or as an ES module.
 * - webpack evaluates `typeof __webpack_require__` and Turbopack evaluates `process.env.TURBOPACK` at build time. They remove
 *   the branch with the binaries, which they cannot parse, and with `@opentelemetry/api`, whose absence they would report.
 *
 * An adapter is also copied as an ES module for Node next to its CommonJS module, so that it imports the same copy of its
 * framework as the program. Both import the CommonJS modules of the package, so they share one set of classes.
 */

import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const WITHOUT_LITERALS = "typeof __webpack_require__ === 'function' || process.env.TURBOPACK";
const REPLACED = [
  ['here.js', /(?<=^export const here = ).*(?=;$)/m, "typeof __filename === 'string' ? __filename : import.meta.url"],
  ['load.js', /(?<=if \()withoutLiterals\(\)/, WITHOUT_LITERALS],
  ['telemetry.js', /(?<=if \()withoutLiterals\(\)/, WITHOUT_LITERALS],
  ['load.js', /(?<=require\('\.)\/actpass\./g, './actpass.'],
];

const dist = resolve(import.meta.dirname, '..', 'dist');
for (const [name, pattern, replacement] of REPLACED) {
  const path = join(dist, 'esm', name);
  const text = readFileSync(path, 'utf8');
  assert.match(text, pattern, `dist/esm/${name} lacks the expression to replace`);
  writeFileSync(path, text.replace(pattern, replacement));
}

const { exports } = JSON.parse(readFileSync(join(dist, '..', 'package.json'), 'utf8'));
const adapters = Object.values(exports).flatMap(({ module }) => /\/(integrations\/.*)\.js$/.exec(module)?.[1] ?? []);
for (const adapter of adapters) {
  copyFileSync(join(dist, 'esm', `${adapter}.js`), join(dist, `${adapter}.mjs`));
  copyFileSync(join(dist, `${adapter}.d.ts`), join(dist, `${adapter}.d.mts`));
}
