/** Settings and arguments: the SDK rejects invalid values by name before it sends a request. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { ActPass, ActPassArgumentError, ActPassConfigError, createActPass, hashPayload } from '@actpass/sdk';
import { ACTION, ALLOW, API_KEY, capturing, newClient, ROOT, rejection, run, thrown } from './support.mjs';

describe('settings', () => {
  const wrong = [
    [{ apikey: 'apk_dev' }, /^apikey: expected one of apiKey, tenantId, /],
    [{ api_key: 'apk_dev' }, /^api_key: expected one of apiKey, /],
    [{ timeout: 5 }, /^timeout: expected one of .*timeoutMs/],
    [{ apiKey: 7 }, /^apiKey: expected a string, found a number$/],
    [{ apiKey: null }, /^apiKey: expected a string, found null$/],
    [{ apiKey: '' }, /^apiKey: expected a key, found an empty string$/],
    [{ apiKey: 'apk secret' }, /^apiKey: expected visible ASCII/],
    [{ tenantId: 7 }, /^tenantId: expected a string, found a number$/],
    [{ tenantId: 'é' }, /^tenantId: expected printable ASCII/],
    [{ agentId: ['a'] }, /^agentId: expected a string, found /],
    [{ baseUrl: 'gate.example' }, /^baseUrl: expected /],
    [{ baseUrl: 'http://gate.example' }, /^baseUrl: expected https.*dangerAllowInsecureHttp permits it/],
    [{ baseUrl: new URL('https://gate.example'), x: 1 }, /^x: expected one of/],
    [{ timeoutMs: '5000' }, /^timeoutMs: expected milliseconds as a number, found a string$/],
    [{ timeoutMs: 0 }, /^timeoutMs: expected milliseconds above 0 and at most 86400000, found 0$/],
    [{ timeoutMs: -1 }, /^timeoutMs: expected milliseconds above 0/],
    [{ timeoutMs: Number.NaN }, /^timeoutMs: expected .*found NaN$/],
    [{ timeoutMs: Infinity }, /^timeoutMs: expected .*found Infinity$/],
    [{ timeoutMs: 86_400_001 }, /^timeoutMs: expected milliseconds above 0/],
    [{ connectTimeoutMs: true }, /^connectTimeoutMs: expected milliseconds as a number, found /],
    [{ connectTimeoutMs: 1e12 }, /^connectTimeoutMs: expected milliseconds above 0/],
    [{ maxRetries: 1.5 }, /^maxRetries: expected a non-negative integer, found 1.5$/],
    [{ maxRetries: -1 }, /^maxRetries: expected a non-negative integer, found -1$/],
    [{ maxRetries: '2' }, /^maxRetries: expected a non-negative integer, found a string$/],
    [{ maxRetries: 11 }, /^maxRetries: expected 0 to 10, found 11$/],
    [{ circuitFailures: -1 }, /^circuitFailures: expected a non-negative integer, found -1$/],
    [{ mode: 'Enforce' }, /^mode: expected enforce, strict, warn or monitor, found "Enforce"$/],
    [{ mode: 1 }, /^mode: expected a string, found a number$/],
    [{ ca: 'no certificate' }, /^ca: expected certificates in PEM, found none$/],
    [{ ca: 7 }, /^ca: expected a string, found a number$/],
    [{ ca: new Uint8Array([1, 2]) }, /^ca: expected certificates in PEM, found none$/],
    [{ dangerAllowInsecureHttp: 'yes' }, /^dangerAllowInsecureHttp: expected true or false, found a string$/],
    [{ dangerAllowInsecureHttp: 1 }, /^dangerAllowInsecureHttp: expected true or false, found a number$/],
    [{ agentId: () => 'a' }, /^agentId: expected a value that is JSON, found a function$/],
  ];
  for (const [options, message] of wrong) {
    test(`rejects ${inspect(options)} by name`, () => {
      const given = { apiKey: API_KEY, ...options };
      for (const make of [() => new ActPass(given), () => createActPass(given)]) {
        const error = thrown(make);
        assert.ok(error instanceof ActPassConfigError);
        assert.ok(!(error instanceof ActPassArgumentError));
        assert.equal(error.code, 'actpass.invalid_config');
        assert.match(error.message, message);
      }
    });
  }

  for (const options of [null, 'apk_dev', 7, true]) {
    test(`rejects ${options} instead of an object`, () => {
      assert.match(thrown(() => new ActPass(options)).message, /^expected an object of apiKey and others, found /);
    });
  }

  test('ignore undefined values', () => {
    new ActPass({ apiKey: API_KEY, tenantId: undefined, timeoutMs: undefined, ca: undefined, mode: undefined });
  });

  test('accepts every setting', () => {
    new ActPass({
      apiKey: API_KEY,
      tenantId: 't',
      agentId: 'a',
      baseUrl: 'http://10.0.0.1',
      timeoutMs: 1.5,
      connectTimeoutMs: 100,
      maxRetries: 0,
      circuitFailures: 0,
      mode: 'strict',
      dangerAllowInsecureHttp: true,
    });
  });

  test('default the key and the URL to the environment', async () => {
    await capturing(
      () => ALLOW,
      async (baseUrl, captured) => {
        const code = `import { ActPass } from '@actpass/sdk';
          await new ActPass().preflight({ goal: 'g', tool: 't', args: {} });`;
        const env = { ACTPASS_API_KEY: API_KEY, ACTPASS_API_BASE_URL: `${baseUrl}/` };
        assert.equal((await run(process.execPath, ['--input-type=module', '-e', code], { env })).code, 0);
        assert.ok(captured[0].headers.authorization === `Bearer ${API_KEY}`);
        assert.equal(captured[0].path, '/api/v1/actions/preflight');
      },
    );
  });

  test('stay hidden when the client is printed', () => {
    const actpass = newClient('https://gate.example');
    const shown = inspect(actpass, { showHidden: true, depth: 9 }) + JSON.stringify(actpass);
    assert.ok(!shown.includes('_secret'));
  });
});

describe('arguments', () => {
  const cyclic = {};
  cyclic.self = cyclic;
  const deep = (levels) => (levels === 0 ? 1 : { deeper: deep(levels - 1) });
  const wrong = [
    [{ goal: undefined }, /^goal: expected a string, found nothing$/],
    [{ goal: null }, /^goal: expected a string, found null$/],
    [{ goal: 7 }, /^goal: expected a string, found a number$/],
    [{ goal: '' }, /^goal: expected a non-empty string$/],
    [{ tool: '' }, /^tool: expected a non-empty string$/],
    [{ args: undefined }, /^args: expected an object, found nothing$/],
    [{ args: null }, /^args: expected an object$/],
    [{ args: [] }, /^args: expected an object$/],
    [{ args: 'amount=4900' }, /^args: expected an object$/],
    [{ args: { amount: Number.NaN } }, /^args\.amount: expected a finite number, found NaN; pass null or a string$/],
    [{ args: { amount: Infinity } }, /^args\.amount: expected a finite number, found Infinity; pass null or a string$/],
    [
      { args: { amount: 1n } },
      /^args\.amount: expected a value that is JSON, found a bigint; pass Number\(value\) if it is a safe integer, else a string$/,
    ],
    [
      { args: { amount: () => 1 } },
      /^args\.amount: expected a value that is JSON, found a function; omit it, or pass its result$/,
    ],
    [
      { args: { amount: Symbol('s') } },
      /^args\.amount: expected a value that is JSON, found a symbol; pass its description$/,
    ],
    [
      { args: { amounts: [1, undefined] } },
      /^args\.amounts\[1\]: expected a value that is JSON, found undefined; pass null, or omit the item$/,
    ],
    [
      { args: { amounts: new Map([['a', 1]]) } },
      /^args\.amounts: expected a value that is JSON, found an instance of Map; pass Object\.fromEntries\(map\)$/,
    ],
    [
      { args: { amounts: new Set([1]) } },
      /^args\.amounts: expected a value that is JSON, found an instance of Set; pass \[\.\.\.set\]$/,
    ],
    [
      { args: { amount: Object(1) } },
      /^args\.amount: expected a value that is JSON, found an instance of Number; pass value\.valueOf\(\)$/,
    ],
    [
      { args: { pattern: /a/ } },
      /^args\.pattern: expected a value that is JSON, found an instance of RegExp; pass its source$/,
    ],
    [
      { args: { later: Promise.resolve(1) } },
      /^args\.later: expected a value that is JSON, found an instance of Promise; await it first$/,
    ],
    [
      { args: { order: { at: [new Date(Number.NaN)] } } },
      /^args\.order\.at\[0\]: expected a value that is JSON, found an invalid Date; pass null, or a valid date$/,
    ],
    [
      { args: { at: { toJSON: () => null } } },
      /^args\.at: expected a value that is JSON, found an object whose toJSON returned null; pass null itself, /,
    ],
    [{ args: { at: { toJSON: () => Number.NaN } } }, /^args\.at: .* found NaN; /],
    [
      { args: { bytes: new Uint8Array(2) } },
      /^args\.bytes: .* found an instance of Uint8Array; pass \[\.\.\.bytes\], or /,
    ],
    [{ args: { bytes: Buffer.from('a') } }, /^args\.bytes: .* found an instance of Buffer; .*toString\('base64'\)$/],
    [{ args: { bytes: new ArrayBuffer(2) } }, /^args\.bytes: .* found an instance of ArrayBuffer; /],
    [{ args: { bytes: new DataView(new ArrayBuffer(2)) } }, /^args\.bytes: .* found an instance of DataView; /],
    [{ args: { error: new TypeError('x') } }, /^args\.error: .* found an instance of TypeError; pass its message$/],
    [
      { args: { order: new (class Order {})() } },
      /^args\.order: .* found an instance of Order; pass an object literal such as \{ \.\.\.value \}, or add a toJSON method to its class$/,
    ],
    [
      { args: new Map() },
      /^args: expected a value that is JSON, found an instance of Map; pass Object\.fromEntries\(map\)$/,
    ],
    [{ args: new Array(3) }, /^args\[0\]: .* found undefined; /],
    [{ args: { list: [1, , 3] } }, /^args\.list\[1\]: .* found undefined; /],
    [{ args: { 'a b': { "c'd": [Number.NaN] } } }, /^args\["a b"\]\["c'd"\]\[0\]: .* found NaN; /],
    [{ args: { ['k'.repeat(300)]: Number.NaN } }, /^args\["k{64}…"\]: .* found NaN; /],
    [{ args: globalThis }, /^args: /],
    [{ args: new WeakMap() }, /^args: .* found an instance of WeakMap; /],
    [
      {
        args: {
          get total() {
            throw new RangeError('own');
          },
        },
      },
      /^args\.total: expected a value that can be read, found one whose getter, toJSON or proxy threw$/,
    ],
    [
      { args: { text: '\ud800' } },
      /^args\.text: expected text in Unicode, found a lone surrogate; pass text\.toWellFormed\(\)$/,
    ],
    [{ args: { '\udfff': 1 } }, /^args: expected text in Unicode, found a lone surrogate; /],
    [{ args: cyclic }, /^args\.self: expected a value that is JSON, found a cycle; omit the reference$/],
    [{ args: { a: [cyclic] } }, /^args\.a\[0\]\.self: .* found a cycle; /],
    [{ args: deep(128) }, /^args(\.deeper){8}…: nested deeper than 128 levels$/],
    [{ args: deep(127) }, undefined],
    [{ args: {}, argz: {} }, /^argz: expected one of goal, tool, args, /],
    [{ user_id: 'u' }, /^user_id: expected one of .*userId/],
    [{ resource: 7 }, /^resource: expected a string, found a number$/],
    [{ userId: null }, /^userId: expected a string, found null$/],
    [{ passport: {} }, /^passport: expected a string, found /],
    [{ passport: '' }, /^passport: expected a token, found an empty string$/],
    [{ mode: 'off' }, /^mode: expected enforce, strict, warn or monitor, found "off"$/],
    [{ idempotencyKey: '' }, /^idempotencyKey: expected a non-empty string$/],
    [{ idempotencyKey: 7 }, /^idempotencyKey: expected a string, found a number$/],
    [{ audience: 7 }, /^audience: expected a string/],
    [{ approvalRequestId: 7 }, /^approvalRequestId: expected a string/],
    [{ toolManifestHash: 7 }, /^toolManifestHash: expected a string/],
  ];
  test('an invalid argument rejects in every mode; nothing is sent or run', () =>
    capturing(
      () => ALLOW,
      async (baseUrl, captured) => {
        const actpass = newClient(baseUrl);
        for (const [members, message] of wrong) {
          if (message === undefined) {
            continue;
          }
          for (const mode of ['enforce', 'monitor']) {
            const call = actpass.guard({ ...ACTION, mode, ...members, execute: () => assert.fail('it ran') });
            const error = await rejection(call);
            assert.ok(error instanceof ActPassArgumentError, inspect(members));
            assert.match(error.message, message);
            assert.equal(error.code, 'actpass.invalid_argument');
          }
          assert.match((await rejection(actpass.preflight({ ...ACTION, ...members }))).message, message);
        }
        assert.deepEqual(captured, []);
      },
    ));

  test('have the same path in errors of every language', async () => {
    const rows = JSON.parse(readFileSync(join(ROOT, 'tests', 'argument-paths.json'), 'utf8'));
    assert.ok(rows.length > 0);
    const actpass = newClient('http://127.0.0.1:9');
    for (const { steps, path } of rows) {
      const args = steps.reduceRight(
        (inner, step) => (typeof step === 'number' ? [...Array(step).fill(null), inner] : { [step]: inner }),
        Number.NaN,
      );
      const expected = `${path}: expected a finite number, found NaN; pass null or a string`;
      assert.equal((await rejection(actpass.preflight({ ...ACTION, args }))).message, expected);
      const event = { eventType: 'e', chainId: 'c', metadata: args };
      const ofMetadata = expected.replace(/^args/, 'metadata');
      assert.equal((await rejection(actpass.recordEvidence(event))).message, ofMetadata);
      assert.equal(thrown(() => hashPayload(args)).message, expected.replace(/^args/, 'payload'));
    }
  });

  test('are sent like JSON.stringify output', () =>
    capturing(
      () => ALLOW,
      async (baseUrl, captured) => {
        const sent = async (args) => {
          await newClient(baseUrl).preflight({ ...ACTION, args });
          return captured.pop().body.match(/"args": (.*), "user_id"/)[1];
        };
        const bare = Object.assign(Object.create(null), { a: 1 });
        assert.equal(await sent({}), '{}');
        assert.equal(await sent(bare), '{"a": 1}');
        assert.equal(
          await sent({ a: undefined, b: [null, true, -0, 1e21, 0.1] }),
          '{"b": [null, true, 0, 1e+21, 0.1]}',
        );
        assert.equal(await sent({ snake_case: { camelCase: 1 } }), '{"snake_case": {"camelCase": 1}}');
        assert.equal(await sent({ 'é\n"': '€😀\x7f' }), '{"\\u00e9\\n\\"": "\\u20ac\\ud83d\\ude00\\u007f"}');
        assert.equal(
          await sent({ at: new Date(0), url: new URL('https://a.example/') }),
          '{"at": "1970-01-01T00:00:00.000Z", "url": "https://a.example/"}',
        );
        assert.equal(await sent({ list: Object.assign([1, 2], { toJSON: () => ['own'] }) }), '{"list": ["own"]}');
        assert.equal(await sent(Object.freeze({ a: Object.freeze([1]) })), '{"a": [1]}');
        assert.equal(await sent({ [Symbol('s')]: 1, a: 1 }), '{"a": 1}');
        assert.equal(await sent(JSON.parse('{"__proto__": 1}')), '{"__proto__": 1}');
        await sent(deep(127));
      },
    ));

  test('are read once: the first value of a getter is sent', () =>
    capturing(
      () => ALLOW,
      async (baseUrl, captured) => {
        let reads = 0;
        const args = {
          get amount() {
            reads += 1;
            return reads === 1 ? 4900 : Number.NaN;
          },
        };
        await newClient(baseUrl).preflight({ ...ACTION, args });
        assert.equal(JSON.parse(captured[0].body).args.amount, 4900);
        assert.equal(reads, 1);
      },
    ));

  test('reject with the error of a throwing toJSON as the cause', async () => {
    const own = new Error('own');
    const args = {
      toJSON() {
        throw own;
      },
    };
    const error = await rejection(newClient('http://127.0.0.1:9').preflight({ ...ACTION, args }));
    assert.equal(error.constructor, ActPassArgumentError);
    assert.equal(error.cause, own);
    assert.equal(thrown(() => hashPayload(args)).cause, own);
  });
});

test('other calls reject invalid arguments by name', async () => {
  const actpass = newClient('http://127.0.0.1:9');
  const issue = { audience: 'a', goal: 'g', allowedTools: ['t'] };
  const calls = [
    [
      () => actpass.issuePassport({ ...issue, allowedTools: 't' }),
      /^allowedTools: expected a list of strings, found a string$/,
    ],
    [
      () => actpass.issuePassport({ ...issue, allowedTools: undefined }),
      /^allowedTools: expected a list of strings, found nothing$/,
    ],
    [
      () => actpass.issuePassport({ ...issue, allowedTools: [7] }),
      /^allowedTools\[0\]: expected a string, found a number$/,
    ],
    [
      () => actpass.issuePassport({ ...issue, ttlSeconds: 1.5 }),
      /^ttlSeconds: expected a non-negative integer, found 1.5$/,
    ],
    [() => actpass.issuePassport({ ...issue, resourceConstraints: [] }), /^resourceConstraints: expected an object$/],
    [() => actpass.issuePassport({ ...issue, allowed_tools: [] }), /^allowed_tools: expected one of /],
    [() => actpass.verifyPassport({ audience: 'a' }), /^token: expected a string, found nothing$/],
    [() => actpass.verifyPassport({ token: '', audience: 'a' }), /^token: expected a non-empty string$/],
    [() => actpass.verifyPassportOffline({ token: 't', audience: '' }), /^audience: expected a non-empty string$/],
    [() => actpass.revokePassport(), /^jti: expected a string, found nothing$/],
    [() => actpass.revokePassport('ap_1', 7), /^reason: expected a string, found a number$/],
    [() => actpass.recordEvidence({ eventType: 'e' }), /^chainId: expected a string, found nothing$/],
    [() => actpass.recordEvidence({ eventType: 'e', chainId: 'c', metadata: 7 }), /^metadata: expected an object$/],
    [() => actpass.recordEvidence(), /^expected an object of eventType and others, found undefined$/],
    [() => actpass.guard(), /^expected an object of goal and others, found undefined$/],
  ];
  for (const [call, message] of calls) {
    const error = await rejection(call());
    assert.ok(error instanceof ActPassArgumentError, `${error}`);
    assert.match(error.message, message);
  }
});
