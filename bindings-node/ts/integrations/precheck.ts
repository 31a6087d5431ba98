/** The preflights of an adapter before its framework pauses a call. */

import type { ActPass } from '../client.js';
import { partsOf } from '../connection.js';
import { Template } from '../template.js';
import type { Mode, PreflightOptions } from '../types.js';
import { type ToolMap, UNGUARDED } from './common.js';

/** Members of an action that a preflight takes. */
const MEMBERS = ['goal', 'tool', 'args', 'resource', 'userId', 'passport', 'audience', 'toolManifestHash'] as const;

/**
 * @internal Finds out whether a call needs a pause for a human approval, and opens that approval.
 *
 * A pause gives no permission: the call that executes requests its own decision. So a failure here means no pause.
 */
export class Precheck {
  readonly #client: ActPass;
  readonly #tools: ToolMap;

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
    const { connection, defaults } = partsOf(client);
    const mode = (action['mode'] ?? defaults['mode'] ?? connection.mode) as Mode;
    if (mode !== 'enforce' && mode !== 'strict') {
      return undefined;
    }
    const sent = valueOf(action['args'], args, args) ?? args ?? {};
    const members = Object.fromEntries(
      MEMBERS.map((member) => [member, member === 'args' ? sent : valueOf(action[member], args, sent)]),
    ) as unknown as PreflightOptions;
    // In `monitor`, the gateway opens and spends no approval, and claims no budget.
    const seen = await client.preflight({ ...members, mode: 'monitor' });
    const opens = seen.decision === 'require_approval' && seen.approval_request_id === undefined;
    const found = opens ? await client.preflight({ ...members, mode }) : seen;
    return found.decision === 'require_approval' ? found.approval_request_id : undefined;
  }
}

function valueOf(member: unknown, args: unknown, sent: unknown): unknown {
  if (Template.is(member)) {
    return member.fill([sent, args]);
  }
  return typeof member === 'function' ? (member as (args: unknown) => unknown)(args) : member;
}
