/** The smoke set of a host: a decision of each kind by the real gateway, then gateways that misbehave. */

/**
 * Returns the results as JSON text. `sdk` is the package; `gateways` has the URL of the real gateway, of one that redirects, of one whose
 * body hangs, and of one whose body is too large.
 */
export async function smoke({ ActPass, hashPayload }, { real, redirect, hang, oversize }) {
  const settings = { apiKey: 'apk_dev', dangerAllowBrowser: true, maxRetries: 0 };
  const ran = [];
  const guard = async (baseUrl, amount, options = {}) => {
    const actpass = new ActPass({ ...settings, baseUrl, ...options });
    // The README's snippet.
    return actpass.guard({
      goal: 'resolve_refund_request',
      tool: 'stripe.refund.create',
      resource: 'stripe:charge:ch_123',
      args: { amount, currency: 'usd' },
      execute: async () => {
        ran.push(amount);
        return amount;
      },
    });
  };
  const allowed = await guard(real, 4900);
  const denied = await guard(real, 90_000);
  const pending = await guard(real, 25_000);
  const id = pending.approval?.approval_request_id;
  const decided = await fetch(`${real}/api/v1/approvals/${id}/approve`, {
    method: 'POST',
    headers: { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' },
    body: '{}',
  });
  const actpass = new ActPass({ ...settings, baseUrl: real });
  const resumed = await actpass.resume(pending.approval, {
    execute: () => {
      ran.push('approved');
      return 'approved';
    },
  });
  const audience = 'mcp://smoke';
  const { token } = await actpass.issuePassport({ audience, goal: 'g', allowedTools: ['stripe.refund.create'] });
  const passport = await actpass.verifyPassportOffline({ token, audience });
  let refused = '';
  try {
    new ActPass({ ...settings, baseUrl: real, ca: 'any' });
  } catch (error) {
    refused = `${error.name} ${error.message.slice(0, error.message.indexOf(':'))}`;
  }
  return JSON.stringify({
    engine: actpass.engine,
    allow: allowed.result,
    deny: denied.decision.reason_code,
    approval: [pending.decision.decision, decided.status, resumed.result],
    redirect: (await guard(redirect, 1)).decision.reason_code,
    hang: (await guard(hang, 2, { timeoutMs: 400 })).decision.reason_code,
    oversize: (await guard(oversize, 3)).decision.reason_code,
    passport: passport.valid,
    refused,
    hash: hashPayload({ amount: 4900 }),
    ran,
  });
}
