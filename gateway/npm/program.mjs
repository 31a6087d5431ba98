/**
 * Finds and runs the program of a package such as `@actpass/gateway`: an optional dependency, a package for each platform, contains
 * it. `scripts/dist` copies this file into the package of each program.
 */

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

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
const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'];

/** Returns the path of the program `actpass-NAME`. Throws a `NotFound` whose `code` starts with `actpass.NAME_`. */
export function programPath(name, NotFound = Error) {
  const failure = (reason, text) => Object.assign(new NotFound(text), { code: `actpass.${name}_${reason}` });
  const platforms = candidates();
  if (platforms.length === 0) {
    throw failure(
      'platform',
      `no actpass-${name} is built for ${process.platform}-${process.arch}; it is built for ${PLATFORMS.join(', ')}: ` +
        `build it with cargo install --path ${name}`,
    );
  }
  const require = createRequire(import.meta.url);
  const program = process.platform === 'win32' ? `actpass-${name}.exe` : `actpass-${name}`;
  for (const platform of platforms) {
    try {
      const path = join(dirname(require.resolve(`@actpass/${name}-${platform}/package.json`)), 'bin', program);
      if (existsSync(path)) {
        return path;
      }
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') {
        throw error;
      }
    }
  }
  throw failure(
    'missing',
    `the package @actpass/${name}-${platforms[0]} is not installed: install @actpass/${name} again on this platform, with ` +
      'optional dependencies (no --omit=optional) and a lock file that lists this platform',
  );
}

/**
 * Runs the program `actpass-NAME` with the arguments, streams and signals of this process, and exits as it does. With `denial`, the
 * exit code is that for every end but exit code 0, also if the program cannot run.
 */
export function run(name, denial) {
  let program;
  try {
    program = programPath(name);
  } catch (error) {
    console.error(`actpass-${name}: ${error.message}`);
    process.exit(denial ?? 1);
  }
  // Before the program starts: a signal that arrives until then is delivered once it runs.
  for (const signal of SIGNALS) {
    process.on(signal, () => child.kill(signal));
  }
  const child = spawn(program, process.argv.slice(2), { stdio: 'inherit' });
  child.on('error', (error) => {
    console.error(`actpass-${name}: cannot run ${program}: ${error.message}`);
    process.exit(denial ?? 1);
  });
  child.on('exit', (code, signal) => {
    if (denial !== undefined && code !== 0) {
      process.exit(denial);
    }
    if (signal === null) {
      process.exit(code);
    }
    // Ends by the same signal, so that the caller sees it.
    SIGNALS.forEach((one) => process.removeAllListeners(one));
    process.kill(process.pid, signal);
  });
}

/** The platforms whose program runs here, the preferred one first. The program of musl is static and runs with glibc, too. */
function candidates() {
  const name = `${process.platform}-${process.arch}`;
  const usesGlibc = process.platform === 'linux' && process.report.getReport().header.glibcVersionRuntime !== undefined;
  const abis = { linux: usesGlibc ? ['-gnu', '-musl'] : ['-musl'], win32: ['-msvc'] }[process.platform] ?? [''];
  return abis.map((abi) => name + abi).filter((platform) => PLATFORMS.includes(platform));
}
