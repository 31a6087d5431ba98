/**
 * Makes `dist/edge`, the modules for hosts without native addons, from the modules for bundlers: `ts/edge` replaces what needs
 * Node. Then writes the modules that import the compiled engine, each in the way of a host; see `imports` in `package.json`.
 *
 * Usage: edge.mjs [inline], with `inline` only the second part, after the engine was built.
 */

import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Modules that need files and processes, and that nothing in `dist/edge` imports. */
const ONLY_NODE = ['load.js'];

const dist = resolve(import.meta.dirname, '..', 'dist');
const esm = join(dist, 'esm');
const edge = join(dist, 'edge');

if (process.argv[2] !== 'inline') {
  rmSync(edge, { recursive: true, force: true });
  mkdirSync(join(edge, 'integrations'), { recursive: true });
  const replaced = readdirSync(join(esm, 'edge'));
  for (const name of readdirSync(esm).filter((name) => name.endsWith('.js'))) {
    if (!replaced.includes(name) && !ONLY_NODE.includes(name)) {
      copyFileSync(join(esm, name), join(edge, name));
    }
  }
  for (const name of replaced) {
    const text = readFileSync(join(esm, 'edge', name), 'utf8');
    writeFileSync(join(edge, name), text.replaceAll("from '../", "from './"));
  }
  for (const name of readdirSync(join(esm, 'integrations'))) {
    copyFileSync(join(esm, 'integrations', name), join(edge, 'integrations', name));
  }
  // Without `require`, nothing is loaded by a literal.
  const telemetry = join(edge, 'telemetry.js');
  const text = readFileSync(telemetry, 'utf8');
  writeFileSync(
    telemetry,
    text
      .replace(/import \{ nodeRequire, withoutLiterals \} from/, 'import { nodeRequire } from')
      .replace(/if \(typeof __webpack_require__[^{]*\{[^}]*\}\s*else \{\s*try \{[^}]*\}\s*catch \{[^}]*\}\s*\}/, ''),
  );
  if (/require\('@opentelemetry/.test(readFileSync(telemetry, 'utf8'))) {
    throw new Error('dist/edge/telemetry.js still requires a package');
  }
  rmSync(join(esm, 'edge'), { recursive: true });
}

const modules = { wasm: 'actpass.wasm', 'wasm-testing': 'actpass-testing.wasm' };
for (const [name, file] of Object.entries(modules)) {
  const module = join(dist, file);
  if (!existsSync(module) || !existsSync(edge)) {
    continue;
  }
  const importing = (specifier) => `import module from '${specifier}';\nexport default module;\n`;
  writeFileSync(join(edge, `${name}-workerd.js`), importing(`../${file}`));
  writeFileSync(join(edge, `${name}-edge-light.js`), importing(`../${file}?module`));
  // Every bundler takes a text; a browser compiles up to 8 MB synchronously.
  writeFileSync(
    join(edge, `${name}-inline.js`),
    `const text = '${readFileSync(module).toString('base64')}';\n` +
      'const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (unit) => unit.charCodeAt(0));\n' +
      'export default new WebAssembly.Module(bytes);\n',
  );
}
