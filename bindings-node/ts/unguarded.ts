/**
 * In place of a {@link ToolAction}: the tool runs without a decision. Tools without an action are denied, so an exempt tool is
 * named.
 *
 * @example
 * ```ts
 * import { UNGUARDED, type ToolAction } from '@actpass/sdk';
 *
 * const actions: { [tool: string]: ToolAction | typeof UNGUARDED } = {
 *   refund: { tool: 'stripe.refund.create', goal: 'resolve_refund_request' },
 *   current_time: UNGUARDED,
 * };
 * console.log(actions.current_time === UNGUARDED);
 * ```
 */
export const UNGUARDED: unique symbol = Symbol.for('@actpass/sdk.unguarded') as never;
