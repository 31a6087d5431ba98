/** The interface of the engines, native and wasm. Private: it may change in any version. */

/** @internal Completed calls: for each its number, status, text, and log lines or an empty string. */
export type Batch = (number | string)[];

/** @internal Status of a completed call, as defined in `runtime.rs`. */
export const How = { Answered: 0, Failed: 1, Permitted: 2, Halted: 3 } as const;

/** @internal */
export interface Bridge {
  cancel(call: number): void;
  begin(call: number, now: string | undefined): string;
  finish(call: number, ended: ActionEnd, response: string | undefined): string;
}

/** @internal How a permitted action ended. */
export type ActionEnd = 'returned' | 'failed' | 'cancelled' | 'suspended';

/** @internal */
export type Begin = (bridge: Bridge, call: number, input: string) => void;

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

/** @internal The state of a scripted gateway, for `testing`. */
export interface ScriptedGatewayState {
  script(tool: string | undefined, answer: string | undefined, status: number): void;
  scriptNext(answer: string | undefined, status: number): void;
  decide(approval: string, approved: boolean): string;
  expire(approval: string): string;
  halt(scope: string, id: string | undefined, reason: string): number;
  lift(): number;
  approvals(): string[];
  requests(): { method: string; path: string; body: string }[];
  hold(method: string, path: string): number;
  reply(method: string, path: string, body: string): { status: number; body: string } | null;
}

/** @internal */
export interface Native {
  /** Which engine it is; the native module has no such member. */
  readonly engine?: 'wasm';
  readonly VERSION: string;
  Client: new (settings: string) => Client;
  Bridge: new (settled: (batch: Batch) => void) => Bridge;
  /** Missing in the wasm engine: see `scripted-state.ts`. */
  ScriptedGatewayState?: new () => ScriptedGatewayState;
  canonicalOutcome(executed: boolean, decision: string, kind: string | null, status: number | null): string;
  unmappedTool(tool: string): string;
  invalidArgument(tool: string, problem: string): string;
  invalidPassport(tool: string, errors: string[]): string;
  argumentPath(member: string, steps: (string | number)[]): string;
  hashPayload(payload: string): string;
  signPayload(secret: string, payload: string): string;
  dpopThumbprint(key: string): string;
}
