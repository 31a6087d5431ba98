/** Call limits, default options, scopes, `close`, and the log. */

import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { ActPass, ActPassArgumentError, ActPassConfigError } from '@actpass/sdk';
import {
  ACTION,
  ALLOW,
  answer,
  API_KEY,
  capturing,
  CREDENTIAL,
  Hostile,
  newClient,
  PASSPORT,
  rejection,
  runModule,
} from './support.mjs';

const hostile = new Hostile();
const bodies = async (seen) => (await seen()).map(({ body }) => JSON.parse(body));
const GIVEN = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

describe('limits of a single call', () => {
  const ISSUE = { audience: 'a', goal: 'g', allowedTools: ['t'] };
  const calls = {
    preflight: (actpass, limits) => actpass.preflight({ ...ACTION, ...limits }),
    guard: async (actpass, limits) => {
      const outcome = await actpass.guard({ ...ACTION, ...limits, execute: () => assert.fail('it ran') });
      throw outcome.error;
    },
    protect: async (actpass, limits) => {
      const guarded = actpass.protect(() => assert.fail('it ran'), { tool: 't', goal: 'g', ...limits });
      throw (await rejection(guarded())).cause;
    },
    resume: async (actpass, limits) => {
      const pending = { approval_request_id: 'apr_1', goal: 'g', tool: 't', args: {}, resource: '' };
      throw (await actpass.resume(pending, { ...limits, execute: () => assert.fail('it ran') })).error;
    },
    issuePassport: (actpass, limits) => actpass.issuePassport({ ...ISSUE, ...limits }),
    verifyPassport: (actpass, limits) => actpass.verifyPassport({ token: 't', audience: 'a', ...limits }),
    revokePassport: (actpass, limits) => actpass.revokePassport('ap_1', 'x', limits),
    recordEvidence: (actpass, limits) => actpass.recordEvidence({ eventType: 'e', chainId: 'c', ...limits }),
  };

  for (const [name, call] of Object.entries(calls)) {
    test(`${name} applies its own deadline`, () =>
      hostile.play([{ do: 'hang', at: 'request' }], async ({ baseUrl }) => {
        const error = await rejection(call(newClient(baseUrl, { timeoutMs: 60_000 }), { timeoutMs: 150 }));
        assert.equal(error.code, 'actpass.timeout');
        assert.match(error.message, / within 0\.15 s$/);
      }));

    test(`${name} rejects invalid limits by name`, async () => {
      const actpass = newClient('http://127.0.0.1:9');
      for (const [limits, message] of [
        [{ timeoutMs: 0 }, /^timeoutMs: expected milliseconds above 0 and at most 86400000, found 0$/],
        [{ timeoutMs: '5' }, /^timeoutMs: expected milliseconds as a number, found a string$/],
        [{ maxRetries: 11 }, /^maxRetries: expected 0 to 10, found 11$/],
        [{ maxRetries: 1.5 }, /^maxRetries: expected a non-negative integer, found 1\.5$/],
      ]) {
        const error = await rejection(Promise.resolve().then(() => call(actpass, limits)));
        assert.ok(error instanceof ActPassArgumentError, `${error}`);
        assert.match(error.message, message);
      }
    });
  }

  test('maxRetries of a call overrides defaults, which override the client', () =>
    hostile.play([answer({}, { status: 503 })], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl, { maxRetries: 0 });
      await rejection(actpass.preflight({ ...ACTION, maxRetries: 2 }));
      assert.equal((await seen()).length, 3);
      await rejection(actpass.withOptions({ maxRetries: 1 }).preflight(ACTION));
      assert.equal((await seen()).length, 5);
      await rejection(actpass.withOptions({ maxRetries: 1 }).preflight({ ...ACTION, maxRetries: 0 }));
      await rejection(actpass.preflight(ACTION));
      assert.equal((await seen()).length, 7);
    }));

  test('waitForApproval waits for timeoutMs', () =>
    hostile.play([answer({ id: 'apr_1', status: 'pending' })], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl).withOptions({ timeoutMs: 10_000 });
      assert.equal((await actpass.waitForApproval('apr_1')).status, 'pending');
      assert.equal((await actpass.waitForApproval('apr_1', { timeoutMs: 0, maxRetries: 1 })).status, 'pending');
    }));
});

describe('withOptions', () => {
  test('provides defaults that a call can override', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const scoped = actpass.withOptions({ userId: 'user_7', audience: 'mcp://a', mode: 'warn', traceparent: GIVEN });
      assert.ok(scoped instanceof ActPass);
      await scoped.guard({ ...ACTION, execute: () => 1 });
      await scoped.preflight({ ...ACTION, userId: 'user_8', mode: 'strict' });
      await scoped.protect(() => 1, { tool: 't', goal: 'g' })();
      await scoped.protect(() => 1, { tool: 't', goal: 'g', userId: ({ user }) => user })({ user: 'user_9' });
      await scoped.withOptions({ userId: 'user_1' }).preflight(ACTION);
      await actpass.preflight(ACTION);
      const sent = (await bodies(seen)).map(({ user_id, audience, mode }) => [user_id, audience, mode]);
      assert.deepEqual(sent, [
        ['user_7', 'mcp://a', 'warn'],
        ['user_8', 'mcp://a', 'strict'],
        ['user_7', 'mcp://a', 'warn'],
        ['user_9', 'mcp://a', 'warn'],
        ['user_1', 'mcp://a', 'warn'],
        [null, null, 'enforce'],
      ]);
      const traces = (await seen()).map(({ headers }) => new Map(headers).get('traceparent'));
      assert.deepEqual(traces, [GIVEN, GIVEN, GIVEN, GIVEN, GIVEN, undefined]);
    }));

  test('shares connections', async () => {
    let connections = 0;
    const server = createServer((_, response) => response.end(JSON.stringify(ALLOW)));
    server.on('connection', () => {
      connections += 1;
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      const actpass = newClient(`http://127.0.0.1:${server.address().port}`);
      for (let at = 0; at < 20; at += 1) {
        await actpass.withOptions({ userId: `user_${at}` }).preflight(ACTION);
      }
      assert.equal(connections, 1);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  test('applies a signal and recordOutcome; rejects invalid defaults by name', () =>
    hostile.play([answer(ALLOW), answer({ event_id: 'ev_2' })], async ({ baseUrl }) => {
      const actpass = newClient(baseUrl);
      const outcome = await actpass.withOptions({ recordOutcome: true }).guard({ ...ACTION, execute: () => 1 });
      assert.equal(outcome.evidence.event_id, 'ev_2');
      const signal = AbortSignal.abort('left');
      assert.equal(await rejection(actpass.withOptions({ signal }).preflight(ACTION)), 'left');
      for (const [defaults, message] of [
        [{ goal: 7 }, /^goal: expected a string, found a number$/],
        [{ sessionId: 's' }, /^sessionId: expected one of goal, userId, /],
        [{ userId: 7 }, /^userId: expected a string, found a number$/],
        [{ mode: 'off' }, /^mode: expected enforce, strict, warn or monitor, found "off"$/],
        [{ timeoutMs: -1 }, /^timeoutMs: expected milliseconds above 0/],
        [{ signal: 7 }, /^signal: expected an AbortSignal, found 7$/],
        [{ recordOutcome: 1 }, /^recordOutcome: expected true or false, found a number$/],
        [{ traceparent: 'x' }, /^traceparent: /],
        [undefined, /^expected an object of goal and others, found undefined$/],
      ]) {
        assert.throws(
          () => actpass.withOptions(defaults),
          (error) => error instanceof ActPassArgumentError && (assert.match(error.message, message), true),
        );
      }
    }));
});

describe('bind', () => {
  test('applies to calls inside it, across awaits, nested and concurrent', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const ask = async () => {
        await new Promise(setImmediate);
        await actpass.preflight({ ...ACTION, args: {} });
      };
      const users = Array.from({ length: 20 }, (_, at) => `user_${at}`);
      await Promise.all(users.map((userId) => actpass.bind({ userId }, ask)));
      assert.deepEqual((await bodies(seen)).map(({ user_id }) => user_id).sort(), [...users].sort());
      await actpass.bind({ userId: 'outer', audience: 'a' }, () => actpass.bind({ userId: 'inner' }, ask));
      await ask();
      const scoped = actpass.withOptions({ userId: 'default' });
      await actpass.bind({ userId: 'scope' }, () => scoped.preflight(ACTION));
      await scoped.bind({ userId: 'scope' }, () => actpass.preflight(ACTION));
      await actpass.bind({ userId: 'scope' }, () => newClient(baseUrl).preflight(ACTION));
      const sent = (await bodies(seen)).slice(users.length).map(({ user_id, audience }) => [user_id, audience]);
      assert.deepEqual(sent, [
        ['inner', 'a'],
        [null, null],
        ['default', null],
        ['scope', null],
        [null, null],
      ]);
    }));

  test('returns the result and throws the error of its function', async () => {
    const actpass = newClient('http://127.0.0.1:9');
    const own = new Error('own');
    assert.equal(
      actpass.bind({}, () => 7),
      7,
    );
    assert.throws(
      () =>
        actpass.bind({}, () => {
          throw own;
        }),
      (error) => error === own,
    );
    assert.equal(await rejection(actpass.bind({}, async () => Promise.reject(own))), own);
    for (const [scope, body, message] of [
      [{ mode: 'monitor' }, () => 1, /^mode: expected one of goal, userId, /],
      [{ timeoutMs: 1 }, () => 1, /^timeoutMs: expected one of goal, /],
      [{ userId: 7 }, () => 1, /^userId: expected a string, found a number$/],
      [{}, 7, /^body: expected a function, found 7$/],
      [{}, function* () {}, /^body: expected a function that runs when called/],
    ]) {
      assert.throws(
        () => actpass.bind(scope, body),
        (error) => error instanceof ActPassArgumentError && (assert.match(error.message, message), true),
      );
    }
  });

  test('gives goal and passport, which options of a call replace', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const { goal: _, ...goalless } = ACTION;
      await actpass.bind({ goal: 'bound', passport: PASSPORT }, async () => {
        await actpass.guard({ ...goalless, execute: () => 1 });
        await actpass.preflight({ ...ACTION, passport: 'own' });
        await actpass.protect(() => 1, { tool: 't', goal: () => 'own', passport: () => undefined })();
      });
      await actpass.preflight(ACTION);
      const sent = (await bodies(seen)).map(({ goal, passport }) => [goal, passport ?? null]);
      assert.deepEqual(sent, [
        ['bound', PASSPORT],
        [ACTION.goal, 'own'],
        ['own', PASSPORT],
        [ACTION.goal, null],
      ]);
    }));

  test('ends with its function, also for calls that begin later', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      actpass.bind({ userId: 'sync' }, () => 1);
      await actpass.preflight(ACTION);
      await rejection(actpass.bind({ userId: 'async' }, () => Promise.reject(new Error('own'))));
      await actpass.preflight(ACTION);
      assert.deepEqual(
        (await bodies(seen)).map(({ user_id }) => user_id ?? null),
        [null, null],
      );
    }));

  test('applies to protected functions', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const guarded = actpass.protect(() => 'ran', { tool: 't', goal: 'g' });
      assert.equal(await actpass.bind({ userId: 'user_7' }, () => guarded({})), 'ran');
      assert.equal((await bodies(seen))[0].user_id, 'user_7');
    }));
});

describe('close', () => {
  const closed = (call) =>
    assert.rejects(call, (error) => {
      assert.ok(error instanceof ActPassConfigError && !(error instanceof ActPassArgumentError));
      assert.equal(error.message, 'client: closed; create a new one');
      return true;
    });

  test('rejects later calls of all derived clients in every mode', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const scoped = actpass.withOptions({ userId: 'u' });
      const guarded = actpass.protect(() => assert.fail('it ran'), { tool: 't', goal: 'g', mode: 'monitor' });
      await scoped.preflight(ACTION);
      scoped.close();
      actpass.close();
      await closed(actpass.preflight(ACTION));
      await closed(scoped.guard({ ...ACTION, mode: 'monitor', execute: () => assert.fail('it ran') }));
      await closed(guarded());
      await closed(actpass.revokePassport('ap_1'));
      await closed((async () => actpass.circuit)());
      await closed((async () => actpass.withOptions({}))());
      await closed((async () => actpass.protect(() => 1, { tool: 't', goal: 'g' }))());
      assert.equal((await seen()).length, 1);
    }));

  test('lets a call in flight complete', () =>
    hostile.play([{ ...answer(ALLOW), delay_ms: 100 }], async ({ baseUrl, seen }) => {
      const actpass = newClient(baseUrl);
      const call = actpass.guard({ ...ACTION, execute: async () => 'ran' });
      while ((await seen()).length === 0);
      actpass.close();
      assert.equal((await call).unwrap(), 'ran');
    }));

  test('closes connections immediately', async () => {
    const server = createServer((_, response) => response.end(JSON.stringify(ALLOW)));
    // The server does not close idle connections.
    server.keepAliveTimeout = 0;
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      const actpass = newClient(`http://127.0.0.1:${server.address().port}`);
      const [socket] = (await Promise.all([once(server, 'connection'), actpass.preflight(ACTION)]))[0];
      const ended = once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
      actpass.close();
      await ended;
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  test('is called by using and await using', async () => {
    const actpass = newClient('http://127.0.0.1:9');
    actpass[Symbol.dispose]();
    await closed(actpass.preflight(ACTION));
    const other = newClient('http://127.0.0.1:9');
    await other[Symbol.asyncDispose]();
    await closed(other.preflight(ACTION));
  });
});

describe('a signal shared by many calls', () => {
  test('causes no warning and keeps no listener', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const warnings = [];
      const note = (warning) => warnings.push(warning.name);
      process.on('warning', note);
      const controller = new AbortController();
      const actpass = newClient(baseUrl);
      const { signal } = controller;
      const calls = Array.from({ length: 1000 }, (_, at) => actpass.guard({ ...ACTION, signal, execute: () => at }));
      assert.equal(getEventListeners(signal, 'abort').length, 1);
      const results = (await Promise.all(calls)).map(({ result }) => result);
      assert.deepEqual(results, [...results.keys()]);
      assert.equal(getEventListeners(signal, 'abort').length, 0);
      await new Promise(setImmediate);
      process.off('warning', note);
      assert.deepEqual(warnings, []);
    }));

  test('aborts every call', () =>
    hostile.play([{ do: 'hang', at: 'request' }], async ({ baseUrl }) => {
      const controller = new AbortController();
      const actpass = newClient(baseUrl);
      const { signal } = controller;
      const calls = Array.from({ length: 1000 }, () => rejection(actpass.preflight({ ...ACTION, signal })));
      const protectedOnes = Array.from({ length: 10 }, () =>
        rejection(actpass.protect(() => assert.fail('it ran'), { tool: 't', goal: 'g', signal })()),
      );
      await new Promise(setImmediate);
      const reason = { why: 'left' };
      controller.abort(reason);
      for (const ended of await Promise.all([...calls, ...protectedOnes])) {
        assert.equal(ended, reason);
      }
      assert.equal(getEventListeners(signal, 'abort').length, 0);
    }));
});

describe('the log', () => {
  const logger = () => {
    const lines = [];
    const take = (level) => (line) => lines.push([level, line]);
    return { lines, logger: { error: take('error'), warn: take('warn'), info: take('info'), debug: take('debug') } };
  };

  test('logs blocks, failures, retries and calls by level', () =>
    hostile.play(
      [answer({ decision: 'deny', reason_code: 'refund.over_limit' }), answer({}, { status: 503 }), answer(ALLOW)],
      async ({ baseUrl }) => {
        const { lines, logger: sink } = logger();
        const actpass = newClient(baseUrl, { logger: sink, logLevel: 'debug', maxRetries: 1 });
        await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
        await actpass.guard({ ...ACTION, execute: () => 1 });
        assert.deepEqual(
          lines.map(([level, line]) => [level, line.replace(/wait_ms=[\d.]+/, 'wait_ms=…')]),
          [
            ['debug', 'actpass: call completed operation=preflight status=200'],
            ['info', 'actpass: blocked tool=stripe.refund.create decision=deny reason_code=refund.over_limit'],
            ['debug', 'actpass: retrying retry=1 wait_ms=…'],
            ['debug', 'actpass: call completed operation=preflight status=200'],
            ['debug', 'actpass: may run tool=stripe.refund.create decision=allow reason_code=refund.small_in_scope'],
          ],
        );
      },
    ));

  for (const [logLevel, expected] of Object.entries({
    off: [],
    error: [],
    warn: ['warn'],
    info: ['info', 'warn'],
    debug: ['debug', 'info', 'warn'],
  })) {
    test(`contains lines of level ${logLevel} and above`, () =>
      hostile.play([answer({ decision: 'deny' }), answer({}, { status: 500 })], async ({ baseUrl }) => {
        const { lines, logger: sink } = logger();
        const actpass = newClient(baseUrl, { logger: sink, logLevel });
        await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
        await actpass.guard({ ...ACTION, execute: () => assert.fail('it ran') });
        assert.deepEqual([...new Set(lines.map(([level]) => level))].sort(), expected);
      }));
  }

  test('contains no secret', () =>
    hostile.play(
      [answer({ ...ALLOW, credential: { token: CREDENTIAL } }), answer({ echo: API_KEY }, { status: 500 })],
      async ({ baseUrl }) => {
        const { lines, logger: sink } = logger();
        const actpass = newClient(baseUrl, { logger: sink, logLevel: 'debug' });
        await actpass.guard({ ...ACTION, passport: PASSPORT, execute: () => 1 });
        await actpass.guard({ ...ACTION, passport: PASSPORT, execute: () => 1 });
        await rejection(actpass.verifyPassport({ token: PASSPORT, audience: 'a' }));
        assert.ok(lines.length >= 4);
        assert.ok(!JSON.stringify(lines).includes('_secret'));
      },
    ));

  test('escapes control characters of tools and reasons', () =>
    hostile.play([answer({ decision: 'deny', reason_code: 'x\n2026 info actpass: may run' })], async ({ baseUrl }) => {
      const { lines, logger: sink } = logger();
      const actpass = newClient(baseUrl, { logger: sink });
      await actpass.guard({ ...ACTION, tool: 'a\r\nb\u001b[2J', execute: () => assert.fail('it ran') });
      assert.equal(lines.length, 1);
      assert.ok(!/\p{Cc}/u.test(lines[0][1]), JSON.stringify(lines));
    }));

  test('does not affect calls if it throws, rejects or is changed', () =>
    hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const fail = () => {
        throw new Error('the disk is full');
      };
      const reject = async () => fail();
      for (const method of [fail, reject]) {
        const sink = { error: method, warn: method, info: method, debug: method };
        const actpass = newClient(baseUrl, { logger: sink, logLevel: 'debug' });
        assert.equal((await actpass.guard({ ...ACTION, execute: () => 'ran' })).unwrap(), 'ran');
        sink.debug = undefined;
        assert.equal((await actpass.guard({ ...ACTION, execute: () => 'ran' })).unwrap(), 'ran');
      }
    }));

  test('rejects an invalid logger or level by name', () => {
    const { logger: sink } = logger();
    for (const [settings, message] of [
      [{ logger: 7 }, /^logger: expected an object with the methods error, warn, info, debug, found 7 without error$/],
      [{ logger: { ...sink, debug: 1 } }, /^logger: .* without debug$/],
      [{ logger: null }, /^logger: .*found null without error$/],
      [{ logLevel: 'verbose' }, /^logLevel: expected off, error, warn, info or debug, found "verbose"$/],
      [{ logLevel: 7 }, /^logLevel: expected off, error, warn, info or debug, found 7$/],
    ]) {
      assert.throws(
        () => newClient('http://127.0.0.1:9', settings),
        (error) => error instanceof ActPassConfigError && (assert.match(error.message, message), true),
      );
    }
  });

  test('is written to standard error if ACTPASS_LOG is set', () =>
    hostile.play({ listen: 'refused' }, async ({ baseUrl }) => {
      const program = (settings) => `import { ActPass } from '@actpass/sdk';
        const actpass = new ActPass({ apiKey: '${API_KEY}', baseUrl: '${baseUrl}', maxRetries: 0, ${settings} });
        await actpass.guard({ goal: 'g', tool: 'gmail.send', args: {}, execute: () => console.log('ran') });`;
      const shown = async (level, settings = '') => {
        const env = level === undefined ? {} : { ACTPASS_LOG: level };
        const { code, stdout, stderr } = await runModule(program(settings), { env });
        assert.equal(stdout, '');
        assert.ok(!stderr.includes('_secret'));
        return [code, stderr];
      };
      for (const level of [undefined, '', 'off', 'error']) {
        assert.deepEqual(await shown(level), [0, '']);
      }
      const [code, warned] = await shown('warn');
      assert.equal(code, 0);
      assert.match(
        warned,
        /^\d{4}-\d\d-\d\dT[\d:.]+Z warn actpass: blocked: the gate failed: .* tool=gmail\.send code=actpass\.unreachable\n$/,
      );
      assert.deepEqual(await shown('warn', "logLevel: 'off'"), [0, '']);
      assert.match((await shown('off', "logLevel: 'debug'"))[1], / debug actpass: call completed /);
      const [failed, message] = await shown('loud');
      assert.equal(failed, 1);
      assert.match(message, /ActPassConfigError: ACTPASS_LOG: expected off, error, warn, info or debug, found "loud"/);
    }));
});
