/** Log lines of calls; `docs/telemetry.md` lists them. */

import { environment, writeLine } from './host.js';
import { describe, wrongSetting } from './json.js';
import { ignoreTelemetryError } from './telemetry.js';
import type { Logger, LogLevel } from './types.js';

const LEVELS = ['off', 'error', 'warn', 'info', 'debug'] as const;
const METHODS = ['error', 'warn', 'info', 'debug'] as const;

/** @internal The log of a client. */
export interface Log {
  readonly level: LogLevel;
  /** Writes the lines of one call: `[[level, text], …]` as JSON text. */
  write(lines: string): void;
}

const SILENT: Log = { level: 'off', write() {} };

/** @internal Creates the log of a client from its settings. */
export function logOf(logger: unknown, given: unknown): Log {
  if (logger !== undefined) {
    checkLogger(logger);
  }
  const level = levelOf(given) ?? (logger === undefined ? 'off' : 'info');
  if (level === 'off') {
    return SILENT;
  }
  const sink = (logger ?? STDERR) as Logger;
  return {
    level,
    write(lines) {
      for (const [name, text] of JSON.parse(lines) as [keyof Logger, string][]) {
        ignoreTelemetryError(() => sink[name](`actpass: ${text}`));
      }
    },
  };
}

function levelOf(given: unknown): LogLevel | undefined {
  const [name, level] =
    given === undefined ? ['ACTPASS_LOG', environment('ACTPASS_LOG') || undefined] : ['logLevel', given];
  if (level !== undefined && !LEVELS.includes(level as LogLevel)) {
    const found = typeof level === 'string' ? JSON.stringify(level) : describe(level);
    throw wrongSetting(`${name}: expected off, error, warn, info or debug, found ${found}`);
  }
  return level as LogLevel | undefined;
}

function checkLogger(logger: unknown): void {
  for (const method of METHODS) {
    let found: unknown;
    try {
      found = (Object(logger) as Partial<Logger>)[method];
    } catch (error) {
      throw wrongSetting(`logger: reading its method ${method} failed`, error);
    }
    if (typeof found !== 'function') {
      throw wrongSetting(
        `logger: expected an object with the methods ${METHODS.join(', ')}, found ${describe(logger)} without ${method}`,
      );
    }
  }
}

const writeTo = (level: string) => (line: string) => writeLine(`${new Date().toISOString()} ${level} ${line}`);
const STDERR: Logger = {
  error: writeTo('error'),
  warn: writeTo('warn'),
  info: writeTo('info'),
  debug: writeTo('debug'),
};
