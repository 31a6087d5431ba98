/**
 * Lay out the npm packages to publish: a package for each platform in `napi.targets`, named and shaped as napi-rs does it,
 * and the main package without a binary, with those as optional dependencies. `scripts/dist` adds the binaries.
 *
 * Usage: platforms.mjs FOLDER [GLIBC]. The script creates FOLDER. GLIBC, such as `>=2.17`, replaces `config.glibc`, which
 * states the glibc that a binary built on the developer's machine needs.
 */

import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const SYSTEMS = {
  'apple-darwin': 'darwin',
  'pc-windows-msvc': 'win32',
  'unknown-linux-gnu': 'linux',
  'unknown-linux-musl': 'linux',
};
const PROCESSORS = { aarch64: 'arm64', x86_64: 'x64' };
const LIBRARIES = { gnu: 'glibc', musl: 'musl' };

const [folder, glibc] = process.argv.slice(2);
if (folder === undefined) {
  console.error('usage: platforms.mjs FOLDER [GLIBC]');
  process.exit(2);
}
const root = resolve(import.meta.dirname, '..');
const {
  config,
  devDependencies: _,
  napi,
  scripts: __,
  ...manifest
} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const { name, version, license, repository, engines } = manifest;

/** Returns the package for a rustc target. */
function platformPackage(target) {
  const [processor, ...rest] = target.split('-');
  const abi = ['gnu', 'musl', 'msvc'].find((one) => target.endsWith(`-${one}`));
  const os = SYSTEMS[rest.join('-')];
  const cpu = PROCESSORS[processor];
  if (os === undefined || cpu === undefined) {
    throw new Error(`unknown target ${target}`);
  }
  const platform = [os, cpu, ...(abi ? [abi] : [])].join('-');
  const main = `${napi.binaryName}.${platform}.node`;
  const libc = LIBRARIES[abi];
  const shared = { version, license, repository, engines };
  return [
    platform,
    {
      name: `${name}-${platform}`,
      ...shared,
      os: [os],
      cpu: [cpu],
      ...(libc && { libc: [libc] }),
      ...(libc === 'glibc' && { config: { glibc: glibc ?? config.glibc } }),
      main,
      files: [main],
    },
  ];
}

function write(directory, content) {
  mkdirSync(join(folder, directory), { recursive: true });
  writeFileSync(join(folder, directory, 'package.json'), `${JSON.stringify(content, null, 2)}\n`);
}

const platforms = napi.targets.map(platformPackage);
for (const [platform, content] of platforms) {
  write(platform, content);
  writeFileSync(
    join(folder, platform, 'README.md'),
    `# ${content.name}\n\nThe binary of \`${name}\` for ${platform}.\n`,
  );
}
const optionalDependencies = Object.fromEntries(platforms.map(([, content]) => [content.name, version]));
write('sdk', { ...manifest, optionalDependencies });
for (const file of ['dist', 'README.md', 'LICENSE-APACHE', 'LICENSE-MIT']) {
  cpSync(join(root, file), join(folder, 'sdk', file), { recursive: true, filter: (path) => !path.endsWith('.node') });
}
console.log(`${platforms.length} platforms`);
