/**
 * An API key that is bound to a private key (DPoP): with the private key it works, and a thief's copy does not.
 *
 * Nonces of the gateway are on, so the first request is repeated with one.
 *
 * Usage: bound-key.mjs GATEWAY POLICY, the paths of the program `actpass-gateway` and of a policy such as `policies/dev.json`.
 */

import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { ActPass, dpopThumbprint } from '@actpass/sdk';
import { withSettings } from './gateway.mjs';

/** Refunds with both keys, with the API key alone, and with the API key and another private key. */
async function main(gateway, policy) {
  const apiKey = `apk_${randomBytes(32).toString('hex')}`;
  const [own, foreign] = [newKey(), newKey()];
  await withSettings(gateway, settings(apiKey, dpopThumbprint(own), policy), async (baseUrl) => {
    for (const [holder, dpopKey] of [
      ['agent', own],
      ['thief without a key', undefined],
      ['thief with a key', foreign],
    ]) {
      const actpass = new ActPass({ apiKey, agentId: 'support_agent', baseUrl, dpopKey });
      const { decision, result } = await actpass.guard({
        goal: 'resolve_refund_request',
        tool: 'stripe.refund.create',
        resource: 'stripe:charge:ch_1',
        args: { amount: 4900, currency: 'usd' },
        recordOutcome: true,
        execute: () => 'refunded',
      });
      console.log(holder.padEnd(20), decision.reason_code.padEnd(24), result ?? 'did not run');
    }
  });
}

/** Creates a private key in PEM. */
function newKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
}

/** The gateway's settings with one key, which is bound. */
function settings(apiKey, thumbprint, policy) {
  const hash = createHash('sha256').update(apiKey).digest('hex');
  return `dpop_nonce = true
[[tenants]]
id = "acme"
policy = ${JSON.stringify(policy)}
[[keys]]
name = "support-agent"
hash = "sha256:${hash}"
tenant = "acme"
role = "agent"
agent = "support_agent"
dpop_jkt = "${thumbprint}"
`;
}

const [gateway, policy] = process.argv.slice(2);
if (policy === undefined) {
  console.error('usage: bound-key.mjs GATEWAY POLICY');
  process.exit(2);
}
await main(gateway, policy);
