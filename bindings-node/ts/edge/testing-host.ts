/** The test kit without servers, processes and files. The build puts this module in place of `testing-host.ts`. */

import module from '#wasm-testing';
import type { ScriptedGatewayState } from '../abi.js';
import { wrongSetting } from '../json.js';
import { scriptedState } from '../scripted-state.js';
import { open, type Respond, type ScriptedServer } from '../scripted.js';
import type { Journal } from './journals.js';

/** As in `node:assert`, for the test runners that know it by its code. */
export class AssertionError extends Error {
  readonly code = 'ERR_ASSERTION';
  readonly generatedMessage = false;
  readonly actual: unknown;
  readonly expected: unknown;
  readonly operator: string | undefined;

  constructor(options: {
    message: string;
    actual?: unknown;
    expected?: unknown;
    operator?: string;
    stackStartFn?: Function;
  }) {
    super(options.message);
    this.name = 'AssertionError';
    this.actual = options.actual;
    this.expected = options.expected;
    this.operator = options.operator;
    Error.captureStackTrace?.(this, options.stackStartFn);
  }
}

export function stateOf(): ScriptedGatewayState {
  return scriptedState(module);
}

export async function serve(respond: Respond): Promise<ScriptedServer> {
  return open(respond);
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

/** No other process can report. */
export function awaitReports(): boolean {
  return false;
}

const journal: Journal = [];

export function openJournal(): Journal {
  return journal;
}

export function sizeOf(lines: Journal): number {
  return lines.length;
}

export function linesOf(lines: Journal, from: number): string[] {
  return lines.slice(from);
}

export function environmentOf(): never {
  throw wrongSetting('environment: this host has no processes; pass client() to the code under test');
}

export function setVariables(): never {
  return environmentOf();
}

export async function startGateway(): Promise<never> {
  throw wrongSetting(
    'RealGateway: this host starts no processes: use ScriptedGateway, or start the gateway outside and pass its baseUrl to ActPass',
  );
}

export const programOf: () => Promise<never> = startGateway;
