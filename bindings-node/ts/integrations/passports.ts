/** Passports at the server's side: a call of a tool runs only with a passport that was issued for this server. */

import type { ActPass } from '../client.js';
import { partsOf } from '../connection.js';
import { Site } from '../errors.js';
import { describe, joined, type Members, toMembers, wrongArgument } from '../json.js';
import { TOOL_ACTION } from '../options.js';
import type { BlockedOutcome, GuardOutcome } from '../outcome.js';
import { refusedOutcome } from '../report.js';
import { checkedAction } from '../action.js';
import type { ExecutionContext, ToolAction } from '../types.js';
import { MappedTool, placing, runGuarded, type RunOptions } from './common.js';

/** The member of a call's `_meta` that carries the passport. */
export const PASSPORT_META = 'actpass/passport';

/** The members of the action that a passport determines, or the outcome of an invalid one. */
type Presented = { refused: BlockedOutcome } | { refused: undefined; members: Members };

/**
 * Runs actions only with a passport for one audience, the name of this server: for MCP servers written by hand.
 *
 * The goal, the agent and the user of the action are those of the passport; a goal or user of the tool's action is ignored. A
 * call is refused without a passport (`passport.missing`), if the passport is invalid, is for another audience or has expired
 * (without a request to the gateway), and by the gateway if the passport does not permit the tool, the resource or the arguments,
 * was used before or was revoked, or if the policy denies the action. The client's API key must not be bound to an agent.
 *
 * @throws {@link ActPassArgumentError} An argument is invalid, or the client's mode does not spend passports: expected `enforce`
 * or `strict`.
 *
 * @example
 * ```ts
 * import { ActPass } from '@actpass/sdk';
 * import { PassportGuard, passportOf } from '@actpass/sdk/mcp';
 *
 * const guard = new PassportGuard(new ActPass(), 'mcp://stripe');
 * const action = { tool: 'stripe.refund.create' };
 * const refund = (args: { amount: number }, meta?: object) =>
 *   guard.run(passportOf(meta), action, args, ({ amount }) => `refunded ${amount}`);
 * console.log(typeof refund);
 * ```
 */
export class PassportGuard {
  readonly #client: ActPass;
  readonly #audience: string;

  constructor(client: ActPass, audience: string) {
    this.#client = client;
    this.#audience = audience;
    placing(PassportGuard, () => {
      if (typeof audience !== 'string' || audience === '') {
        throw wrongArgument(`audience: expected a non-empty string, found ${describe(audience)}`);
      }
      this.#checkMode(undefined);
    });
  }

  /**
   * Runs `execute` with a copy of `args` if `passport` and the decision permit the call.
   *
   * @param passport - The passport that the call presents; `undefined` if it is missing.
   * @returns The outcome of the guard.
   * @throws {@link ActPassError} The gateway's keys are not available. Nothing has run.
   */
  async run<A extends object, T>(
    passport: string | undefined,
    action: ToolAction,
    args: A,
    execute: (args: A, context: ExecutionContext) => T,
  ): Promise<GuardOutcome<Awaited<T>>> {
    const mapped = placing(this.run, () => new MappedTool(checkedAction(this.#client, toMembers(action, TOOL_ACTION))));
    return this.runMapped(passport, mapped, args, execute, {});
  }

  /** @internal {@link run} for an adapter. */
  async runMapped<A, T>(
    passport: string | undefined,
    tool: MappedTool,
    args: A,
    execute: (args: A, context: ExecutionContext) => T,
    options: RunOptions,
  ): Promise<GuardOutcome<Awaited<T>>> {
    this.#checkMode(tool.action['mode']);
    const presented = await this.#presented(passport, tool.tool);
    if (presented.refused !== undefined) {
      return presented.refused;
    }
    return runGuarded(this.#client, tool, args, execute, { ...options, presented: presented.members });
  }

  /** Returns the members of the action that the passport determines, or the outcome of an invalid passport. */
  async #presented(passport: string | undefined, tool: string): Promise<Presented> {
    const refused = (errors: string[]) => ({
      refused: refusedOutcome({ operation: 'guard', site: new Site(this.run) }, tool, errors),
    });
    if (!passport) {
      return refused([]);
    }
    const audience = this.#audience;
    const { valid, claims, errors = [] } = await this.#client.verifyPassportOffline({ token: passport, audience });
    if (!valid || !claims) {
      return refused(errors.length > 0 ? [...errors] : ['passport.malformed']);
    }
    const text = (name: string) => (typeof claims[name] === 'string' ? claims[name] : undefined);
    const named = { goal: text('goal'), agentId: text('agent_id') ?? '', userId: text('user_id') };
    return { refused: undefined, members: joined(named, { passport, audience }) };
  }

  #checkMode(mode: unknown): void {
    const { connection, defaults } = partsOf(this.#client);
    const chosen = mode ?? defaults['mode'] ?? connection.mode;
    if (chosen !== 'enforce' && chosen !== 'strict') {
      throw wrongArgument(
        `mode: expected enforce or strict, found ${String(chosen)}: other modes do not spend passports`,
      );
    }
  }
}

/**
 * Returns the passport of a call: the `actpass/passport` of its `_meta`, else `Authorization: Bearer` of the HTTP request.
 *
 * @param meta - The `_meta` of the call, such as `extra._meta`.
 * @param headers - The headers by lower-case name, such as `extra.requestInfo?.headers`.
 *
 * @example
 * ```ts
 * import { passportOf } from '@actpass/sdk/mcp';
 *
 * console.log(passportOf({ 'actpass/passport': 'eyJ…' }), passportOf(undefined, { authorization: 'Bearer eyJ…' }));
 * ```
 */
export function passportOf(
  meta: object | undefined,
  headers?: { readonly [name: string]: string | string[] | undefined },
): string | undefined {
  const carried = (meta as { [name: string]: unknown } | undefined)?.[PASSPORT_META];
  if (carried !== undefined) {
    return typeof carried === 'string' ? carried : undefined;
  }
  const header = headers?.['authorization'];
  const [, token] = /^bearer +(\S+) *$/i.exec(typeof header === 'string' ? header : '') ?? [];
  return token;
}
