/** The journal of executions, for `@actpass/sdk/testing`. Outside of tests, a guarded call checks one empty list. */

import type { Call } from './call.js';
import { append, journals } from './journals.js';
import { type Members, Written } from './json.js';
import type { Decision } from './types.js';

/** @internal A line of a journal. */
export interface Note {
  /** Whether a guarded function is about to run; otherwise a call ended without running one. */
  ran: boolean;
  tool: string;
  /** The ledger event of the decision, if known. */
  event: string | null;
  /** The request of the decision, if known. */
  request: string | null;
}

/**
 * @internal Records in the journals that a guarded function is about to run, or that a call ended without running one.
 *
 * @throws ActPassConfigError: a journal cannot be written. Nothing ran: a test must not miss an execution.
 */
export function noteExecution(ran: boolean, members: Members, decision?: Decision): void {
  if (journals.length === 0) {
    return;
  }
  const note: Note = { ran, tool: `${toolIn(members)}`, event: decision?.evidence_event_id ?? null, request: null };
  for (const journal of journals) {
    append(journal, `${JSON.stringify(note)}\n`);
  }
}

/** @internal Awaits `request`; if it ends without a decision after it began, records that nothing ran. */
export async function unlessEnded<R>(call: Call, request: () => Promise<R>): Promise<R> {
  const { signal } = call.members as { signal?: AbortSignal };
  const wasAborted = journals.length > 0 && signal?.aborted === true;
  try {
    return await request();
  } catch (error) {
    if (!wasAborted) {
      noteExecution(false, call.members);
    }
    throw error;
  }
}

/** @internal Takes a response; if the signal was aborted, records that nothing ran. */
export function unlessAborted<R>(call: Call, take: () => R): R {
  try {
    return take();
  } catch (error) {
    noteExecution(false, call.members);
    throw error;
  }
}

/** Returns the tool of an action; a pending one may be invalid. */
function toolIn({ tool, pending }: Members): unknown {
  return Written.is(pending) ? (Object(JSON.parse(pending.text)) as Members)['tool'] : tool;
}
