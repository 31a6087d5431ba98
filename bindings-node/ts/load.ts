/**
 * Finds and loads the native module, and explains failures.
 *
 * Every `require` below has a literal argument inside its own `try`, so that bundlers and file tracers include the files and
 * treat missing platforms as optional dependencies. Do not compute the arguments.
 */

import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ActPassError } from './errors.js';
import { herePath, nodeRequire, withoutLiterals } from './here.js';
import { VERSION } from './version.js';

/** Platforms with a published package; equals `napi.targets` in `package.json`. */
const BUILT = [
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
  'win32-x64-msvc',
] as const;
type Platform = (typeof BUILT)[number];

/** A failed attempt to load the binary of `platform`. */
interface Attempt {
  platform: Platform;
  /** The path or package name. */
  specifier: string;
  error: unknown;
}

/** @internal Loads the native module. Throws an {@link ActPassError} whose `code` starts with `actpass.native_`. */
export function loadNative(): unknown {
  const platforms = candidates();
  if (platforms.length === 0) {
    const text = `no binary is built for ${thisPlatform()}; binaries are built for ${BUILT.join(', ')}`;
    throw failure('platform', text, []);
  }
  const attempts: Attempt[] = [];
  for (const platform of platforms) {
    if (isCutShort(platform, attempts)) {
      continue;
    }
    for (const load of [fromLiterals, fromExecutable, fromFileSystem]) {
      const found = load(platform, attempts);
      if (found !== undefined) {
        return found;
      }
    }
  }
  const [reason, text] = explain(platforms, attempts);
  throw failure(reason, text, attempts);
}

/** Platforms whose binary may run here, most likely first. */
function candidates(): Platform[] {
  const likely = existsSync(`/lib/ld-musl-${process.arch === 'x64' ? 'x86_64' : 'aarch64'}.so.1`)
    ? ['musl', 'gnu']
    : ['gnu', 'musl'];
  const names = { linux: likely, win32: ['msvc'] }[process.platform as string]?.map(
    (abi) => `${thisPlatform()}-${abi}`,
  );
  return (names ?? [thisPlatform()]).filter((name): name is Platform => BUILT.includes(name as Platform));
}

function thisPlatform(): string {
  return `${process.platform}-${process.arch}`;
}

/** Literals for bundlers and tracers. In a bundle, `require` may be missing or return the path of a copied file. */
function fromLiterals(platform: Platform, attempts: Attempt[]): unknown {
  const beside = `./actpass.${platform}.node`;
  const packaged = `@actpass/sdk-${platform}`;
  const use = (specifier: string, value: unknown) => accept(platform, specifier, value, attempts);
  const missed = (specifier: string, error: unknown) => {
    attempts.push({ platform, specifier, error });
    return undefined;
  };
  let found: unknown;
  if (withoutLiterals()) {
    return undefined;
  } else {
    switch (platform) {
      case 'darwin-arm64':
        try {
          found = use(beside, require('./actpass.darwin-arm64.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-darwin-arm64'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'darwin-x64':
        try {
          found = use(beside, require('./actpass.darwin-x64.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-darwin-x64'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'linux-arm64-gnu':
        try {
          found = use(beside, require('./actpass.linux-arm64-gnu.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-linux-arm64-gnu'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'linux-arm64-musl':
        try {
          found = use(beside, require('./actpass.linux-arm64-musl.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-linux-arm64-musl'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'linux-x64-gnu':
        try {
          found = use(beside, require('./actpass.linux-x64-gnu.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-linux-x64-gnu'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'linux-x64-musl':
        try {
          found = use(beside, require('./actpass.linux-x64-musl.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-linux-x64-musl'));
        } catch (error) {
          return missed(packaged, error);
        }
      case 'win32-x64-msvc':
        try {
          found = use(beside, require('./actpass.win32-x64-msvc.node'));
        } catch (error) {
          missed(beside, error);
        }
        try {
          return found ?? use(packaged, require('@actpass/sdk-win32-x64-msvc'));
        } catch (error) {
          return missed(packaged, error);
        }
    }
  }
}

/**
 * Loads with a `require` that bundlers do not replace: a file next to this one or next to the main program (bundlers may add a
 * hash to its name), or the package of the platform. The working directory is not searched, because it is not trusted.
 */
function fromFileSystem(platform: Platform, attempts: Attempt[]): unknown {
  for (const file of new Set([herePath(), process.argv[1] ?? process.execPath])) {
    const names = listed(dirname(file)).filter(
      (name) => name.startsWith(`actpass.${platform}`) && name.endsWith('.node'),
    );
    for (const specifier of [...names.map((name) => join(dirname(file), name)), `@actpass/sdk-${platform}`]) {
      try {
        const found = accept(platform, specifier, nodeRequire(file)(specifier), attempts);
        if (found !== undefined) {
          return found;
        }
      } catch (error) {
        attempts.push({ platform, specifier, error });
      }
    }
  }
  return undefined;
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Loads the asset of a single executable application, via a temporary file in a private folder. */
function fromExecutable(platform: Platform, attempts: Attempt[]): unknown {
  const specifier = `actpass.${platform}.node`;
  let folder: string | undefined;
  try {
    const sea = nodeRequire()('node:sea') as { isSea(): boolean; getRawAsset?(name: string): ArrayBuffer };
    if (!sea.isSea() || sea.getRawAsset === undefined) {
      return undefined;
    }
    const asset = new Uint8Array(sea.getRawAsset(specifier));
    folder = mkdtempSync(join(tmpdir(), 'actpass-'));
    const file = join(folder, specifier);
    writeFileSync(file, asset, { mode: 0o500, flag: 'wx' });
    return accept(platform, file, nodeRequire()(file), attempts);
  } catch (error) {
    attempts.push({ platform, specifier, error });
    return undefined;
  } finally {
    // Windows keeps a loaded file locked.
    if (folder !== undefined && process.platform !== 'win32') {
      rmSync(folder, { recursive: true, force: true });
    }
  }
}

/** Returns `value` if it is the native module of this version; loads it if it is a path, as some bundlers provide. */
function accept(platform: Platform, specifier: string, value: unknown, attempts: Attempt[]): unknown {
  const inner = (value as { default?: unknown } | null | undefined)?.default ?? value;
  if (typeof inner === 'string') {
    const path = inner.startsWith('file:') ? fileURLToPath(inner) : resolve(dirname(herePath()), inner);
    return accept(platform, path, nodeRequire()(path), attempts);
  }
  const { VERSION: version, Client } = (inner ?? {}) as { VERSION?: unknown; Client?: unknown };
  if (typeof Client === 'function' && version === VERSION) {
    return inner;
  }
  const error =
    typeof Client === 'function'
      ? new WrongVersion(typeof version === 'string' ? version : 'before 2.0.0')
      : new NotOurs(`${specifier} is not the native module of ActPass`);
  attempts.push({ platform, specifier, error });
  return undefined;
}

/** Another module under the name of the native module. */
class NotOurs extends Error {}

class WrongVersion extends Error {
  constructor(readonly version: string) {
    super(`the native module has the version ${version}, the JavaScript code ${VERSION}`);
  }
}

/** The suffix of a `code`. The package README lists them. */
type Reason =
  | 'addons_disabled'
  | 'corrupt'
  | 'failed'
  | 'libc'
  | 'missing'
  | 'not_bundled'
  | 'permission'
  | 'platform'
  | 'processor'
  | 'version';

function failure(reason: Reason, text: string, attempts: Attempt[]): ActPassError {
  const causes = new Map(attempts.map(({ error, specifier }) => [`${specifier}: ${messageOf(error)}`, error]));
  const cause = new AggregateError(causes.values(), [...causes.keys()].join('; '));
  const details = causes.size > 0 ? { cause } : {};
  return new ActPassError(`cannot load the native module of @actpass/sdk: ${text}`, {
    code: `actpass.native_${reason}`,
    kind: 'native',
    ...details,
  });
}

/** Explains why all attempts failed, and the fix. An existing file that cannot be loaded tells more than a missing one. */
function explain(platforms: Platform[], attempts: Attempt[]): [Reason, string] {
  const inPackage = isInPackage();
  // A placeholder of a bundler only means that the binary is missing.
  const found = attempts.filter(({ error }) => !isMissing(error) && (inPackage || !(error instanceof NotOurs)));
  for (const attempt of found) {
    const explained = explainAttempt(attempt);
    if (explained !== undefined) {
      return explained;
    }
  }
  const [first] = found;
  if (first !== undefined) {
    return ['failed', `${first.specifier}: ${messageOf(first.error)}`];
  }
  const libc = libcHere();
  const wanted = platforms.filter(
    (platform) => libc === undefined || !platform.includes('linux') || platform.endsWith(libc.abi),
  );
  const names = (wanted.length > 0 ? wanted : platforms).map((platform) => `@actpass/sdk-${platform}`).join(' or ');
  if (!inPackage) {
    return [
      'not_bundled',
      `it was left out of the bundle ${herePath()}: deploy the bundle with node_modules, or with ` +
        `actpass.${wanted[0] ?? platforms[0]}.node next to it, or mark @actpass/sdk as external (in Next.js: ` +
        "serverExternalPackages: ['@actpass/sdk'])",
    ];
  }
  return [
    'missing',
    `the package ${names} is not installed: install @actpass/sdk again on this platform, with optional dependencies ` +
      '(no --omit=optional) and a lock file that lists this platform',
  ];
}

/** Explains why an existing file cannot be loaded, if known. */
function explainAttempt({ platform, specifier, error }: Attempt): [Reason, string] | undefined {
  const text = messageOf(error);
  const code = (error as { code?: unknown } | null)?.code;
  if (error instanceof WrongVersion) {
    const versions = `${specifier} has the version ${error.version}, the JavaScript code ${VERSION}`;
    return ['version', `${versions}: install @actpass/sdk and @actpass/sdk-${platform} in the same version`];
  }
  if (code === 'ERR_DLOPEN_DISABLED' && hasPermissionModel() && !process.execArgv.includes('--no-addons')) {
    return ['permission', 'the permission model forbids native addons: start Node with --allow-addons'];
  }
  if (code === 'ERR_DLOPEN_DISABLED') {
    return ['addons_disabled', 'native addons are disabled: start Node without --no-addons (see NODE_OPTIONS, too)'];
  }
  if (code === 'ERR_ACCESS_DENIED') {
    return ['permission', `the permission model forbids reading ${specifier}: add its folder to --allow-fs-read`];
  }
  const file = pathOf(specifier);
  const header = file === undefined ? undefined : headerOf(file);
  if (header?.processor !== undefined && header.processor !== process.arch) {
    const which = `${file} is built for ${header.processor}, this Node runs on ${process.arch}`;
    return ['processor', `${which}: install @actpass/sdk with a Node of the processor that runs it`];
  }
  const libc = libcHere();
  const needed = /version [`']GLIBC_([\d.]+)' not found/.exec(text)?.[1];
  if (needed !== undefined) {
    const found = libc?.abi === 'gnu' ? `, found ${libc.version}` : '';
    return ['libc', `glibc ${needed} or later is needed${found}: run on a newer Linux distribution`];
  }
  if (platform.startsWith('linux') && libc !== undefined && !platform.endsWith(libc.abi)) {
    const right = platform.replace(/gnu$|musl$/, libc.abi);
    return [
      'libc',
      `this Node uses ${libc.abi === 'gnu' ? 'glibc' : 'musl'}: install @actpass/sdk-${right} instead of @actpass/sdk-${platform}`,
    ];
  }
  if (header?.format !== undefined && header.format !== FORMATS[process.platform as keyof typeof FORMATS]) {
    return ['corrupt', `${file} is ${header.format}, no library of ${process.platform}: install @actpass/sdk again`];
  }
  if (header !== undefined && (header.format === undefined || CORRUPT.test(text))) {
    return ['corrupt', `${file} is damaged (${text.split('\n', 1)[0]}): install @actpass/sdk again`];
  }
  return undefined;
}

const FORMATS = { darwin: 'Mach-O', linux: 'ELF', win32: 'PE' } as const;
/** Messages of dynamic linkers and Node about a truncated or overwritten file. */
const CORRUPT =
  /file too short|invalid ELF|ELF load command|cannot read file data|self-register|no native module|cut short|not a valid Win32|truncated|unloadable|undefined symbol: napi_register/;

/** Returns whether a file of this platform is truncated; glibc's linker would kill the process. */
function isCutShort(platform: Platform, attempts: Attempt[]): boolean {
  for (const specifier of [`./actpass.${platform}.node`, `@actpass/sdk-${platform}`]) {
    const file = pathOf(specifier);
    const header = file === undefined ? undefined : headerOf(file);
    if (header?.length !== undefined && header.size < header.length) {
      const error = new NotOurs(`truncated: ${header.size} of ${header.length} bytes`);
      attempts.push({ platform, specifier, error });
      return true;
    }
  }
  return false;
}

interface Header {
  /** The size of the file in bytes. */
  size: number;
  format?: string;
  /** The processor, in Node's spelling. */
  processor?: string | undefined;
  /** The minimum size of the complete file in bytes. */
  length?: number;
}

/** Reads the format and the processor of a library from its header. */
function headerOf(file: string): Header | undefined {
  const bytes = Buffer.alloc(4096);
  let length: number;
  let size: number;
  try {
    const opened = openSync(file, 'r');
    try {
      length = readSync(opened, bytes, 0, bytes.length, 0);
      size = fstatSync(opened).size;
    } finally {
      closeSync(opened);
    }
  } catch {
    return undefined;
  }
  const head = bytes.subarray(0, length);
  if (length >= 64 && head.readUInt32BE(0) === 0x7f454c46) {
    const sections = Number(head.readBigUInt64LE(40)) + head.readUInt16LE(58) * head.readUInt16LE(60);
    const processor = { 0x03: 'ia32', 0x28: 'arm', 0x3e: 'x64', 0xb7: 'arm64' }[head.readUInt16LE(18)];
    return { size, format: 'ELF', processor, ...(head[4] === 2 && { length: sections }) };
  }
  if (length >= 8 && head.readUInt32LE(0) === 0xfeedfacf) {
    return { size, format: 'Mach-O', processor: { 0x01000007: 'x64', 0x0100000c: 'arm64' }[head.readUInt32LE(4)] };
  }
  if (length >= 64 && head.readUInt16BE(0) === 0x4d5a) {
    const at = head.readUInt32LE(60);
    const machine = at + 6 <= length ? head.readUInt16LE(at + 4) : 0;
    return { size, format: 'PE', processor: { 0x014c: 'ia32', 0x8664: 'x64', 0xaa64: 'arm64' }[machine] };
  }
  return { size };
}

/** Returns the C library of this Node; `undefined` if unknown or not on Linux. */
function libcHere(): { abi: 'gnu' | 'musl'; version: string } | undefined {
  if (process.platform !== 'linux') {
    return undefined;
  }
  try {
    const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
    const kept = report.excludeNetwork;
    report.excludeNetwork = true;
    const { header, sharedObjects } = report.getReport() as unknown as {
      header: { glibcVersionRuntime?: string };
      sharedObjects: string[];
    };
    report.excludeNetwork = kept ?? false;
    if (header.glibcVersionRuntime !== undefined) {
      return { abi: 'gnu', version: header.glibcVersionRuntime };
    }
    return sharedObjects.some((name) => name.includes('ld-musl-')) ? { abi: 'musl', version: '' } : undefined;
  } catch {
    return undefined;
  }
}

const MISSING = [
  'ENOENT',
  'ERR_SINGLE_EXECUTABLE_APPLICATION_ASSET_NOT_FOUND',
  'ERR_UNKNOWN_BUILTIN_MODULE',
  'MODULE_NOT_FOUND',
];

/** Returns whether the error means a missing file. Errors of a bundler's `require` have no code. */
function isMissing(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  if (error instanceof WrongVersion || error instanceof NotOurs) {
    return false;
  }
  return code === undefined || MISSING.includes(code as string);
}

function hasPermissionModel(): boolean {
  return (process as { permission?: unknown }).permission !== undefined;
}

/** Returns whether this file is in the installed package and not in a bundle. */
function isInPackage(): boolean {
  const folder = dirname(herePath());
  return [join(folder, '..'), join(folder, '..', '..')].some((root) => {
    try {
      return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).name === '@actpass/sdk';
    } catch {
      return false;
    }
  });
}

function pathOf(specifier: string): string | undefined {
  try {
    return nodeRequire().resolve(specifier);
  } catch {
    return undefined;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
