/** The steps of a guard: request a decision, run, report. */

import { checkFunction, unrun } from './body.js';
import { type Call, inputOf } from './call.js';
import { noteExecution, unlessAborted, unlessEnded } from './journal.js';
import { type ActPassError, leaving, placing, Site, stamped, withFrames } from './errors.js';
import { contextOf, ended } from './halt.js';
import { joined, type Members, toInput, toMember, toMembers, wrongArgument } from './json.js';
import type { ActionEnd } from './native.js';
import { COMPARED } from './options.js';
import type {
  BlockedOutcome,
  GuardOutcome,
  ObservedOutcome,
  Permit,
  Recorded,
  ReturnedOutcome,
  FailedOutcome,
} from './outcome.js';
import { blockedBy, blockedOutcome, ranOutcome } from './report.js';
import { begin, converting, door, type Ended, take } from './runtime.js';
import type { Credential, Decision, ExecutionContext, GuardOptions, RecordedEvidence, SpendOptions } from './types.js';

/** @internal The function of a guard. */
export interface Body {
  /** Its name in messages. */
  member: 'execute' | 'run';
  /** Returns the current action as JSON text; may throw. */
  present?: () => string;
  /** Whether a thrown value is the control flow of a framework. */
  suspends?: ((thrown: unknown) => boolean) | undefined;
}

/** @internal The function of a guard that names it `execute`. */
export const EXECUTE: Body = { member: 'execute' };

/** Text that differs from every evaluated action. */
const UNREADABLE = '{}';

/** @internal Requests a decision, runs the function if permitted, and reports the outcome. */
export async function run<T>(
  call: Call,
  name: 'authorize' | 'resume',
  { member, present, suspends }: Body,
): Promise<GuardOutcome<T>> {
  const { members, span } = call;
  const { execute } = members as Partial<GuardOptions<T>>;
  checkFunction(member, execute);
  const ruled = ruling(call, await ask(call, name));
  // No `await` between the last check of the signal, this comparison and the function.
  const begun = ruled instanceof Granted ? ruled.begin(present && readable(present)) : { blocked: ruled };
  if (begun.blocked !== undefined) {
    return blocked(call, begun.blocked);
  }
  const granted = ruled as Granted;
  const { context } = begun;
  span.decided(context.decision);
  let result: T;
  try {
    result = await (execute as GuardOptions<T>['execute'])(context);
    const problem = unrunProblem(member, result);
    if (problem !== undefined) {
      throw stamped(problem, call.site, call.operation);
    }
  } catch (thrown) {
    span.ended(true);
    span.failed(thrown);
    const error = thrown === undefined ? unexplained(`${member} threw undefined`, call.site) : thrown;
    return suspends?.(thrown) === true ? granted.suspend(error) : granted.finish('failed', { error });
  }
  const outcome = await granted.finish('returned', { result });
  span.ended(true, outcome.error as unknown);
  return outcome;
}

/** @internal Requests a decision and returns a permit or the blocked outcome. */
export async function authorize(call: Call): Promise<BlockedOutcome | Permit> {
  const ruled = ruling(call, await ask(call, 'authorize'));
  if (ruled instanceof Granted) {
    call.span.decided(ruled.decision);
    return permitOf(call, ruled);
  }
  return blocked(call, ruled);
}

function blocked(call: Call, outcome: BlockedOutcome): BlockedOutcome {
  const { span } = call;
  // A denial without a response of a gateway is not expected in the journal.
  if (outcome.requestId !== undefined || outcome.decision.evidence_event_id !== undefined) {
    noteExecution(false, call.members, outcome.decision);
  }
  span.decided(outcome.decision, outcome.error);
  span.ended(false, outcome.error);
  return outcome;
}

function ask(call: Call, name: 'authorize' | 'resume'): Promise<Ended> {
  return unlessEnded(call, () => begin(call, name, inputOf(name, call.members), signalOf(call)));
}

/** Returns the verdict of the core; throws if the signal was aborted. */
function ruling(call: Call, ended: Ended): BlockedOutcome | Granted {
  const { text, permitted } = unlessAborted(call, () => take(ended, signalOf(call), call.operation));
  return permitted ? new Granted(call, ended) : blockedOutcome(call, JSON.parse(text) as object);
}

function signalOf({ members }: Call): AbortSignal | undefined {
  return members['signal'] as AbortSignal | undefined;
}

/** @internal Serializes the members of the action that are compared with the evaluated ones. */
export function presentInput(members: Members): string {
  return toInput(members, COMPARED);
}

/** Returns the text of `present`; if that throws, a text that differs from every evaluated action. */
function readable(present: () => string): string {
  try {
    return present();
  } catch {
    return UNREADABLE;
  }
}

/** The result of spending a permit. */
interface Begun {
  running?: { credential: Credential | null; decision?: Decision };
  blocked?: object;
}

/** The usual result: no credential, and no other decision than the one in the verdict. */
const RUNNING = '{"running":{"credential":null}}';
const BEGUN: Begun = { running: { credential: null } };

/** Copies a value of JSON, faster than parsing its text again. */
function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) {
    return value;
  }
  if (Array.isArray(value)) {
    return value.map(copyOf) as T;
  }
  const copy = { ...value } as Members;
  for (const name of Object.keys(copy)) {
    const member = copy[name];
    if (typeof member === 'object' && member !== null) {
      copy[name] = copyOf(member);
    }
  }
  return copy as T;
}

/** A permitted action. */
class Granted {
  readonly #call: Call;
  readonly #number: number;
  /** Never leaves, so that changes by the program do not affect the report. */
  #decision: Decision;

  constructor(call: Call, { call: number, text }: Ended) {
    this.#call = call;
    this.#number = number;
    unreachable.register(this, number, this);
    this.#decision = JSON.parse(text) as Decision;
  }

  get decision(): Decision {
    return copyOf(this.#decision);
  }

  /** Spends the permit. `now` is the current action, if it may differ from the evaluated one. */
  begin(now?: string): { context: ExecutionContext; blocked?: undefined } | { blocked: BlockedOutcome } {
    const text = converting(() => door.begin(this.#number, now));
    const { running, blocked } = text === RUNNING ? BEGUN : (joined(JSON.parse(text) as object) as Begun);
    if (running === undefined) {
      return { blocked: blockedOutcome(this.#call, blocked as object) };
    }
    if (running.decision !== undefined) {
      this.#decision = running.decision;
    }
    const { decision } = this;
    try {
      noteExecution(true, this.#call.members, decision);
    } catch (error) {
      release(this.#number);
      throw error;
    }
    return { context: contextOf(this.#number, running.credential, decision) };
  }

  /** Reports how the action ended, and records it with `recordOutcome`. */
  async finish<T>(end: ActionEnd, members: { result?: T; error?: unknown }): Promise<GuardOutcome<T>> {
    const { settled, recording } = this.#end(end, members.result);
    const kind = end === 'returned' ? 'returned' : 'failed';
    return ranOutcome(this.#call, kind, this.decision, settled, { ...members, ...(await recording) });
  }

  /** Reports that the control flow of a framework, `signal`, ended the action. Does not wait for the recording. */
  suspend<T>(signal: unknown): GuardOutcome<T> {
    const { settled } = this.#end('suspended', undefined);
    return ranOutcome(this.#call, 'failed', this.decision, settled, { error: signal });
  }

  #end(end: ActionEnd, result: unknown): { settled: string; recording: Promise<Recorded> | undefined } {
    const records = this.#call.members['recordOutcome'] === true;
    const response = records && end === 'returned' ? jsonOf(result) : undefined;
    const settled = converting(() => door.finish(this.#number, end, response));
    unreachable.unregister(this);
    ended(this.#number);
    return { settled, recording: records ? record(this.#call, this.#number) : undefined };
  }
}

/** Returns the JSON text of `result`; `undefined` if it is not JSON, and then no hash is recorded. */
function jsonOf(result: unknown): string | undefined {
  try {
    return toMember('response', result);
  } catch {
    return undefined;
  }
}

/** Records how the action of call `number` ended. Errors are reported in the outcome. */
async function record(call: Call, number: number): Promise<Recorded> {
  try {
    const input = inputOf('recordOutcome', joined(call.members, { call: number }));
    const ended = await begin(call, 'recordOutcome', input, undefined);
    return { evidence: JSON.parse(take(ended, undefined, call.operation).text) as RecordedEvidence };
  } catch (error) {
    return { evidenceError: leaving(error, call.site, call.operation) as ActPassError };
  }
}

/** Releases the permit of a call: it is never spent, or its function never ends. */
function release(call: number): void {
  ended(call);
  door.cancel(call);
}

/** Releases the permits of garbage-collected objects. */
const unreachable = new FinalizationRegistry(release);

function permitOf(call: Call, granted: Granted): Permit {
  const { operation } = call;
  const { decision } = granted;
  // It may never be spent.
  noteExecution(false, call.members, decision);
  const spend = (options: SpendOptions = {}): ExecutionContext =>
    placing(
      spend,
      () => {
        const given = toMembers(options, ['args']);
        const begun = granted.begin('args' in given ? presentInput(joined(call.members, given)) : undefined);
        if (begun.blocked !== undefined) {
          throw blockedBy(begun.blocked, operation);
        }
        return begun.context;
      },
      operation,
    );
  const ending = async <R>(above: Function, end: (site: Site) => Promise<R>): Promise<R> => {
    const site = new Site(above);
    try {
      return await end(site);
    } catch (error) {
      throw leaving(error, site, operation);
    }
  };
  const returned = <T>(result: T) =>
    ending(returned, () => {
      const problem = unrunProblem('result', result);
      if (problem !== undefined) {
        throw problem;
      }
      return granted.finish('returned', { result }) as Promise<ObservedOutcome<T> | ReturnedOutcome<T>>;
    });
  const failed = (thrown: unknown) =>
    ending(failed, (site) => {
      const error = thrown === undefined ? unexplained('the action threw undefined', site) : thrown;
      return granted.finish('failed', { error }) as Promise<FailedOutcome>;
    });
  const suspended = (signal: unknown = new Error('the action was suspended')) =>
    ending(suspended, () => granted.finish('suspended', { error: signal }) as Promise<FailedOutcome>);
  const cancelled = (reason: unknown = new DOMException('This operation was aborted', 'AbortError')) =>
    ending(cancelled, () => granted.finish('cancelled', { error: reason }) as Promise<FailedOutcome>);
  const permit = { kind: 'permitted', decision } as Permit;
  // Not enumerable, so that they are not printed or compared.
  return Object.defineProperties(permit, {
    spend: { value: spend },
    returned: { value: returned },
    failed: { value: failed },
    cancelled: { value: cancelled },
    suspended: { value: suspended },
  });
}

/** Returns the error for a result whose body has not run, such as a generator. */
function unrunProblem(member: string, result: unknown): ActPassError | undefined {
  const found = unrun(result);
  return found === undefined
    ? undefined
    : wrongArgument(`${member}: expected a result, found ${found}, which has not run`);
}

/** Creates an error in place of a thrown `undefined`, which would look like success. */
function unexplained(what: string, site: Site): Error {
  return withFrames(new Error(`${what}, so the cause is unknown`), site);
}
