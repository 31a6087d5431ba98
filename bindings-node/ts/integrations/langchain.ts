/**
 * Guards the tools of agents of LangChain.js (`langchain`, with `@langchain/langgraph`).
 *
 * @module @actpass/sdk/langchain
 */

import { ToolMessage } from '@langchain/core/messages';
import { interrupt, isGraphBubbleUp } from '@langchain/langgraph';
import { type AgentMiddleware, createMiddleware } from 'langchain';
import type { ActPass } from '../client.js';
import { wrongArgument } from '../json.js';
import type { ToolActions } from '../types.js';
import { callTool, type NotRun } from './call.js';
import { type Approvals, approvalsOf, placing, ToolMap, UNGUARDED } from './common.js';

/**
 * Options of {@link actpassMiddleware}.
 *
 * - `approvals: 'tell'` (default): the tool's message states that the action is pending.
 * - `interrupt`: the graph is interrupted with a {@link PendingInterrupt}. Resume it with this value: `new Command({ resume: {
 *   [interrupt.id]: interrupt.value } })`. Whatever it is resumed with, the gateway decides. It needs a checkpointer and a
 *   graph in which each call of a tool is its own task, as in `createAgent`; elsewhere it is as `tell`.
 * - `hold`: the call waits for `holdMs`.
 */
export interface ActPassMiddlewareOptions {
  /** Treatment of an action that needs a human approval. Default: `tell`. */
  approvals?: 'tell' | 'interrupt' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** The value of an interrupt: JSON. */
export interface PendingInterrupt {
  /** The approval that the call waits for. */
  approval_request_id: string;
  /** The name of the tool in the agent. */
  tool: string;
  /** The arguments of the tool. */
  args: unknown;
}

interface Config {
  readonly signal?: AbortSignal;
  readonly toolCallId?: string;
  readonly configurable?: { readonly [name: string]: unknown };
  readonly metadata?: { readonly langgraph_path?: readonly unknown[] };
}

interface Tool {
  readonly name: string;
  _call?(input: unknown, runManager: RunManager | undefined, config: Config | undefined): unknown;
}

interface RunManager {
  handleToolEvent?(chunk: unknown): Promise<void>;
}

interface ToolCallRequest {
  readonly toolCall: { readonly name: string; readonly args: object; readonly id?: string };
  readonly tool: Tool | undefined;
  readonly runtime: { readonly signal?: AbortSignal };
}

interface ModelRequest {
  readonly tools?: readonly {
    readonly name?: unknown;
    readonly invoke?: unknown;
    readonly function?: { name?: unknown };
  }[];
}

interface Guard {
  readonly client: ActPass;
  readonly map: ToolMap;
  readonly approvals: Approvals;
  readonly waitForApprovalMs: number | undefined;
}

/**
 * Returns middleware that guards every call of a tool, for `createAgent({ middleware })`.
 *
 * The gateway evaluates the input that the tool's schema parsed, inside the tool, so its place in the list does not matter. A
 * blocked call is a `ToolMessage` with `status: 'error'` and the text for the model. Errors of the tool are thrown unchanged.
 *
 * Before each call of the model it checks that each tool has an action. Agents inside tools have their own middleware.
 *
 * @param actions - The action of each tool by its name, or `UNGUARDED`, such as for tools that the provider runs.
 * @throws {@link ActPassArgumentError} `actions` or `options` are invalid.
 *
 * @example
 * ```text
 * import { ActPass } from '@actpass/sdk';
 * import { actpassMiddleware } from '@actpass/sdk/langchain';
 *
 * const middleware = actpassMiddleware(new ActPass(), {
 *   refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 * });
 * console.log(middleware.name);
 * ```
 */
export function actpassMiddleware(
  client: ActPass,
  actions: ToolActions,
  options?: ActPassMiddlewareOptions,
): AgentMiddleware {
  return placing(actpassMiddleware, () => {
    const chosen = approvalsOf(options, ['tell', 'interrupt', 'hold']);
    const guard: Guard = { client, map: new ToolMap(client, actions), ...chosen };
    return createMiddleware({
      name: 'ActPass',
      wrapModelCall: (request: ModelRequest, handler: (request: ModelRequest) => unknown) => {
        checkTools(guard.map, request.tools ?? []);
        return handler(request);
      },
      wrapToolCall: (request: ToolCallRequest, handler: (request: ToolCallRequest) => Promise<unknown>) => {
        const { name } = request.toolCall;
        return guard.map.lookup(name) === UNGUARDED ? handler(request) : guarded(guard, request, handler);
      },
    });
  });
}

/** Throws if a tool has no action, or is run by the provider and not `UNGUARDED`. */
function checkTools(map: ToolMap, tools: NonNullable<ModelRequest['tools']>): void {
  const named = tools.map((tool) => ({ name: String(tool.name ?? tool.function?.name), isOurs: 'invoke' in tool }));
  map.checkCoverage(named.map(({ name }) => name));
  const provided = named.filter(({ name, isOurs }) => !isOurs && map.lookup(name) !== UNGUARDED);
  if (provided.length > 0) {
    const names = provided.map(({ name }) => name).join(', ');
    throw wrongArgument(`actions: expected UNGUARDED for tools that the provider runs, found an action for ${names}`);
  }
}

async function guarded(
  guard: Guard,
  request: ToolCallRequest,
  handler: (request: ToolCallRequest) => Promise<unknown>,
): Promise<unknown> {
  const { tool, toolCall, runtime } = request;
  const { name, id = '' } = toolCall;
  if (tool !== undefined && typeof tool._call === 'function') {
    return handler({ ...request, tool: guardedTool(guard, tool, name) });
  }
  // No schema is known, so the arguments of the call are executed unchanged.
  const answer = await callTool(guard.client, guard.map, {
    names: [name],
    args: toolCall.args,
    run: (own) => handler({ ...request, toolCall: { ...toolCall, args: own } }),
    signal: runtime.signal,
    suspends: isGraphBubbleUp,
    waitForApprovalMs: guard.waitForApprovalMs,
  });
  return answer.ran ? answer.result : blocked(answer, name, id);
}

/** Returns the tool with a guard around its execution, behind its schema. */
function guardedTool(guard: Guard, tool: Tool, name: string): Tool {
  const call = async (input: unknown, runManager: RunManager | undefined, config: Config = {}): Promise<unknown> => {
    const args = typeof input === 'string' ? { input } : input;
    const run = (own: unknown) =>
      drained(
        tool._call?.(typeof input === 'string' ? (own as { input: string }).input : own, runManager, config),
        runManager,
      );
    const { client, map, approvals, waitForApprovalMs } = guard;
    const mayPause = approvals === 'interrupt' && canPause(config);
    // Takes the value only if it belongs to this adapter: the tool may have its own interrupts.
    let approvalRequestId = mayPause && approvalOf(resumedWith(config)) ? approvalOf(interrupt(undefined)) : undefined;
    for (;;) {
      const answer = await callTool(client, map, {
        names: [name],
        args,
        run,
        approvalRequestId,
        signal: config.signal,
        suspends: isGraphBubbleUp,
        waitForApprovalMs,
      });
      if (answer.ran) {
        return answer.result;
      }
      if (!mayPause || answer.approval === undefined) {
        return blocked(answer, name, config.toolCallId ?? '');
      }
      const value: PendingInterrupt = { approval_request_id: answer.approval, tool: name, args };
      approvalRequestId = approvalOf(interrupt(value)) ?? answer.approval;
    }
  };
  return Object.create(tool, { _call: { value: call } }) as Tool;
}

function blocked({ text, error }: NotRun, name: string, id: string): ToolMessage {
  const { decision } = Object(error) as { decision?: unknown };
  return new ToolMessage({ content: text, tool_call_id: id, name, status: 'error', artifact: { actpass: decision } });
}

/** Returns the approval in the value with which a graph was resumed. */
function approvalOf(resumed: unknown): string | undefined {
  const { approval_request_id: id } = Object(resumed) as { approval_request_id?: unknown };
  return typeof id === 'string' ? id : undefined;
}

/** Whether an interrupt can be resumed, and concerns this call only. */
function canPause({ configurable, metadata }: Config): boolean {
  return Boolean(configurable?.['__pregel_checkpointer']) && metadata?.langgraph_path?.[0] === '__pregel_push';
}

/** Returns the first value with which this task was resumed. */
function resumedWith({ configurable }: Config): unknown {
  const { resume, nullResume } = Object(configurable?.['__pregel_scratchpad']) as {
    resume?: readonly unknown[];
    nullResume?: unknown;
  };
  return resume?.[0] ?? nullResume;
}

/** Runs a tool that yields to its end, and returns its result. */
async function drained(result: unknown, runManager: RunManager | undefined): Promise<unknown> {
  const awaited = (await result) as AsyncGenerator<unknown> | null | undefined;
  if (Object.prototype.toString.call(awaited) !== '[object AsyncGenerator]') {
    return awaited;
  }
  for (;;) {
    const { done, value } = await (awaited as AsyncGenerator<unknown>).next();
    if (done === true) {
      return value;
    }
    await runManager?.handleToolEvent?.(value);
  }
}
