/** The program of every environment: an allowed refund and a denied refund. */

import { ActPass } from '@actpass/sdk';

export async function probe() {
  const actpass = new ActPass();
  const ran = [];
  const refund = (amount) =>
    actpass.guard({
      goal: 'resolve_refund_request',
      tool: 'stripe.refund.create',
      args: { amount, currency: 'usd' },
      execute: async () => {
        ran.push(amount);
        return amount;
      },
    });
  const allowed = await refund(4900);
  const denied = await refund(90000);
  return JSON.stringify({ result: allowed.result, denied: denied.decision.reason_code, ran });
}
