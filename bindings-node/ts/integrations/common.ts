/**
 * Common code of the adapters for agent frameworks. Internal: not exported by the package.
 *
 * An adapter takes `(client, actions, options)` and wraps the innermost execution of each tool, after the framework has
 * validated the arguments. It
 *
 * 1. creates one `ToolMap`, which checks the actions, and calls `approvalsOf` with the values of `approvals` that its
 *    framework supports, both inside `placing(theAdapter, …)`, so that errors have the caller's stack;
 * 2. calls `tools.checkCoverage` with the tools that exist at construction;
 * 3. for each call, looks up the name, followed by the names that the framework defines as its aliases. `undefined` is
 *    blocked by `tools.unmapped(name)`; an `UNGUARDED` tool runs unchanged;
 * 4. calls `runGuarded`, whose `execute` receives the evaluated arguments: it runs the tool with these and no others;
 * 5. answers by `outcome.kind`: `returned` is the result; `failed` rethrows `outcome.error`, the same object, which may be the
 *    framework's control flow; `blocked` is the tool's answer `blockedText(outcome)`, marked as an error, or, with
 *    `approvals: 'interrupt'` and a `pendingOf(outcome)`, a pause that stores this pending approval;
 * 6. on resume, calls `runGuarded` again with the current arguments and the stored `approvalRequestId`. The framework's
 *    approval alone runs nothing.
 *
 * ```text
 * const tools = placing(guardTools, () => new ToolMap(client, actions));
 * const { approvals, ...waits } = placing(guardTools, () => approvalsOf(options, ['tell', 'hold']));
 * // in the tool:
 * const action = tools.lookup(name);
 * if (action === UNGUARDED) return execute(args);
 * const outcome = action
 *   ? await runGuarded(client, action, args, (own) => execute(own), { signal, ...waits })
 *   : tools.unmapped(name);
 * if (outcome.kind === 'blocked') return { isError: true, text: blockedText(outcome) };
 * return outcome.unwrap();
 * ```
 *
 * @module
 */

import { type CheckedAction, checkedAction, guarding } from '../action.js';
import { ActPassArgumentError, placing as place, Site } from '../errors.js';
import { describe, joined, type Members, toDictionary, toMembers, wrongArgument } from '../json.js';
import { native } from '../native.js';
import { TOOL_ACTION } from '../options.js';
import type { BlockedOutcome, GuardOutcome } from '../outcome.js';
import { invalidOutcome, modelText, unmappedOutcome } from '../report.js';
import type { ExecutionContext, PendingApproval, ToolActions } from '../types.js';
import { UNGUARDED } from '../unguarded.js';

export { UNGUARDED };

/** @internal Runs `body` for `above`, a function of the adapter; its errors get the stack of the caller. */
export const placing = place;

/** 30 days. */
const MAX_HOLD_MS = 30 * 24 * 60 * 60 * 1000;

/**
 * Treatment of an action that needs approval: `interrupt` pauses the run until it is resumed, `tell` returns the text to the
 * model, `hold` waits.
 */
export type Approvals = 'interrupt' | 'tell' | 'hold';

/** The value that a schema of the Standard Schema interface, such as one of zod, parses; `any` for other schemas. */
export type Parsed<S> = S extends {
  readonly '~standard': { readonly types?: { readonly output: infer O } | undefined };
}
  ? O
  : any;

/** `T`, but not inferred from the context of the result, so that the argument alone determines it. */
export type Same<T> = [T][T extends unknown ? 0 : never];

/** Options of every adapter. */
export interface AdapterOptions<A extends Approvals = Approvals> {
  /** Treatment of an action that needs approval. */
  approvals?: A | undefined;
  /** The longest wait of `approvals: 'hold'` in milliseconds, above 0 and at most 30 days. */
  holdMs?: number | undefined;
}

/** @internal The checked action of a tool. */
export class MappedTool {
  /** @internal */
  constructor(readonly action: CheckedAction) {}

  /** The name of the tool in the policy. */
  get tool(): string {
    return this.action['tool'] as string;
  }
}

/** @internal The checked actions of the tools of an agent. */
export class ToolMap {
  readonly #tools: ReadonlyMap<string, MappedTool | typeof UNGUARDED>;

  /** @throws ActPassArgumentError: the value of a name is neither an action nor `UNGUARDED`, or an action is invalid. */
  constructor(client: object, actions: ToolActions) {
    const given = toDictionary('actions', 'actions by the names of tools', actions);
    this.#tools = new Map(Object.entries(given).map(([name, action]) => [name, mappedTool(client, name, action)]));
  }

  /** The names of the mapped tools, in the order of the map. */
  get names(): string[] {
    return [...this.#tools.keys()];
  }

  /** Returns the action of the first of `names` that is mapped: the name of a call and its aliases. */
  lookup(...names: string[]): MappedTool | typeof UNGUARDED | undefined {
    const name = names.find((one) => this.#tools.has(one));
    return name === undefined ? undefined : this.#tools.get(name);
  }

  /**
   * Checks that each tool is mapped; `tools` are names, or lists of a name and its aliases. With `isComplete`, no other tools
   * exist, so the name of each action must be one of theirs.
   *
   * @throws ActPassArgumentError: it names all unmapped tools, and all actions without a tool.
   */
  checkCoverage(tools: Iterable<string | readonly string[]>, { isComplete = false } = {}): void {
    const known = [...tools].map((names) => [names].flat());
    const unmapped = known.filter((names) => this.lookup(...names) === undefined).map(([name]) => name);
    const unused = isComplete ? this.names.filter((name) => !known.some((names) => names.includes(name))) : [];
    const problems = [
      ...(unmapped.length > 0 ? [`missing for ${unmapped.join(', ')}`] : []),
      ...(unused.length > 0 ? [`unknown tools ${unused.join(', ')}`] : []),
    ];
    if (problems.length > 0) {
      throw wrongArgument(`actions: expected an action or UNGUARDED for each tool, found ${problems.join('; ')}`);
    }
  }

  /** Returns the outcome of a call of a tool that is not mapped: denied with `actpass.unmapped_tool`. */
  unmapped(name: string): BlockedOutcome {
    return unmappedOutcome({ operation: 'guard', site: new Site(this.unmapped) }, name);
  }
}

function mappedTool(client: object, name: string, action: unknown): MappedTool | typeof UNGUARDED {
  if (action === UNGUARDED) {
    return UNGUARDED;
  }
  const place = native.argumentPath('actions', [name]);
  if (typeof action !== 'object' || action === null) {
    throw wrongArgument(`${place}: expected an action or UNGUARDED, found ${describe(action)}`);
  }
  try {
    return new MappedTool(checkedAction(client, toMembers(action, TOOL_ACTION)));
  } catch (error) {
    if (error instanceof ActPassArgumentError) {
      throw wrongArgument(`${place}.${error.message}`, error.cause);
    }
    throw error;
  }
}

/** @internal Options of a guarded call of a tool. Members of its action take precedence over `waitForApprovalMs`. */
export interface RunOptions {
  /** The approval to spend, after a pause. Default: the action's. */
  approvalRequestId?: string | undefined;
  /** Aborts the question: the call rejects with the signal's reason, and nothing runs. */
  signal?: AbortSignal | undefined;
  /** Whether a value thrown by the tool is the framework's control flow; it is recorded as `suspended`. */
  suspends?: ((thrown: unknown) => boolean) | undefined;
  /** The longest wait for an approval. */
  waitForApprovalMs?: number | undefined;
  /** Members of the action that a verified passport determines; they win. */
  presented?: object | undefined;
}

/**
 * @internal Requests a decision about a call of a tool with `args` and calls `execute` if it is permitted, with a copy of `args`
 * that was made before the request: the decision is about this copy.
 *
 * Arguments that cannot be sent, such as NaN, are a blocked outcome, so that the model can correct them. Nothing is sent.
 *
 * @throws ActPassArgumentError: neither the action nor a scope has a goal.
 */
export async function runGuarded<A, T>(
  client: object,
  { action }: MappedTool,
  args: A,
  execute: (args: A, context: ExecutionContext) => T,
  options: RunOptions = {},
): Promise<GuardOutcome<Awaited<T>>> {
  const { suspends, waitForApprovalMs, presented = {}, ...given } = options;
  const site = new Site(runGuarded);
  const running = guarding<T>({
    client,
    operation: 'guard',
    above: runGuarded,
    action: joined(withoutUndefined({ waitForApprovalMs }), action),
    members: joined(withoutUndefined(given), presented),
    args: [args],
    run: (own, context) => execute(own[0] as A, context),
    suspends,
  });
  try {
    return await running;
  } catch (error) {
    if (error instanceof ActPassArgumentError && isOfArguments(error, action)) {
      return invalidOutcome({ operation: 'guard', site }, String(action['tool']), error);
    }
    throw error;
  }
}

/** Returns whether the arguments of the tool caused `error`, rather than the developer's options. */
function isOfArguments({ message }: Error, action: Members): boolean {
  const [, member = ''] = /^(\w+)/.exec(message) ?? [];
  return member === 'args' || (['goal', 'resource'].includes(member) && action[member] !== undefined);
}

/** @internal Returns the text for a model about a blocked action: the tool, the reason and what to do instead. */
export function blockedText(outcome: BlockedOutcome): string {
  return modelText(outcome);
}

/** @internal Returns the approval that an action waits for; `undefined` if it was blocked for another reason. */
export function pendingOf(outcome: GuardOutcome<unknown>): PendingApproval | undefined {
  return outcome.decision.decision === 'require_approval' ? outcome.approval : undefined;
}

/**
 * @internal Checks the options `approvals` and `holdMs` of an adapter. `possible` are the values that its framework supports; the
 * first is the default.
 *
 * @returns `approvals`, and `waitForApprovalMs` for `runGuarded`.
 */
export function approvalsOf<A extends Approvals>(
  { approvals = undefined, holdMs = undefined }: AdapterOptions<A> = {},
  possible: readonly [A, ...A[]],
): { approvals: A; waitForApprovalMs: number | undefined } {
  const chosen = approvals ?? possible[0];
  if (!possible.includes(chosen)) {
    const found = typeof chosen === 'string' ? JSON.stringify(chosen) : describe(chosen);
    throw wrongArgument(`approvals: expected ${possible.join(' or ')}, found ${found}`);
  }
  if (chosen === 'hold' && !(typeof holdMs === 'number' && holdMs > 0 && holdMs <= MAX_HOLD_MS)) {
    throw wrongArgument(
      `holdMs: expected milliseconds above 0 and at most ${MAX_HOLD_MS} with approvals 'hold', found ${describe(holdMs)}`,
    );
  }
  if (chosen !== 'hold' && holdMs !== undefined) {
    throw wrongArgument(`holdMs: expected approvals 'hold', found '${chosen}'`);
  }
  return { approvals: chosen, waitForApprovalMs: holdMs };
}

function withoutUndefined(given: object): Members {
  return joined(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)));
}
