/** The smoke set of a host: a decision of each kind by the real gateway, gateways that misbehave, and the test kit. */

/**
 * Returns the results as JSON text. `sdk` and `testing` are the package; `gateways` has the URL of the real gateway, of one that
 * redirects, of one whose body hangs, and of one whose body is too large. `adapter` is the smoke set of an adapter.
 */
export async function smoke(sdk, testing, gateways, adapter) {
  const { ActPass, hashPayload } = sdk;
  const { real, redirect, hang, oversize } = gateways;
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
    kit: await kit(testing),
    ...(adapter && { adapter: await adapter(new ActPass({ ...settings, baseUrl: real })) }),
  });
}

/** The test kit: scripted decisions, an approval, the recorded requests and executions, and what needs a process. */
async function kit({ RealGateway, ScriptedGateway }) {
  const gateway = await ScriptedGateway.start();
  const actpass = gateway.client();
  const tool = 'stripe.refund.create';
  const refund = async (amount) => {
    const outcome = await actpass.guard({
      goal: 'resolve_refund_request',
      tool,
      args: { amount },
      execute: () => amount,
    });
    return outcome.result ?? outcome.decision.reason_code;
  };
  gateway.allow(tool);
  const results = [await refund(1)];
  gateway.deny(tool, { reasonCode: 'refund.over_limit' });
  results.push(await refund(2));
  gateway.unreachable(tool);
  results.push(await refund(3));
  gateway.requireApproval(tool);
  results.push(await refund(4));
  gateway.approve(tool);
  results.push(await refund(4), await refund(5));
  gateway.assertExecuted(tool, 2);
  gateway.assertAsked(tool, 6);
  let failure;
  try {
    gateway.assertNotExecuted(tool);
  } catch (error) {
    failure = `${error.code} ${error.message}`;
  }
  const asked = gateway.actions.map(({ args }) => args.amount);
  await gateway.close();
  const real = await RealGateway.start({ program: '/no/such/gateway' }).catch((error) => error.name);
  return { results, asked, failure, closed: await refund(6), real };
}
