/**
 * An agent creates ten refunds. A person stops it in the middle: the refund in progress is finished, and no other begins.
 *
 * The function reads `halt` between two refunds, because half a refund is worse than a whole one; the pause between them ends
 * early, because it gets the signal. Afterwards the stop is lifted, and the rest is refunded.
 *
 * Usage: stopped-refunds.mjs GATEWAY, the path of the program `actpass-gateway`.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { ActPass } from '@actpass/sdk';
import { withGateway } from './gateway.mjs';

const CHARGES = Array.from({ length: 10 }, (_, at) => `ch_${at + 1}`);

/** Refunds ten charges, with a stop after the fourth. */
async function main(gateway) {
  await withGateway(gateway, async (baseUrl) => {
    const actpass = new ActPass({ apiKey: 'apk_dev', agentId: 'support_agent', baseUrl });
    const refunded = [];
    let halt;
    const stopAfterFourth = async () => {
      if (refunded.length === 4) {
        const stop = { scope: 'agent', id: 'support_agent', reason: 'amounts are wrong' };
        halt = await operate(baseUrl, 'POST', '/api/v1/halts', stop);
      }
    };
    report(await refundAll(actpass, refunded, stopAfterFourth));
    // The same agent asks again, and is denied with the person's reason.
    report(await refundAll(actpass, refunded, () => {}));
    await operate(baseUrl, 'DELETE', `/api/v1/halts/${halt.id}`, { reason: 'amounts are corrected' });
    report(await refundAll(actpass, refunded, () => {}));
  });
}

/** Refunds every charge that is not refunded, in one guarded action, until a person stops it. */
function refundAll(actpass, refunded, refundMade) {
  return actpass.guard({
    goal: 'resolve_refund_request',
    tool: 'stripe.refund.create',
    resource: 'stripe:batch:october',
    args: { amount: 4900, currency: 'usd' },
    execute: async ({ halt }) => {
      for (const charge of CHARGES.slice(refunded.length)) {
        // The payment provider allows two refunds a second.
        await sleep(500, undefined, { signal: halt }).catch(() => {});
        if (halt.aborted) {
          return `stopped after ${refunded.length} of ${CHARGES.length} refunds`;
        }
        refunded.push(charge);
        await refundMade();
      }
      return `${refunded.length} of ${CHARGES.length} refunds`;
    },
  });
}

/** Prints a row about an outcome. */
function report({ decision, result }) {
  console.log(decision.decision.padEnd(6), decision.reason_code.padEnd(22), result ?? decision.explain.summary);
}

/** Sends a request with the operator's key. */
async function operate(baseUrl, method, path, body) {
  const headers = { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' };
  const answer = await fetch(baseUrl + path, { method, headers, body: JSON.stringify(body) });
  if (!answer.ok) {
    throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  }
  return answer.json();
}

if (process.argv.length !== 3) {
  console.error('usage: stopped-refunds.mjs GATEWAY');
  process.exit(2);
}
await main(process.argv[2]);
