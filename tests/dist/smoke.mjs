/**
 * Run the vectors that need no hostile gateway against the installed package, and print how many passed.
 *
 * Usage: smoke.mjs VECTORS. The same vectors as smoke.py.
 */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { ActPass } from '@actpass/sdk';

const folder = join(process.argv[2], 'table');
let answer;
const server = createServer((request, response) => {
  request.resume();
  request.on('end', () => {
    response.setHeader('content-type', 'application/json');
    response.end(answer);
  });
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const actpass = new ActPass({
  apiKey: 'apk_vector_secret',
  agentId: 'vectors',
  baseUrl: `http://127.0.0.1:${server.address().port}`,
  timeoutMs: 20_000,
});
let files = 0;
let passed = 0;
for (const name of readdirSync(folder).sort()) {
  const vector = JSON.parse(readFileSync(join(folder, name), 'utf8'));
  const { steps, ...settings } = vector.gateway;
  const [step, ...more] = steps;
  const isPlain =
    more.length === 0 &&
    Object.keys(settings).length === 0 &&
    Object.keys(step).sort().join() === 'do,json' &&
    Object.keys(vector).sort().join() === 'description,expect,gateway' &&
    !JSON.stringify(step).includes('{{');
  if (!isPlain) {
    continue;
  }
  files += 1;
  answer = JSON.stringify(step.json);
  for (const [mode, expected] of Object.entries(vector.expect)) {
    let ran = 0;
    const { executed, decision } = await actpass.guard({
      goal: 'resolve_refund_request',
      tool: 'stripe.refund.create',
      resource: 'stripe:charge:ch_123',
      args: { amount: 4900, currency: 'usd' },
      idempotencyKey: 'vector_key',
      mode,
      execute: () => {
        ran += 1;
        return null;
      },
    });
    const members = Object.fromEntries(Object.keys(expected.decision).map((member) => [member, decision[member]]));
    const found = [ran === 1, executed, members];
    assert.deepEqual(found, [expected.executed, expected.executed, expected.decision], `${name}, ${mode}`);
    passed += 1;
  }
}
assert.ok(passed > 0, 'no vector ran');
console.log(`${files} vectors, ${passed} cases passed`);
server.close();
server.closeAllConnections();
