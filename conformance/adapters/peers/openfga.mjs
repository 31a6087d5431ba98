/** `@openfga/sdk`: a client that runs nothing itself. The function runs if `allowed` is true; without retries. */

import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { CredentialsMethod, OpenFgaClient } from '@openfga/sdk';

async function runCase(kase) {
  const client = new OpenFgaClient({
    apiUrl: kase.base_url,
    storeId: '01ARZ3NDEKTSV4RRFFQ69G5FAV',
    credentials: { method: CredentialsMethod.ApiToken, config: { token: kase.api_key } },
    retryParams: { maxRetry: kase.options.max_retries },
    baseOptions: { timeout: kase.options.timeout * 1000 },
  });
  try {
    const { allowed } = await client.check({
      user: `agent:${kase.agent_id}`,
      relation: 'can_call',
      object: `tool:${kase.action.tool}`,
    });
    if (!allowed) {
      // Without a boolean, the SDK reported no decision.
      return { executed: 0, outcome: 'blocked', decision: allowed === false ? { decision: 'deny' } : null };
    }
    appendFileSync(kase.run_log, 'x');
    return { executed: 1, outcome: 'returned', decision: { decision: 'allow' } };
  } catch (error) {
    return { executed: 0, outcome: 'failed', reason: String(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await runCase(JSON.parse(line)))}\n`);
}
