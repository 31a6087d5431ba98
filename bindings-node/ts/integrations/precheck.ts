/** The preflights of an adapter before its framework pauses a call. */

import type { ActPass } from '../client.js';
import { partsOf } from '../connection.js';
import { Template } from '../template.js';
import type { Mode, PreflightOptions } from '../types.js';
import { type ToolMap, UNGUARDED } from './common.js';

/** The largest number of remembered approvals. */
const REMEMBERED = 1000;
/** Members of an action that a preflight takes. */
const MEMBERS = ['goal', 'tool', 'args', 'resource', 'userId', 'passport', 'audience', 'toolManifestHash'] as const;

/** Defaults of a scope that belong to the action. */
const OF_SCOPE = ['goal', 'userId', 'passport', 'audience'] as const;

/**
 * @internal Finds out whether a call needs a pause for a human approval, and opens that approval.
 *
 * A pause gives no permission: the call that executes requests its own decision. So a failure here means no pause.
 * The first preflight is in `monitor`, which neither spends an approval nor charges a budget.
 */
export class Precheck {
  readonly #client: ActPass;
  readonly #tools: ToolMap;
  /** The ids of approvals by their actions, the oldest first. */
  readonly #pending = new Map<string, string>();

  constructor(client: ActPass, tools: ToolMap) {
    this.#client = client;
    this.#tools = tools;
  }

  /** Returns the id of the approval that a call has to wait for. */
  async pending(name: string, args: unknown): Promise<string | undefined> {
    try {
      return await this.#ask(name, args);
    } catch {
      return undefined;
    }
  }

  async #ask(name: string, args: unknown): Promise<string | undefined> {
    const mapped = this.#tools.lookup(name);
    if (mapped === undefined || mapped === UNGUARDED) {
      return undefined;
    }
    const client = this.#client;
    const { action } = mapped;
    const sent = valueOf(action['args'], args, args) ?? args ?? {};
    const members = Object.fromEntries(
      MEMBERS.map((member) => [member, member === 'args' ? sent : valueOf(action[member], args, sent)]),
    ) as unknown as PreflightOptions;
    const scope = partsOf(client).connection.scope?.getStore();
    const key = JSON.stringify([members, OF_SCOPE.map((member) => scope?.[member])]);
    const known = this.#pending.get(key);
    if (known !== undefined) {
      const { status } = await client.waitForApproval(known);
      if (status === 'pending') {
        return known;
      }
      this.#pending.delete(key);
      if (status === 'approved') {
        return undefined;
      }
    }
    const { decision } = await client.preflight({ ...members, mode: 'monitor' });
    if (decision !== 'require_approval') {
      return undefined;
    }
    // Opens no approval in `monitor` and `warn`. An approval that was given since the first preflight is spent here.
    const opened = await client.preflight({ ...members, mode: action['mode'] as Mode | undefined });
    if (opened.decision !== 'require_approval' || opened.approval_request_id === undefined) {
      return undefined;
    }
    this.#pending.set(key, opened.approval_request_id);
    const [oldest] = this.#pending.keys();
    if (this.#pending.size > REMEMBERED && oldest !== undefined) {
      this.#pending.delete(oldest);
    }
    return opened.approval_request_id;
  }
}

function valueOf(member: unknown, args: unknown, sent: unknown): unknown {
  if (Template.is(member)) {
    return member.fill([sent, args]);
  }
  return typeof member === 'function' ? (member as (args: unknown) => unknown)(args) : member;
}
