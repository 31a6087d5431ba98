/** DPoP: the key that an API key is bound to. The proofs are in `tests/vectors/dpop`. */

import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { ActPassArgumentError, ActPassConfigError, dpopThumbprint } from '@actpass/sdk';
import { API_KEY, answer, Hostile, newClient, runModule, thrown } from './support.mjs';

/** RFC 8037, appendix A. */
const BODY = 'MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g';
const PEM = `-----BEGIN PRIVATE KEY-----\n${BODY}\n-----END PRIVATE KEY-----\n`;
const JKT = 'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k';
const INVALID = ['', BODY, PEM.replaceAll('PRIVATE', 'PUBLIC'), PEM + PEM, PEM.replace('MC4C', 'MC4D')];
const hostile = new Hostile();

test('the thumbprint matches the public key', () => {
  assert.equal(dpopThumbprint(PEM), JKT);
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  assert.equal(dpopThumbprint(privateKey.export({ format: 'pem', type: 'pkcs8' })).length, 43);
});

describe('an invalid key is named and not shown', () => {
  for (const [at, pem] of INVALID.entries()) {
    test(`${at}`, () => {
      const argument = thrown(() => dpopThumbprint(pem));
      assert.ok(argument instanceof ActPassArgumentError);
      const config = thrown(() => newClient('https://gate.example', { dpopKey: pem }));
      assert.ok(config instanceof ActPassConfigError);
      assert.match(config.message, /^dpopKey: /);
      assert.equal(config.message, argument.message);
      assert.ok(!inspect([argument, config], { depth: 9, showHidden: true }).includes(BODY));
    });
  }

  for (const key of [7, null, Buffer.from(PEM)]) {
    test(`rejects ${Object.prototype.toString.call(key)}`, () => {
      assert.match(thrown(() => newClient('https://gate.example', { dpopKey: key })).message, /^dpopKey: expected a /);
      assert.match(thrown(() => dpopThumbprint(key)).message, /^dpopKey: expected a string/);
    });
  }
});

test('the client does not show the key', () => {
  const actpass = newClient('https://gate.example', { dpopKey: PEM });
  assert.ok(!(inspect(actpass, { depth: 9, showHidden: true }) + JSON.stringify(actpass)).includes(BODY));
});

test('the file of the environment is the default', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'actpass-dpop-'));
  const path = join(folder, 'dpop.pem');
  writeFileSync(path, PEM);
  const code = `import { ActPass } from '@actpass/sdk';
    await new ActPass().withOptions({ timeoutMs: 9000 }).preflight({ goal: 'g', tool: 't', args: {} });`;
  try {
    const script = { steps: [answer({ decision: 'allow' })], dpop: { api_key: API_KEY, jkt: JKT } };
    await hostile.play(script, async (gateway) => {
      const env = { ACTPASS_API_KEY: API_KEY, ACTPASS_API_BASE_URL: gateway.baseUrl };
      const read = await runModule(code, { env: { ...env, ACTPASS_DPOP_KEY_FILE: path } });
      assert.equal(read.code, 0, read.stderr);
      assert.ok((await gateway.seen())[0].headers.some(([name]) => name === 'dpop'));
      const missing = await runModule(code, { env: { ...env, ACTPASS_DPOP_KEY_FILE: `${path}.missing` } });
      assert.match(missing.stderr, /dpopKey: cannot read .*missing, the file in ACTPASS_DPOP_KEY_FILE: /);
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
