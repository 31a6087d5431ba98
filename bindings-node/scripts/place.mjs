/**
 * Copies the built addon to `dist/actpass.PLATFORM.node`, where the loader finds it. PLATFORM is the name used by napi-rs.
 *
 * Usage: place.mjs FOLDER, the output folder of cargo: `target/debug` or `target/release`.
 */

import { copyFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';

const LIBRARIES = {
  darwin: ['libactpass_node.dylib', () => ''],
  linux: ['libactpass_node.so', () => (process.report.getReport().header.glibcVersionRuntime ? '-gnu' : '-musl')],
  win32: ['actpass_node.dll', () => '-msvc'],
};

const [folder] = process.argv.slice(2);
const found = LIBRARIES[process.platform];
if (folder === undefined || found === undefined) {
  console.error(found ? 'usage: place.mjs FOLDER' : `no addon is built for ${process.platform}`);
  process.exit(2);
}
const [library, suffix] = found;
const dist = resolve(import.meta.dirname, '..', 'dist');
const name = `actpass.${process.platform}-${process.arch}${suffix()}.node`;
for (const old of readdirSync(dist).filter((file) => file.endsWith('.node') && file !== name)) {
  rmSync(join(dist, old));
}
// Replace atomically: running processes keep using the old file.
copyFileSync(join(resolve(folder), library), join(dist, `${name}.new`));
renameSync(join(dist, `${name}.new`), join(dist, name));
console.log(`dist/${name}`);
