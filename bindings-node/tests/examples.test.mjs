/** The examples in `examples/node` that need nothing but this package and the gateway. */

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { PACKAGE, ROOT, run } from './support.mjs';

const folder = mkdtempSync(join(tmpdir(), 'actpass-examples-'));
mkdirSync(join(folder, 'node_modules', '@actpass'), { recursive: true });
symlinkSync(PACKAGE, join(folder, 'node_modules', '@actpass', 'sdk'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('the example of an agent that is stopped finishes one refund and goes on when the stop is lifted', async () => {
  for (const file of ['gateway.mjs', 'stopped-refunds.mjs']) {
    cpSync(join(ROOT, 'examples', 'node', file), join(folder, file));
  }
  const gateway = process.env.ACTPASS_GATEWAY;
  const done = await run(process.execPath, ['stopped-refunds.mjs', gateway], { cwd: folder });
  assert.deepEqual([done.code, done.stderr], [0, '']);
  const [stopped, again, rest, ...others] = done.stdout.trim().split('\n');
  assert.match(stopped, /^allow +refund\.small_in_scope +stopped after [4-9] of 10 refunds$/);
  assert.match(again, /^deny +halted +.*amounts are wrong/);
  assert.match(rest, /^allow +refund\.small_in_scope +10 of 10 refunds$/);
  assert.deepEqual(others, []);
});

test('the example of a bound key refuses the stolen key', async () => {
  for (const file of ['gateway.mjs', 'bound-key.mjs']) {
    cpSync(join(ROOT, 'examples', 'node', file), join(folder, file));
  }
  const policy = join(ROOT, 'policies', 'dev.json');
  const done = await run(process.execPath, ['bound-key.mjs', process.env.ACTPASS_GATEWAY, policy], { cwd: folder });
  assert.deepEqual([done.code, done.stderr], [0, '']);
  assert.deepEqual(
    done.stdout
      .trim()
      .split('\n')
      .map((line) => line.split(/ {2,}/)),
    [
      ['agent', 'refund.small_in_scope', 'refunded'],
      ['thief without a key', 'actpass.unauthenticated', 'did not run'],
      ['thief with a key', 'actpass.unauthenticated', 'did not run'],
    ],
  );
});
