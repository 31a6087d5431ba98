/**
 * Guards tools of Mastra (`@mastra/core`).
 *
 * @module @actpass/sdk/mastra
 */

import type { ActPass } from '../client.js';
import { describe, wrongArgument } from '../json.js';
import type { ToolAction } from '../types.js';
import { callTool } from './call.js';
import { approvalsOf, type Parsed, placing, type Same, ToolMap } from './common.js';

/**
 * Options of {@link guardTool}.
 *
 * - `approvals: 'tell'` (default): the tool's error states that the action is pending.
 * - `interrupt`: the run is suspended with a {@link PendingSuspension}; `agent.resumeGenerate(data, { runId })`, with any
 *   data, requests a decision on this approval. Where Mastra cannot suspend, it is as `tell`.
 * - `hold`: the call waits for `holdMs`.
 */
export interface GuardToolOptions {
  /** Treatment of an action that needs a human approval. Default: `tell`. */
  approvals?: 'tell' | 'interrupt' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** The payload of a suspended call: JSON. */
export interface PendingSuspension {
  /** The approval that the call waits for. */
  approval_request_id: string;
  /** The id of the tool. */
  tool: string;
}

interface Suspendable {
  readonly suspend?: (payload: PendingSuspension) => Promise<unknown>;
  readonly suspendPayload?: { readonly approval_request_id?: unknown };
}

interface Context {
  readonly abortSignal?: AbortSignal;
  readonly agent?: Suspendable;
  readonly workflow?: Suspendable;
}

interface Options {
  readonly id?: unknown;
  execute?: unknown;
}

/**
 * Returns options with a guarded `execute` for `createTool`. Guarding the options, not the finished tool, puts the guard behind
 * the tool's schema: the gateway evaluates the parsed input, and `execute` receives it.
 *
 * A blocked call throws an error whose message is the text for the model; Mastra makes a tool error of it. Errors of `execute`
 * are thrown unchanged.
 *
 * @param tool - The options of `createTool`, with `id` and `execute`.
 * @throws {@link ActPassArgumentError} The tool has no `id` or no `execute`, or its action is invalid.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardTool } from '@actpass/sdk/mastra';
 *
 * const options = guardTool(
 *   new ActPass(),
 *   { id: 'refund', description: 'Refund a charge', execute: async (input: { amount: number }) => `refunded ${input.amount}` },
 *   { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 * );
 * console.log(options.id);
 * ```
 */
export function guardTool<T extends { readonly id: string }, S = unknown>(
  client: ActPass,
  tool: T & { readonly inputSchema?: S; readonly execute?: (input: Parsed<S>, context: any) => unknown },
  action: ToolAction,
  options?: GuardToolOptions,
): Same<T> {
  return placing(guardTool, () => {
    const { approvals, waitForApprovalMs } = approvalsOf(options, ['tell', 'interrupt', 'hold']);
    const { id, execute } = Object(tool) as Options;
    if (typeof id !== 'string' || typeof execute !== 'function') {
      throw wrongArgument(`tool: expected the options of createTool with id and execute, found ${describe(tool)}`);
    }
    const map = new ToolMap(client, { [id]: action });
    const guarded = async (input: unknown, context: Context | undefined): Promise<unknown> => {
      const { suspend, suspendPayload } = context?.agent ?? context?.workflow ?? {};
      const approval = suspendPayload?.approval_request_id;
      const answer = await callTool(client, map, {
        names: [id],
        args: input,
        run: (own) => execute.call(tool, own, context) as unknown,
        approvalRequestId: typeof approval === 'string' ? approval : undefined,
        signal: context?.abortSignal,
        waitForApprovalMs,
      });
      if (answer.ran) {
        return answer.result;
      }
      if (approvals === 'interrupt' && answer.approval !== undefined && suspend !== undefined) {
        return suspend({ approval_request_id: answer.approval, tool: id });
      }
      throw answer.error;
    };
    return { ...tool, execute: guarded } as Same<T>;
  });
}
