/** A call of a tool in a framework: every way in which it is not run is an answer, and only the tool's own errors are thrown. */

import type { ActPass } from '../client.js';
import type { BlockedOutcome } from '../outcome.js';
import { blockedText, pendingOf, runGuarded, type RunOptions, type ToolMap, UNGUARDED } from './common.js';
import type { PassportGuard } from './passports.js';

/** @internal A call of the tool `names`: its name, followed by its aliases. */
export interface FrameworkCall<A, T> extends RunOptions {
  readonly names: readonly [string, ...string[]];
  /** The arguments, after the framework has validated them. */
  readonly args: A;
  /** Runs the tool with the evaluated arguments. */
  run(own: A): T;
  /** The guard of the server that requires passports, and the passport of the call. */
  readonly passports?: { readonly guard: PassportGuard; readonly passport: string | undefined } | undefined;
}

/** @internal The tool ran and returned. */
export interface Ran<T> {
  readonly ran: true;
  readonly result: T;
}

/** @internal The tool did not run. */
export interface NotRun {
  readonly ran: false;
  /** The text for the model. */
  readonly text: string;
  /** The error of the block, whose message is the text. */
  readonly error: unknown;
  /** The id of the approval that the call waits for. */
  readonly approval: string | undefined;
}

/**
 * @internal Calls the tool if it may. Throws the tool's own error, the same object, and the reason of an aborted signal.
 * Arguments that cannot be evaluated are an answer too.
 */
export async function callTool<A, T>(
  client: ActPass,
  tools: ToolMap,
  call: FrameworkCall<A, T>,
): Promise<Ran<Awaited<T>> | NotRun> {
  const { names, args, run, passports, ...options } = call;
  const action = tools.lookup(...names);
  if (action === undefined) {
    return notRun(tools.unmapped(names[0]));
  }
  if (action === UNGUARDED) {
    return { ran: true, result: await run(args) };
  }
  let outcome;
  try {
    outcome = passports
      ? await passports.guard.runMapped(passports.passport, action, args, (own) => run(own), options)
      : await runGuarded(client, action, args, (own) => run(own), options);
  } catch (error) {
    if (options.signal?.aborted === true) {
      throw error;
    }
    const text = `${names[0]} was not run: ${error instanceof Error ? error.message : String(error)}`;
    return { ran: false, text, error, approval: undefined };
  }
  if (outcome.kind === 'blocked') {
    return notRun(outcome);
  }
  return { ran: true, result: outcome.unwrap() };
}

function notRun(outcome: BlockedOutcome): NotRun {
  return {
    ran: false,
    text: blockedText(outcome),
    get error() {
      try {
        return outcome.unwrap();
      } catch (error) {
        return error;
      }
    },
    approval: pendingOf(outcome)?.approval_request_id,
  };
}
