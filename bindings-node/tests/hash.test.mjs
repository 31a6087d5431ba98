/** Hashes of the RFC 8785 form, equal in every language. */

import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ActPass, ActPassArgumentError, hashPayload, signPayload } from '@actpass/sdk';
import { API_KEY, ROOT, SIGNING_KEY } from './support.mjs';

const DATA = join(ROOT, 'core', 'protocol', 'tests', 'data', 'jcs');

for (const file of readdirSync(join(DATA, 'input'))) {
  test(`hashes the RFC example ${file}`, () => {
    const value = JSON.parse(readFileSync(join(DATA, 'input', file), 'utf8'));
    const canonical = readFileSync(join(DATA, 'output', file));
    assert.equal(hashPayload(value), createHash('sha256').update(canonical).digest('hex'));
    const signed =
      signPayload(SIGNING_KEY, value) === createHmac('sha256', SIGNING_KEY).update(canonical).digest('hex');
    assert.ok(signed);
  });
}

test('hashes and signatures match known values', () => {
  assert.equal(
    hashPayload({ currency: 'usd', amount: 4900 }),
    'b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2',
  );
  assert.equal(signPayload('secret', 'payload'), 'd912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e');
  const actpass = new ActPass({ apiKey: API_KEY });
  assert.equal(actpass.hashPayload([1]), hashPayload([1]));
  assert.equal(actpass.signPayload('secret', 'payload'), signPayload('secret', 'payload'));
});

test('rejects values without a canonical form', () => {
  const cyclic = [];
  cyclic.push(cyclic);
  for (const value of [undefined, Number.NaN, Infinity, 1n, '\ud800', 2 ** 53, () => 1, new Map(), cyclic]) {
    assert.throws(() => hashPayload(value), ActPassArgumentError);
    assert.throws(() => signPayload('secret', value), ActPassArgumentError);
  }
  assert.throws(() => signPayload(undefined, 1), /^ActPassArgumentError: secret: expected a string, found undefined$/);
  assert.equal(hashPayload(2 ** 53 - 1).length, 64);
});
