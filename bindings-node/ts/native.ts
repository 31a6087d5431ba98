/** The native half, and the one place that knows how to find it. Private: its shape may change in any version. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** @internal What ended: of each call its number, whether it failed, and a text or a permit. */
export type Batch = (number | boolean | string | Permit)[];

/** @internal */
export interface Door {
  hold(): void;
  release(): void;
}

/** @internal */
export interface Call {
  cancel(): void;
}

/** @internal */
export interface Permit {
  spend(): string;
  returned(): string;
  failed(): string;
}

/** @internal */
export type Begin = (door: Door, id: number, input: string) => Call;

/** @internal */
export interface Client {
  preflight: Begin;
  authorize: Begin;
  issuePassport: Begin;
  verifyPassport: Begin;
  verifyPassportOffline: Begin;
  revokePassport: Begin;
  recordEvidence: Begin;
}

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
  const packages = names.map((name) => `@actpass/sdk-${name}`).join(' or ');
  throw new Error(
    `@actpass/sdk has no native module for ${process.platform}-${process.arch}: expected the package ${packages} ` +
      'to be installed beside it (are optional dependencies left out?)',
    { cause: new AggregateError(causes, 'none could be loaded') },
  );
}

/** @internal */
export const native: Native = load();
