/** The native half, and the one place that knows how to find it. Private: its shape may change in any version. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** @internal What ended: of each call its number, how it ended, the text of its end, and its log lines or nothing. */
export type Batch = (number | string)[];

/** @internal How a call ended, as `runtime.rs` numbers it. */
export const How = { Answered: 0, Failed: 1, Permitted: 2 } as const;

/** @internal */
export interface Door {
  hold(): void;
  release(): void;
  cancel(call: number): void;
  argumentsChanged(call: number): string | null;
  spend(call: number): string;
  returned(call: number): string;
  failed(call: number): string;
}

/** @internal */
export type Begin = (door: Door, call: number, input: string) => void;

/** @internal */
export interface Client {
  readonly circuit: 'closed' | 'half_open' | 'open';
  check(input: string): void;
  close(): void;
  preflight: Begin;
  authorize: Begin;
  resume: Begin;
  waitForApproval: Begin;
  recordOutcome: Begin;
  issuePassport: Begin;
  verifyPassport: Begin;
  verifyPassportOffline: Begin;
  revokePassport: Begin;
  recordEvidence: Begin;
}

/** @internal */
export type CallName = Exclude<keyof Client, 'check' | 'circuit' | 'close'>;

/** @internal */
export interface Native {
  Client: new (settings: string) => Client;
  Door: new (settled: (batch: Batch) => void) => Door;
  canonicalOutcome(executed: boolean, decision: string, kind: string | null, status: number | null): string;
  hashPayload(payload: string): string;
  signPayload(secret: string, payload: string): string;
}

/** The packages that may hold the binary for this platform, as napi-rs names them. */
function candidates(): string[] {
  const platform = `${process.platform}-${process.arch}`;
  switch (process.platform) {
    case 'linux':
      return [`${platform}-gnu`, `${platform}-musl`];
    case 'win32':
      return [`${platform}-msvc`];
    default:
      return [platform];
  }
}

function load(): Native {
  const names = candidates();
  const causes: unknown[] = [];
  for (const name of names) {
    const beside = join(__dirname, `actpass.${name}.node`);
    try {
      return require(existsSync(beside) ? beside : `@actpass/sdk-${name}`) as Native;
    } catch (error) {
      causes.push(error);
    }
  }
  const platform = `${process.platform}-${process.arch}`;
  const packages = names.map((name) => `@actpass/sdk-${name}`).join(' or ');
  const broken = causes.find((cause) => (cause as { code?: unknown } | null)?.code !== 'MODULE_NOT_FOUND');
  const problem =
    broken === undefined
      ? `has no native module for ${platform}: expected the package ${packages} to be installed beside it ` +
        '(are optional dependencies left out?)'
      : `cannot load its native module for ${platform}: ${broken instanceof Error ? broken.message : broken}`;
  throw new Error(`@actpass/sdk ${problem}`, { cause: new AggregateError(causes, 'none could be loaded') });
}

/** @internal */
export const native: Native = load();
