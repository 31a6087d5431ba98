/** The outcomes of actions, made of what the native half reports. */

import {
  ActionBlockedError,
  type ActPassError,
  type DescribedError,
  freshly,
  oneLine,
  Site,
  stamped,
  toError,
} from './errors.js';
import { joined } from './json.js';
import type { BlockedOutcome, GuardOutcome } from './outcome.js';
import type { Decision } from './types.js';

/** Who reports: the method that was called, and where. */
interface Reporter {
  readonly operation: string;
  readonly site: Site;
}

/** What the native half says of an action that was blocked, for the error that is thrown. */
interface Texts {
  /** For a developer. */
  developerText: string;
  /** For a model. */
  message: string;
  /** The tool that was not used. */
  tool: string;
}

const textsOf = new WeakMap<object, Texts>();

/** @internal The outcome of an action that was blocked, of what the native half reports. */
export function blockedOutcome(reporter: Reporter, reported: object): BlockedOutcome {
  const { texts, decision, ...others } = joined(reported) as { texts: Texts; decision: Decision };
  const outcome = outcomeOf<never>(reporter, { kind: 'blocked', decision, executed: false, ...others });
  textsOf.set(outcome, texts);
  return outcome as BlockedOutcome;
}

/** @internal The outcome of an action that ran under `decision`, of what the native half reports of its end. */
export function ranOutcome<T>(
  reporter: Reporter,
  kind: 'returned' | 'failed',
  decision: Decision,
  reported: string,
  members: { result?: T; error?: unknown },
): GuardOutcome<T> {
  const settled = joined({ kind, decision }, JSON.parse(reported) as object);
  return outcomeOf<T>(reporter, settled, members);
}

function outcomeOf<T>({ operation, site }: Reporter, reported: object, members?: object): GuardOutcome<T> {
  const { error, ...others } = joined(reported) as { error?: DescribedError };
  const failure = error && stamped(toError(error, operation), site);
  const outcome = { ...others, ...(failure !== undefined && { error: failure }), ...members } as GuardOutcome<T>;
  const unwrap = (): T => unwrapped(outcome, operation, () => new Site(unwrap));
  // It is not a member of what is printed, compared or sent on as JSON.
  return Object.defineProperty(outcome, 'unwrap', { value: unwrap });
}

/** @internal The result of an action that ran and returned; throws otherwise, as a call of `operation` at `site`. */
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

/** @internal The error of an action that was blocked, as the method `operation` throws it. */
export function blockedBy(outcome: BlockedOutcome, operation: string): ActPassError {
  const { error, approval, requestId } = joined(outcome) as unknown as BlockedOutcome;
  // Nobody else has the error of a gate that is thrown at once, so it need not repeat the frames.
  const cause = error && operation === 'protect' ? oneLine(error) : error;
  return freshly(
    new ActionBlockedError(outcome.decision, { ...textsOf.get(outcome), cause, approval, operation, requestId }),
  );
}
