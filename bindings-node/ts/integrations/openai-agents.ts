/**
 * Guards the tools of the OpenAI Agents SDK (`@openai/agents`).
 *
 * @module @actpass/sdk/openai-agents
 */

import type { ActPass } from '../client.js';
import { describe, wrongArgument } from '../json.js';
import type { ToolAction, ToolActions } from '../types.js';
import { callTool } from './call.js';
import { approvalsOf, type Parsed, placing, type Same, ToolMap, UNGUARDED } from './common.js';
import { Precheck } from './precheck.js';

/** Options of {@link guardTools} and {@link guardTool}. */
export interface GuardToolsOptions {
  /**
   * Treatment of an action that needs a human approval.
   *
   * - `tell` (default): the tool's output states that the action is pending.
   * - `interrupt`: the run pauses with an interruption, and the approval is opened at the gateway. {@link settle} passes its
   *   decision to the saved state. An approval that only the state has runs nothing.
   * - `hold`: the call waits for `holdMs`.
   */
  approvals?: 'tell' | 'interrupt' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** The ids of approvals by the ids of the calls that wait for them: JSON, to store with the state of a run. */
export interface PendingApprovals {
  [callId: string]: string;
}

/** The result of {@link settle}: ids of calls. */
export interface Settled {
  /** Approved at the gateway, and now in the state. */
  approved: string[];
  /** Rejected or expired at the gateway, and now rejected in the state. */
  rejected: string[];
  /** Not decided, or not known: unchanged in the state. */
  pending: string[];
}

interface RunContext {
  isToolApproved(call: { toolName: string; callId: string }): boolean | undefined;
}

interface Details {
  readonly signal?: AbortSignal;
}

interface FunctionTool {
  readonly type: string;
  readonly name: string;
  readonly needsApproval?: unknown;
  invoke(context: unknown, input: string, details?: Details): Promise<unknown>;
}

interface ToolOptions {
  readonly name?: string | undefined;
  readonly needsApproval?: unknown;
  readonly customDataExtractor?: (context: unknown) => unknown;
  execute?: unknown;
}

interface Interruption {
  readonly rawItem: object;
}

interface State {
  getInterruptions(): Interruption[];
  approve(item: never): void;
  reject(item: never, options?: { message?: string }): void;
}

/** State that the guarded tools of one call of {@link guardTools} share. */
interface Guard {
  readonly client: ActPass;
  readonly map: ToolMap;
  readonly precheck: Precheck | undefined;
  readonly waitForApprovalMs: number | undefined;
  /** The ids of approvals by the ids of calls. */
  readonly pending: Map<string, string>;
}

/** The tools that may start in a runner of {@link requireGuarded}, or functions that they keep. */
const KNOWN = new WeakSet<object>();
/** The guards of tools whose calls may pause, by their `needsApproval`, which `tool()` keeps. */
const PAUSES = new WeakMap<object, Guard>();

/**
 * Returns guarded copies of tools for `tools` of an `Agent`, in a frozen array.
 *
 * The gateway evaluates the call's JSON arguments, and the tool parses this text. A tool whose schema changes arguments
 * (defaults, coercion) is guarded inside the schema by {@link guardTool}. A blocked call outputs the text for the model.
 * Errors of the tool are thrown unchanged.
 *
 * @param actions - The action of each tool by its name, or `UNGUARDED`, such as for hosted tools and agents as tools.
 * @throws {@link ActPassArgumentError} A tool has no action, an action no tool, or a tool runs elsewhere.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardTools } from '@actpass/sdk/openai-agents';
 *
 * const refund = { type: 'function' as const, name: 'refund', invoke: async (_context: unknown, input: string) => input };
 * const tools = guardTools(new ActPass(), [refund], {
 *   refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 * });
 * console.log(tools.map(({ name }) => name));
 * ```
 */
export function guardTools<T extends { readonly type: string; readonly name?: string | undefined }>(
  client: ActPass,
  tools: readonly T[],
  actions: ToolActions,
  options?: GuardToolsOptions,
): T[] {
  return placing(guardTools, () => {
    const guard = prepared(client, actions, options);
    guard.map.checkCoverage(tools.map(nameOf), { isComplete: true });
    return Object.freeze(tools.map((tool) => guarded(guard, tool))) as T[];
  });
}

/**
 * Returns the options of one function tool with a guarded `execute`, for `tool()`. `execute` is guarded inside the tool's
 * schema: the gateway evaluates the parsed arguments. Otherwise as {@link guardTools}.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardTool } from '@actpass/sdk/openai-agents';
 *
 * const options = guardTool(
 *   new ActPass(),
 *   { name: 'refund', description: 'Refund a charge', execute: async (input: { amount: number }) => `refunded ${input.amount}` },
 *   { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 * );
 * console.log(options.name);
 * ```
 */
export function guardTool<T extends { readonly name?: string | undefined }, S = unknown>(
  client: ActPass,
  tool: T & { readonly parameters?: S; readonly execute?: (input: Parsed<S>, context?: any, details?: any) => unknown },
  action: ToolAction,
  options?: GuardToolsOptions,
): Same<T> {
  return placing(guardTool, () => {
    const { execute, needsApproval, name, customDataExtractor: own } = tool as ToolOptions;
    if (typeof name !== 'string' || typeof execute !== 'function') {
      throw wrongArgument(`tool: expected the options of tool() with name and execute, found ${describe(tool)}`);
    }
    const guard = prepared(client, { [name]: action }, options);
    const run = (input: unknown, context: unknown, details?: Details) =>
      called(guard, name, input, details, (own) => execute.call(tool, own, context, details) as unknown);
    // `tool()` keeps this function, so it identifies the tool in a runner of `requireGuarded`.
    const customDataExtractor = (context: unknown): unknown => (own === undefined ? null : own(context));
    KNOWN.add(customDataExtractor);
    return { ...tool, execute: run, customDataExtractor, ...pausing(guard, name, needsApproval) } as Same<T>;
  });
}

/**
 * Returns the approvals that calls of the tools wait for, to store with the state and to pass to {@link settle} in another
 * process.
 *
 * @param tools - The guarded tools.
 */
export function pendingApprovals(tools: readonly object[]): PendingApprovals {
  return Object.fromEntries(tools.flatMap((tool) => [...(guardOf(tool)?.pending ?? [])]));
}

/**
 * Reads the approval of each interruption from the gateway, and approves or rejects it in the state. Run the agent with the
 * state afterwards, unless calls are still `pending`.
 *
 * @param state - The state of a run, such as `result.state` or a restored `RunState`.
 * @param pending - The approvals, if another process opened them: {@link pendingApprovals} of its tools. Default: those that
 * `tools` opened.
 * @throws {@link ActPassError} The gateway failed. Nothing is changed in the state.
 */
export async function settle(client: ActPass, state: object, pending: PendingApprovals): Promise<Settled> {
  const { approve, reject } = state as State;
  if (typeof approve !== 'function' || typeof reject !== 'function') {
    throw wrongArgument(`state: expected the state of a run, found ${describe(state)}`);
  }
  const calls = (state as State).getInterruptions().map((item) => {
    const { callId } = item.rawItem as { callId?: string };
    return { item, callId: callId ?? '', approval: callId === undefined ? undefined : pending[callId] };
  });
  const found = await Promise.all(
    calls.map(async (call) => ({
      ...call,
      status: call.approval === undefined ? 'pending' : (await client.waitForApproval(call.approval)).status,
    })),
  );
  const settled: Settled = { approved: [], rejected: [], pending: [] };
  for (const { item, callId, status } of found) {
    if (status === 'pending') {
      settled.pending.push(callId);
    } else if (status === 'approved') {
      approve.call(state, item as never);
      settled.approved.push(callId);
    } else {
      const message = `The call was not run: the approval is ${status}. Do not call it again with these arguments.`;
      reject.call(state, item as never, { message });
      settled.rejected.push(callId);
    }
  }
  return settled;
}

/**
 * Makes a `Runner` refuse tools that {@link guardTools} and {@link guardTool} did not guard, such as tools that were added later or belong to
 * another agent of a handoff: the run fails before they start. Hosted tools run at the provider and are not seen.
 *
 * @example
 * ```ts
 * import { requireGuarded } from '@actpass/sdk/openai-agents';
 *
 * const runner = { on: (_event: 'agent_tool_start', _listener: (...args: never[]) => void) => {} };
 * requireGuarded(runner);
 * ```
 */
export function requireGuarded<R extends { on: (event: any, listener: any) => unknown }>(runner: R): R {
  // Not async: a rejection of a listener would be ignored.
  const listener = (_context: unknown, _agent: unknown, tool: object): void => {
    const { customDataExtractor: mark } = tool as ToolOptions;
    if (!KNOWN.has(tool) && !(mark !== undefined && KNOWN.has(mark))) {
      throw wrongArgument(`tools: expected tools of guardTools, found ${nameOf(tool as never)}`);
    }
  };
  runner.on('agent_tool_start', listener);
  return runner;
}

function prepared(client: ActPass, actions: ToolActions, options: GuardToolsOptions | undefined): Guard {
  const { approvals, waitForApprovalMs } = approvalsOf(options, ['tell', 'interrupt', 'hold']);
  const map = new ToolMap(client, actions);
  const precheck = approvals === 'interrupt' ? new Precheck(client, map) : undefined;
  return { client, map, precheck, waitForApprovalMs, pending: new Map() };
}

function guarded(guard: Guard, tool: object): object {
  const name = nameOf(tool as FunctionTool);
  if (guard.map.lookup(name) === UNGUARDED) {
    KNOWN.add(tool);
    return tool;
  }
  const { type, invoke, needsApproval } = tool as FunctionTool;
  if (type !== 'function' || typeof invoke !== 'function') {
    throw wrongArgument(
      `tools.${name}: expected a function tool, found one of the type ${type}, which nothing here can guard; use UNGUARDED`,
    );
  }
  const guardedInvoke = async (context: unknown, input: string, details?: Details): Promise<unknown> => {
    const args = parsed(input);
    return args === undefined
      ? `${name} was not run: its arguments are not a JSON object.`
      : called(guard, name, args, details, (own) => invoke.call(tool, context, JSON.stringify(own), details));
  };
  const members = { invoke: guardedInvoke, ...pausing(guard, name, needsApproval) };
  // Keeps members that are not enumerable, such as the namespace.
  const copy = Object.create(Object.getPrototypeOf(tool) as object | null, {
    ...Object.getOwnPropertyDescriptors(tool),
    ...Object.getOwnPropertyDescriptors(members),
  }) as object;
  KNOWN.add(copy);
  return Object.freeze(copy);
}

/** Calls a tool; a block is its output. */
async function called(
  { client, map, waitForApprovalMs }: Guard,
  name: string,
  args: unknown,
  details: Details | undefined,
  run: (own: unknown) => unknown,
): Promise<unknown> {
  const answer = await callTool(client, map, { names: [name], args, run, signal: details?.signal, waitForApprovalMs });
  return answer.ran ? answer.result : answer.text;
}

/** Returns `needsApproval` of a tool whose calls may pause. */
function pausing(guard: Guard, name: string, own: unknown): object {
  const { precheck, pending } = guard;
  if (precheck === undefined) {
    return {};
  }
  const needsApproval = async (context: RunContext, args: unknown, callId = ''): Promise<boolean> => {
    // The SDK calls this again after the decision; another preflight would spend the approval.
    if (context.isToolApproved({ toolName: name, callId }) !== undefined) {
      return true;
    }
    if ((typeof own === 'function' ? await (own as Function)(context, args, callId) : own) === true) {
      return true;
    }
    const approval = await precheck.pending(name, args);
    if (approval !== undefined) {
      pending.set(callId, approval);
    }
    return approval !== undefined;
  };
  PAUSES.set(needsApproval, guard);
  return { needsApproval };
}

function guardOf(tool: object): Guard | undefined {
  return PAUSES.get(Object((tool as ToolOptions).needsApproval) as object);
}

function nameOf(tool: { readonly name?: string | undefined }): string {
  return String(tool.name);
}

/** Returns the object in a JSON text; `undefined` if the text contains no object. */
function parsed(input: string): object | undefined {
  try {
    const value: unknown = JSON.parse(input);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
