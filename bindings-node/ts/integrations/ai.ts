/**
 * Guards the tools of the AI SDK (`ai`, versions 6 and 7).
 *
 * @module @actpass/sdk/ai
 */

import type { ActPass } from '../client.js';
import { describe, wrongArgument } from '../json.js';
import type { ToolAction } from '../types.js';
import { UNGUARDED } from '../unguarded.js';
import { callTool } from './call.js';
import { approvalsOf, placing, ToolMap } from './common.js';
import { Precheck } from './precheck.js';

/** Options of {@link guardTools}. */
export interface GuardToolsOptions {
  /**
   * Treatment of an action that needs a human approval.
   *
   * - `tell` (default): the tool's error states that the action is pending.
   * - `interrupt`: the call pauses with a `tool-approval-request`. The approval is opened at the gateway; answering the request
   *   in the framework runs nothing unless the gateway's approval is given too.
   * - `hold`: the call waits for `holdMs`.
   */
  approvals?: 'tell' | 'interrupt' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** The members of a tool that the adapter reads. */
interface Tool {
  execute?: ((input: never, options: never) => unknown) | undefined;
  needsApproval?: unknown;
}

/** The second argument of a tool's functions. */
interface CallOptions {
  abortSignal?: AbortSignal;
  toolCallId?: string;
  messages?: unknown;
}

/**
 * Returns the tools with guarded `execute` functions, frozen. Pass these to `generateText`, `streamText` or an agent.
 *
 * The gateway evaluates the parsed input, and `execute` receives it. A blocked call is a tool error whose message is the text for
 * the model. Errors of `execute` are thrown unchanged. An `execute` that yields values runs inside the guard.
 *
 * @param actions - The action of each tool by its name, or `UNGUARDED`. A tool without an action is an error.
 * @throws {@link ActPassArgumentError} A tool has no action or no `execute`, or an action no tool.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardTools } from '@actpass/sdk/ai';
 *
 * const refund = { description: 'Refund a charge', execute: async (input: { amount: number }) => `refunded ${input.amount}` };
 * const tools = guardTools(new ActPass(), { refund }, {
 *   refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 * });
 * console.log(Object.keys(tools));
 * ```
 */
export function guardTools<T extends { readonly [name: string]: object }>(
  client: ActPass,
  tools: T,
  actions: { readonly [Name in keyof T]: ToolAction | typeof UNGUARDED },
  options?: GuardToolsOptions,
): Readonly<T> {
  return placing(guardTools, () => {
    const { approvals, waitForApprovalMs } = approvalsOf(options, ['tell', 'interrupt', 'hold']);
    const map = new ToolMap(client, actions);
    map.checkCoverage(Object.keys(tools), { isComplete: true });
    const precheck = approvals === 'interrupt' ? new Precheck(client, map) : undefined;
    const guard = { client, map, precheck, waitForApprovalMs };
    const guarded = Object.entries(tools).map(([name, tool]) => [name, guardTool(guard, name, tool)]);
    return Object.freeze(Object.fromEntries(guarded)) as Readonly<T>;
  });
}

/**
 * The `toolApproval` of version 7 for tools of {@link guardTools}, to combine with own rules. Without own rules it is not
 * needed: version 7 reads `needsApproval` of the tools.
 *
 * @example
 * ```ts
 * import { toolApproval } from '@actpass/sdk/ai';
 *
 * const status = await toolApproval({ toolCall: { toolName: 'refund', toolCallId: 'c', input: {} }, tools: {}, messages: [] });
 * console.log(status);
 * ```
 */
export async function toolApproval(call: {
  toolCall: { toolName: string; toolCallId: string; input: unknown };
  tools: object | undefined;
  messages: readonly unknown[];
}): Promise<'user-approval' | undefined> {
  const { toolName, toolCallId, input } = call.toolCall;
  const { needsApproval } = Object(
    Object.hasOwn(call.tools ?? {}, toolName) && Reflect.get(call.tools ?? {}, toolName),
  ) as Tool;
  const needed =
    typeof needsApproval === 'function'
      ? await needsApproval(input, { toolCallId, messages: call.messages })
      : needsApproval;
  return needed === true ? 'user-approval' : undefined;
}

/** State that the guarded tools of one call of {@link guardTools} share. */
interface Guard {
  readonly client: ActPass;
  readonly map: ToolMap;
  readonly precheck: Precheck | undefined;
  readonly waitForApprovalMs: number | undefined;
}

function guardTool({ client, map, precheck, waitForApprovalMs }: Guard, name: string, tool: Tool): object {
  if (map.lookup(name) === UNGUARDED) {
    return tool;
  }
  const { execute, needsApproval } = tool;
  if (typeof execute !== 'function') {
    throw wrongArgument(
      `tools.${name}: expected a tool with execute, found ${describe(execute)}: the provider or the client runs it, so nothing ` +
        'here can guard it; use UNGUARDED',
    );
  }
  const call = async <R>(
    input: unknown,
    options: CallOptions | undefined,
    run: (own: unknown) => R,
  ): Promise<Awaited<R>> => {
    const signal = options?.abortSignal;
    const answer = await callTool(client, map, { names: [name], args: input, run, signal, waitForApprovalMs });
    if (!answer.ran) {
      throw answer.error;
    }
    return answer.result;
  };
  const body = (own: unknown, options: CallOptions) => execute.call(tool, own as never, options as never);
  const guarded = isAsyncGenerator(execute)
    ? (input: unknown, options: CallOptions) =>
        streaming((emit) => call(input, options, (own) => drained(body(own, options), emit)))
    : (input: unknown, options: CallOptions) => call(input, options, (own) => drained(body(own, options)));
  return Object.freeze({
    ...tool,
    execute: guarded,
    ...(precheck !== undefined && {
      needsApproval: async (input: unknown, options: CallOptions) =>
        isAnswered(options) ||
        (typeof needsApproval === 'function' ? await needsApproval(input, options) : needsApproval) === true ||
        (await precheck.pending(name, input)) !== undefined,
    }),
  });
}

/**
 * Whether the messages answer an approval request for this call. Version 6 asks again after the answer and denies the call
 * if it needs no approval anymore.
 */
function isAnswered({ toolCallId, messages }: CallOptions): boolean {
  const parts = (Array.isArray(messages) ? messages : []).flatMap((message) => {
    const { content } = Object(message) as { content?: unknown };
    return Array.isArray(content) ? (content as Part[]) : [];
  });
  const requests = parts.filter((part) => part.type === 'tool-approval-request' && part.toolCallId === toolCallId);
  return parts.some(
    (part) =>
      part.type === 'tool-approval-response' && requests.some(({ approvalId }) => approvalId === part.approvalId),
  );
}

interface Part {
  type?: string;
  toolCallId?: string;
  approvalId?: string;
}

function isAsyncGenerator(execute: Function): boolean {
  return Object.prototype.toString.call(execute) === '[object AsyncGeneratorFunction]';
}

/** Returns the last value of an async iterable, or `result` itself. */
async function drained(result: unknown, emit?: (value: unknown) => Promise<void>): Promise<unknown> {
  const iterable = (await result) as AsyncIterable<unknown> | null | undefined;
  if (typeof iterable?.[Symbol.asyncIterator] !== 'function') {
    return iterable;
  }
  let last: unknown;
  for await (const value of iterable) {
    last = value;
    await emit?.(value);
  }
  return last;
}

/** Yields what `run` emits. `run` goes on when the next value is requested, and stops when the consumer stops. */
async function* streaming(run: (emit: (value: unknown) => Promise<void>) => Promise<unknown>): AsyncGenerator<unknown> {
  const stopped = new Error('the consumer stopped reading the tool');
  let wake = (): void => {};
  let resume: { go: () => void; stop: () => void } | undefined;
  const values: unknown[] = [];
  let ended = false;
  const emit = (value: unknown) =>
    new Promise<void>((go, fail) => {
      values.push(value);
      resume = { go, stop: () => fail(stopped) };
      wake();
    });
  const running = run(emit).finally(() => {
    ended = true;
    wake();
  });
  running.catch(() => {});
  try {
    for (;;) {
      if (values.length === 0 && !ended) {
        await new Promise<void>((go) => (wake = go));
      }
      if (values.length === 0) {
        await running;
        return;
      }
      yield values.shift();
      resume?.go();
    }
  } finally {
    resume?.stop();
  }
}
