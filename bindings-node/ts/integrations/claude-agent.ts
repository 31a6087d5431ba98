/**
 * Guards the tools of the Claude Agent SDK (`@anthropic-ai/claude-agent-sdk`): its in-process tools around their execution, and
 * all others by a hook.
 *
 * @module @actpass/sdk/claude-agent
 */

import type { ActPass } from '../client.js';
import { describe, wrongArgument } from '../json.js';
import type { ToolAction, ToolActions } from '../types.js';
import { callTool } from './call.js';
import { approvalsOf, placing, ToolMap, UNGUARDED } from './common.js';

/**
 * Options of {@link guardTool} and {@link preToolUse}. With `approvals: 'tell'` (default) the denial states that the action is
 * pending, and the same call after the approval runs. With `hold` the call waits for `holdMs`.
 */
export interface GuardOptions {
  /** Treatment of an action that needs a human approval. Default: `tell`. */
  approvals?: 'tell' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** The matcher that {@link preToolUse} returns. */
export interface PreToolUseMatcher {
  /** One callback for all tools. */
  hooks: ((
    input: { hook_event_name: string },
    toolUseId: string | undefined,
    options: { signal: AbortSignal },
  ) => Promise<PreToolUseAnswer>)[];
  /** The time for the callback in seconds, if calls are held. */
  timeout?: number;
  /** A callback that fails or times out blocks the tool. */
  onFailure: 'block';
}

/** The answer of the hook: empty if the call may go on to the user's own permissions. */
export interface PreToolUseAnswer {
  /** The denial. */
  hookSpecificOutput?: {
    hookEventName: 'PreToolUse';
    permissionDecision: 'deny';
    permissionDecisionReason: string;
  };
}

/** Seconds for the decision, in addition to the wait for an approval. */
const ANSWER_SECONDS = 60;

interface Tool {
  readonly name?: unknown;
  handler?: unknown;
}

/**
 * Returns a copy of an in-process tool with a guarded handler, for `createSdkMcpServer`.
 *
 * The gateway evaluates the input after the tool's schema has parsed it. A blocked call is a result with `isError` and the text for
 * the model. Errors of the handler are thrown unchanged. In {@link preToolUse} such a tool is `UNGUARDED`, which causes
 * one decision for each call.
 *
 * @param tool - The result of `tool()`.
 * @throws {@link ActPassArgumentError} The tool has no name or no handler, or its action is invalid.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardTool } from '@actpass/sdk/claude-agent';
 *
 * const refund = { name: 'refund', handler: async (_input: { amount: number }) => ({ content: [] }) };
 * const guarded = guardTool(new ActPass(), refund, { tool: 'stripe.refund.create', goal: 'resolve_refund_request' });
 * console.log(guarded.name);
 * ```
 */
export function guardTool<T extends { readonly name: string }>(
  client: ActPass,
  tool: T,
  action: ToolAction,
  options?: GuardOptions,
): T {
  return placing(guardTool, () => {
    const { waitForApprovalMs } = approvalsOf(options, ['tell', 'hold']);
    const { name, handler } = Object(tool) as Tool;
    if (typeof name !== 'string' || typeof handler !== 'function') {
      throw wrongArgument(`tool: expected a tool with name and handler, found ${describe(tool)}`);
    }
    const map = new ToolMap(client, { [name]: action });
    const guarded = async (args: unknown, extra: { signal?: AbortSignal } | undefined): Promise<unknown> => {
      const run = (own: unknown) => handler.call(tool, own, extra) as unknown;
      const answer = await callTool(client, map, {
        names: [name],
        args,
        run,
        signal: extra?.signal,
        waitForApprovalMs,
      });
      return answer.ran ? answer.result : { isError: true, content: [{ type: 'text', text: answer.text }] };
    };
    return { ...tool, handler: guarded };
  });
}

/**
 * Returns a matcher for `hooks: { PreToolUse: [matcher] }` that requests a decision before every call of a tool of Claude Code, of
 * an MCP server or of a sub-agent. A tool without an action is denied.
 *
 * The hook decides before the call; Claude Code executes it. Other hooks can still change the input (`updatedInput`): do not
 * use such hooks for these tools. With `recordOutcome` it is recorded that the call was let through. A permitted call goes on to
 * the user's own permissions.
 *
 * @param actions - The action of each tool by its name in Claude Code, such as `Bash` or `mcp__payments__refund`, or
 * `UNGUARDED`.
 * @throws {@link ActPassArgumentError} `actions` or `options` are invalid.
 *
 * @example
 * ```ts
 * import { ActPass, UNGUARDED } from '@actpass/sdk';
 * import { preToolUse } from '@actpass/sdk/claude-agent';
 *
 * const hooks = {
 *   PreToolUse: [
 *     preToolUse(new ActPass(), {
 *       Bash: { tool: 'shell.run', goal: 'fix_the_build' },
 *       Read: UNGUARDED,
 *     }),
 *   ],
 * };
 * console.log(hooks.PreToolUse.length);
 * ```
 */
export function preToolUse(client: ActPass, actions: ToolActions, options?: GuardOptions): PreToolUseMatcher {
  return placing(preToolUse, () => {
    const { waitForApprovalMs } = approvalsOf(options, ['tell', 'hold']);
    const map = new ToolMap(client, actions);
    const decide: PreToolUseMatcher['hooks'][number] = async (input, _toolUseId, { signal }) => {
      const { tool_name: name, tool_input: args } = input as { tool_name?: unknown; tool_input?: unknown };
      if (typeof name !== 'string') {
        return denied('The call was not run: the hook got no tool.');
      }
      if (map.lookup(name) === UNGUARDED) {
        return {};
      }
      try {
        const call = { names: [name] as const, args, run: () => undefined, signal, waitForApprovalMs };
        const answer = await callTool(client, map, call);
        return answer.ran ? {} : denied(answer.text);
      } catch (error) {
        return denied(`${name} was not run: ${error instanceof Error ? error.message : String(error)}`);
      }
    };
    const timeout =
      waitForApprovalMs === undefined ? {} : { timeout: Math.ceil(waitForApprovalMs / 1000) + ANSWER_SECONDS };
    return { hooks: [decide], ...timeout, onFailure: 'block' };
  });
}

function denied(permissionDecisionReason: string): PreToolUseAnswer {
  return {
    hookSpecificOutput: { hookEventName: 'PreToolUse', permissionDecision: 'deny', permissionDecisionReason },
  };
}
