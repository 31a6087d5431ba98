/** Finds the program `actpass-gateway` in the package of this platform. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const SCOPE = '@actpass/gateway';
/** The platforms that a package is published for. The list equals `napi.targets` of `@actpass/sdk`. */
const PLATFORMS = [
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
  'win32-x64-msvc',
];

export class GatewayNotFoundError extends Error {
  constructor(code, message) {
    super(message);
    this.name = 'GatewayNotFoundError';
    this.code = code;
  }
}

export function gatewayPath() {
  const platforms = candidates();
  if (platforms.length === 0) {
    throw new GatewayNotFoundError(
      'actpass.gateway_platform',
      `no gateway is built for ${process.platform}-${process.arch}; gateways are built for ${PLATFORMS.join(', ')}: ` +
        'build it with cargo install --path gateway',
    );
  }
  const require = createRequire(import.meta.url);
  const program = process.platform === 'win32' ? 'actpass-gateway.exe' : 'actpass-gateway';
  for (const platform of platforms) {
    try {
      const path = join(dirname(require.resolve(`${SCOPE}-${platform}/package.json`)), 'bin', program);
      if (existsSync(path)) {
        return path;
      }
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') {
        throw error;
      }
    }
  }
  throw new GatewayNotFoundError(
    'actpass.gateway_missing',
    `the package ${SCOPE}-${platforms[0]} is not installed: install ${SCOPE} again on this platform, with optional ` +
      'dependencies (no --omit=optional) and a lock file that lists this platform',
  );
}

/** The platforms whose program runs here, the preferred one first. The program of musl is static and runs with glibc, too. */
function candidates() {
  const name = `${process.platform}-${process.arch}`;
  const usesGlibc = process.platform === 'linux' && process.report.getReport().header.glibcVersionRuntime !== undefined;
  const abis = { linux: usesGlibc ? ['-gnu', '-musl'] : ['-musl'], win32: ['-msvc'] }[process.platform] ?? [''];
  return abis.map((abi) => name + abi).filter((platform) => PLATFORMS.includes(platform));
}
