/** The passports of `tests/passports/vectors.json`, verified offline. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { capturing, newClient } from './support.mjs';

const file = JSON.parse(readFileSync(new URL('../../tests/passports/vectors.json', import.meta.url), 'utf8'));

describe('passport vectors', () => {
  test('are complete', () => assert.equal(file.cases.length, 56));

  for (const { description, token, keys, errors } of file.cases) {
    test(description, () =>
      capturing(
        () => ({ keys: keys ?? file.keys }),
        async (baseUrl) => {
          const { audience, issuer } = file;
          const found = await newClient(baseUrl).verifyPassportOffline({ token, audience, issuer });
          assert.deepEqual([found.valid, found.errors], [errors.length === 0, errors]);
        },
      ),
    );
  }
});
