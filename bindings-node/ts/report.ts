/** Creates outcomes from the reports of the native module. */

import {
  ActionBlockedError,
  type ActPassArgumentError,
  type ActPassError,
  type DescribedError,
  freshly,
  oneLine,
  Site,
  stamped,
  toError,
} from './errors.js';
import { joined } from './json.js';
import { native } from './native.js';
import type { BlockedOutcome, GuardOutcome } from './outcome.js';
import { converting } from './runtime.js';
import { observeBlock } from './telemetry.js';
import type { Decision } from './types.js';

/** The called method and its call site. */
interface Reporter {
  readonly operation: string;
  readonly site: Site;
}

/** Texts of a blocked action, for its error. */
interface Texts {
  /** The message for a developer. */
  developerText: string;
  /** The message for a model. */
  message: string;
  /** Whether the same call may succeed later. */
  retryable: boolean;
  /** The blocked tool. */
  tool: string;
}

/** The report of an action that ran, and about whose decision there is nothing to add. */
const EXECUTED = '{"executed":true}';

const textsOf = new WeakMap<object, Texts>();

/** @internal Creates the outcome of a blocked action. */
export function blockedOutcome(reporter: Reporter, reported: object): BlockedOutcome {
  const { texts, decision, ...others } = joined(reported) as { texts: Texts; decision: Decision };
  const outcome = outcomeOf<never>(reporter, { kind: 'blocked', decision, executed: false, ...others });
  textsOf.set(outcome, texts);
  return outcome as BlockedOutcome;
}

/** @internal Creates the outcome of a call of `tool`, to which no action is mapped. Sends nothing. */
export function unmappedOutcome(reporter: Reporter, tool: string): BlockedOutcome {
  const outcome = blockedOutcome(reporter, JSON.parse(converting(() => native.unmappedTool(tool))) as object);
  observeBlock(tool, outcome.decision);
  return outcome;
}

/** @internal Creates the outcome of a call of `tool` whose arguments cannot be sent. Sends nothing. */
export function invalidOutcome(reporter: Reporter, tool: string, error: ActPassArgumentError): BlockedOutcome {
  const reported = JSON.parse(converting(() => native.invalidArgument(tool, error.message))) as object;
  const outcome = Object.assign(blockedOutcome(reporter, reported), { error });
  observeBlock(tool, outcome.decision);
  return outcome;
}

/** @internal Creates the outcome of a call of `tool` without a valid passport. Sends nothing. */
export function refusedOutcome(reporter: Reporter, tool: string, errors: string[]): BlockedOutcome {
  const reported = JSON.parse(converting(() => native.invalidPassport(tool, errors))) as object;
  const outcome = blockedOutcome(reporter, reported);
  observeBlock(tool, outcome.decision);
  return outcome;
}

/** @internal Returns the text for a model about a blocked action. */
export function modelText(outcome: BlockedOutcome): string {
  return textsOf.get(outcome)?.message ?? blockedBy(outcome, '').message;
}

/** @internal Creates the outcome of an action that ran under `decision`. */
export function ranOutcome<T>(
  reporter: Reporter,
  kind: 'returned' | 'failed',
  decision: Decision,
  reported: string,
  members: { result?: T; error?: unknown },
): GuardOutcome<T> {
  if (reported === EXECUTED) {
    return unwrappable<T>(reporter, { kind, decision, executed: true, ...members });
  }
  const settled = joined({ kind, decision }, JSON.parse(reported) as object);
  return outcomeOf<T>(reporter, settled, members);
}

function outcomeOf<T>(reporter: Reporter, reported: object, members?: object): GuardOutcome<T> {
  const { operation, site } = reporter;
  const { error, ...others } = joined(reported) as { error?: DescribedError };
  const failure = error && stamped(toError(error, operation), site);
  return unwrappable(reporter, { ...others, ...(failure !== undefined && { error: failure }), ...members });
}

function unwrappable<T>({ operation }: Reporter, members: object): GuardOutcome<T> {
  const outcome = members as GuardOutcome<T>;
  const unwrap = (): T => unwrapped(outcome, operation, () => new Site(unwrap));
  // Not enumerable: not printed, compared or serialized.
  return Object.defineProperty(outcome, 'unwrap', { value: unwrap });
}

/** @internal Returns the result, or throws the error, as a call of `operation` at `site`. */
export function unwrapped<T>(outcome: GuardOutcome<T>, operation: string, site: () => Site): T {
  switch (outcome.kind) {
    case 'returned':
      return outcome.result;
    case 'failed':
      throw outcome.error;
    case 'blocked':
      throw stamped(blockedBy(outcome, operation), site());
  }
}

/** @internal Creates the error of a blocked action for the method `operation`. */
export function blockedBy(outcome: BlockedOutcome, operation: string): ActPassError {
  const { error, approval, requestId } = joined(outcome) as unknown as BlockedOutcome;
  // `protect` throws immediately: its cause needs no separate frames.
  const cause = error && operation === 'protect' ? oneLine(error) : error;
  return freshly(
    new ActionBlockedError(outcome.decision, { ...textsOf.get(outcome), cause, approval, operation, requestId }),
  );
}
