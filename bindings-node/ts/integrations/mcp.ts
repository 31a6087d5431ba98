/**
 * Guards tools at the boundary of the Model Context Protocol (`@modelcontextprotocol/sdk`): in a server, or in a client.
 *
 * @module @actpass/sdk/mcp
 */

import type { ActPass } from '../client.js';
import { describe, wrongArgument } from '../json.js';
import type { ToolActions } from '../types.js';
import { callTool } from './call.js';
import { approvalsOf, placing, ToolMap } from './common.js';
import { PassportGuard, passportOf } from './passports.js';

export { PASSPORT_META, PassportGuard, passportOf } from './passports.js';

/**
 * Options of {@link guardServer} and {@link guardClient}.
 *
 * The protocol has no pause. With `approvals: 'tell'` (default) a pending approval is the tool's error, and the same call after
 * the approval runs. With `hold` the call waits for `holdMs`; if the client's own timeout passes earlier, nothing runs.
 */
export interface GuardMcpOptions {
  /** Treatment of an action that needs a human approval. Default: `tell`. */
  approvals?: 'tell' | 'hold' | undefined;
  /** The longest wait of `hold` in milliseconds, at most 30 days. */
  holdMs?: number | undefined;
}

/** Options of {@link guardServer}. */
export interface GuardMcpServerOptions extends GuardMcpOptions {
  /**
   * The audience of passports, such as `mcp://payments`: a tool with an action runs only with a passport for it, once, in the
   * `actpass/passport` of the call's `_meta` or in `Authorization`. See {@link PassportGuard}.
   */
  requirePassport?: string | undefined;
}

interface Extra {
  readonly signal?: AbortSignal;
  readonly _meta?: object;
  readonly requestInfo?: { readonly headers: { readonly [name: string]: string | string[] | undefined } };
}

interface RegisteredTool {
  update(updates: { name?: string | null; callback?: unknown }): void;
}

interface Server {
  registerTool(name: string, config: { inputSchema?: unknown }, callback: unknown): RegisteredTool;
  tool?(name: string, ...rest: unknown[]): RegisteredTool;
  readonly experimental?: { readonly tasks?: { registerToolTask?: unknown } };
  readonly _registeredTools?: object;
}

interface Request {
  readonly method: string;
  readonly params?: { readonly name?: unknown; readonly arguments?: object };
}

type Send = (request: Request, schema: unknown, options?: Extra) => Promise<unknown>;

/**
 * Makes an `McpServer` guard every tool that is registered afterwards, and returns it.
 *
 * The gateway evaluates the arguments after the tool's schema has parsed them. A blocked call is a result with `isError` and the
 * text for the model. Errors of the tool reach the server unchanged. A tool without an action is denied.
 *
 * @param actions - The action of each tool by its name, or `UNGUARDED`.
 * @throws {@link ActPassArgumentError} The server has tools already, which could not be guarded.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardServer } from '@actpass/sdk/mcp';
 *
 * const register = (server: { registerTool(name: string, config: object, callback: never): never }) =>
 *   guardServer(new ActPass(), server, { refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' } });
 * console.log(typeof register);
 * ```
 */
export function guardServer<S extends { registerTool(name: string, config: never, callback: never): unknown }>(
  client: ActPass,
  server: S,
  actions: ToolActions,
  options: GuardMcpServerOptions = {},
): S {
  return placing(guardServer, () => {
    const { requirePassport, ...others } = options;
    const passports = requirePassport === undefined ? undefined : new PassportGuard(client, requirePassport);
    const guard = { ...prepared(client, actions, others), passports };
    const target = server as unknown as Server;
    if (typeof target?.registerTool !== 'function') {
      throw wrongArgument(`server: expected an McpServer, found ${describe(server)}`);
    }
    const present = Object.keys(target._registeredTools ?? {});
    if (present.length > 0) {
      throw wrongArgument(
        `server: expected a server without tools, found ${present.join(', ')}: register them afterwards`,
      );
    }
    const { registerTool, tool, experimental } = target;
    target.registerTool = (name, config, callback) => {
      const { current, wrap } = guarding(guard, name, config.inputSchema !== undefined);
      return watched(registerTool.call(target, name, config, wrap(callback)), current, wrap);
    };
    if (tool !== undefined) {
      target.tool = (name, ...rest) => {
        const { current, wrap } = guarding(guard, name);
        const callback = wrap(rest.at(-1));
        return watched(tool.call(target, name, ...rest.slice(0, -1), callback), current, wrap);
      };
    }
    if (experimental?.tasks?.registerToolTask !== undefined) {
      experimental.tasks.registerToolTask = (name: unknown) => {
        throw wrongArgument(
          `server: expected tools that are not tasks, found ${String(name)}, which nothing here can guard`,
        );
      };
    }
    return server;
  });
}

/**
 * Makes an MCP `Client` guard its tool calls, and returns it: `callTool`, `request` and tasks. Use it for servers that are not
 * yours; the server itself stays open to other clients.
 *
 * The gateway evaluates the arguments that are sent. A blocked call resolves with a result with `isError`.
 *
 * @throws {@link ActPassArgumentError} `actions` or `options` are invalid.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { guardClient } from '@actpass/sdk/mcp';
 *
 * const mcp = { request: async () => ({}) };
 * guardClient(new ActPass(), mcp, { refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' } });
 * ```
 */
export function guardClient<C extends { request(...args: never[]): Promise<unknown> }>(
  client: ActPass,
  mcp: C,
  actions: ToolActions,
  options?: GuardMcpOptions,
): C {
  return placing(guardClient, () => {
    const guard = prepared(client, actions, options);
    const target = mcp as unknown as { request: Send };
    if (typeof target?.request !== 'function') {
      throw wrongArgument(`mcp: expected an MCP client, found ${describe(mcp)}`);
    }
    const { request } = target;
    // Every call of a tool is sent by this method.
    target.request = (message, schema, sending) => {
      if (message.method !== 'tools/call') {
        return request.call(target, message, schema, sending);
      }
      const { name, arguments: args = {} } = message.params ?? {};
      const run = (own: object) =>
        request.call(target, { ...message, params: { ...message.params, arguments: own } }, schema, sending);
      return answered(guard, String(name), args, { ...(sending?.signal && { signal: sending.signal }) }, run);
    };
    return mcp;
  });
}

interface Guard {
  readonly client: ActPass;
  readonly map: ToolMap;
  readonly waitForApprovalMs: number | undefined;
  readonly passports?: PassportGuard | undefined;
}

function prepared(client: ActPass, actions: ToolActions, options: GuardMcpOptions | undefined): Guard {
  const { waitForApprovalMs } = approvalsOf(options, ['tell', 'hold']);
  return { client, map: new ToolMap(client, actions), waitForApprovalMs };
}

/** Calls a tool; a block is a result of the protocol. */
async function answered<T>(
  { client, map, waitForApprovalMs, passports }: Guard,
  name: string,
  args: object,
  { signal, _meta, requestInfo }: Extra,
  run: (own: object) => T,
): Promise<Awaited<T> | { isError: true; content: { type: 'text'; text: string }[] }> {
  const presented = passports && { guard: passports, passport: passportOf(_meta, requestInfo?.headers) };
  const answer = await callTool(client, map, {
    names: [name],
    args,
    run,
    signal,
    waitForApprovalMs,
    passports: presented,
  });
  return answer.ran ? answer.result : { isError: true, content: [{ type: 'text', text: answer.text }] };
}

/** The present name of a tool. */
interface Current {
  name: string;
}

/** Returns a function that guards a tool's callbacks, which take arguments if the tool has a schema. */
function guarding(guard: Guard, name: string, hasSchema?: boolean) {
  const current: Current = { name };
  const wrap = (callback: unknown) => {
    if (typeof callback !== 'function') {
      throw wrongArgument(`callback: expected a function, found ${describe(callback)}`);
    }
    return (...given: unknown[]) => {
      const takesArgs = hasSchema ?? given.length > 1;
      const [args, extra] = takesArgs ? (given as [object, Extra]) : [{}, given[0] as Extra];
      const run = (own: object): unknown => callback(...(takesArgs ? [own, extra] : [extra]));
      return answered(guard, current.name, args, extra, run);
    };
  };
  return { current, wrap };
}

/** Guards the callbacks of later updates, and follows the tool's name. */
function watched(registered: RegisteredTool, current: Current, wrap: (callback: unknown) => unknown): RegisteredTool {
  const { update } = registered;
  registered.update = (updates) => {
    const { name, callback } = updates;
    update.call(registered, { ...updates, ...(callback !== undefined && { callback: wrap(callback) }) });
    if (typeof name === 'string') {
      current.name = name;
    }
  };
  return registered;
}
