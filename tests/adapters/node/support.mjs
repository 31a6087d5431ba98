/** Shared by the tests of all adapters: gateways, the guarded tool, and the cases that every adapter has to pass. */

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { ActPass } from '@actpass/sdk';

export const ALLOWED = { charge: 'ch_1', amount: 4900, currency: 'usd' };
export const NEEDS_APPROVAL = { charge: 'ch_2', amount: 25_000, currency: 'usd' };
export const DENIED = { charge: 'ch_3', amount: 90_000, currency: 'usd' };
/** The meaning of the tool `refund` to the policy. */
export const ACTION = {
  tool: 'stripe.refund.create',
  goal: 'resolve_refund_request',
  resource: 'stripe:charge:{charge}',
};

/** Returns a client of the gateway at `baseUrl`. */
export function newClient(baseUrl, settings = {}) {
  return new ActPass({
    apiKey: 'apk_dev',
    agentId: 'support_agent',
    baseUrl,
    timeoutMs: 10_000,
    maxRetries: 0,
    ...settings,
  });
}

/** Returns a client whose first answer to a question about a pause arrives after a person approved all pending requests. */
export function approvedAfterTheQuestion(baseUrl) {
  const client = newClient(baseUrl);
  const preflight = client.preflight.bind(client);
  client.preflight = async (options) => {
    const answer = await preflight(options);
    await decide(baseUrl, 'approve');
    return answer;
  };
  return client;
}

/** The tool's effect: its arguments, once for each time that it ran. */
export class Effects {
  ran = [];

  /** Refunds a charge; with the charge `ch_fails` it fails afterwards, with `this.failure`. */
  refund = async (args) => {
    this.ran.push(args);
    if (args.charge === 'ch_fails') {
      throw this.failure;
    }
    return `refunded ${args.amount}`;
  };

  clock = async () => {
    this.ran.push('clock');
    return 'noon';
  };

  failure = new TypeError('the receipt printer is on fire');
}

/** Runs the real gateway, with its example policy for refunds, while `body` runs. */
export async function withGateway(body) {
  const program = process.env.ACTPASS_GATEWAY;
  assert.ok(program, 'ACTPASS_GATEWAY must be the path of the built gateway');
  const folder = mkdtempSync(join(tmpdir(), 'actpass-adapters-'));
  const child = spawn(program, ['dev', '--listen', '127.0.0.1:0', '--data', join(folder, 'data.db')], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  try {
    const [line] = await once(createInterface({ input: child.stdout }), 'line');
    return await body(/^listening on (\S+)$/.exec(line)[1]);
  } finally {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

const DECIDE = `
  const [baseUrl, decision, amount] = process.argv.slice(1);
  const headers = { authorization: 'Bearer apdv_dev', 'content-type': 'application/json' };
  for (;;) {
    const { approvals } = await (await fetch(baseUrl + '/api/v1/approvals', { headers })).json();
    const found = approvals.filter((one) => amount === '' || one.args.amount === Number(amount));
    for (const { id } of found) {
      const answer = await fetch(baseUrl + '/api/v1/approvals/' + id + '/' + decision, { method: 'POST', headers, body: '{}' });
      if (!answer.ok) throw new Error(await answer.text());
      console.log(id);
    }
    if (found.length > 0) break;
    await new Promise((go) => setTimeout(go, 20));
  }`;

/** Decides the pending approvals, all or those of one amount, in another process; waits for one. Returns their ids. */
export async function decide(baseUrl, decision, amount = '') {
  const run = promisify(execFile);
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', DECIDE, baseUrl, decision, `${amount}`]);
  return stdout.trim().split('\n');
}

/** Returns the ids of pending approvals. */
export async function pendingIds(baseUrl) {
  const headers = { authorization: 'Bearer apdv_dev' };
  const { approvals } = await (await fetch(`${baseUrl}/api/v1/approvals`, { headers })).json();
  return approvals.map(({ id }) => id);
}

/** Runs a server that answers each preflight with `respond(action, response)`, and records the actions. */
export async function withScript(respond, body) {
  const asked = [];
  const server = createServer(async (request, response) => {
    const text = Buffer.concat(await request.toArray()).toString();
    const action = text === '' ? {} : JSON.parse(text);
    asked.push({ path: request.url, ...action });
    const answer = respond(action, response);
    if (answer !== undefined) {
      response
        .setHeader('content-type', 'application/json')
        .end(typeof answer === 'string' ? answer : JSON.stringify(answer));
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    return await body(`http://127.0.0.1:${server.address().port}`, asked);
  } finally {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  }
}

export const ALLOW = { decision: 'allow', reason_code: 'test.allow', evidence_event_id: 'ev_1' };
export const DENY = { decision: 'deny', reason_code: 'test.deny' };

/** Gateways that fail, each with the reason code of the SDK's denial. */
const HOSTILE = {
  refuses: { respond: (_action, response) => void response.destroy(), code: 'actpass.unreachable' },
  hangs: { respond: () => undefined, code: 'actpass.timeout' },
  'answers 500': {
    respond: (_action, response) => {
      response.statusCode = 500;
      return ALLOW;
    },
    code: 'actpass.gateway_error',
  },
  'answers nonsense': { respond: () => '{"decision": ["allow"]}', code: 'actpass.invalid_response' },
};

/** Defines a test that fails unless the tool ran `ran` times; records the case. `name` is one of `cases.json`. */
export function adapterCase(framework, name, variant, ran, body) {
  test(`${framework}: ${name} (${variant})`, async (context) => {
    const effects = new Effects();
    await body(effects, context);
    assert.equal(effects.ran.length, ran, `the tool ran with ${JSON.stringify(effects.ran)}`);
    if (process.env.ACTPASS_ADAPTER_CASES) {
      appendFileSync(process.env.ACTPASS_ADAPTER_CASES, `${JSON.stringify({ framework, case: name, variant, ran })}\n`);
    }
  });
}

/** Fails unless `text` is a text for a model about `reason`. */
export function assertBlocked(text, reason) {
  assert.match(text, /was not run/);
  assert.ok(text.includes(reason), `expected ${reason} in ${JSON.stringify(text)}`);
  assert.doesNotMatch(text, /127\.0\.0\.1|apk_dev/);
}

/**
 * Defines the cases that do not depend on how a framework pauses, once for each of `driver.ways`, such as plain and streaming.
 *
 * `driver.run({ client, effects, calls, actions, options, signal, way })` runs a scripted model that makes `calls`
 * (`{ name, args, id }`, `args` an object or a JSON text) in one turn, and returns the texts that the model then gets, one for
 * each call. The tools are `refund` (`charge`, `amount`: numbers, `currency`: default `usd`) and `clock`, which needs no
 * arguments, counts too (`effects.clock`) and returns `noon`.
 *
 * - `driver.raw`: whether the framework takes JSON texts. `driver.throws`: whether it shows the tool's own error to the model.
 * - `driver.aborts`: whether it takes a signal. `driver.parallel`: whether a turn may have several calls.
 * - `driver.interrupts`: whether `approvals: 'interrupt'` pauses.
 * - `driver.evaluatesOutside`: whether the arguments are evaluated before the schema of the tool.
 * - `driver.construct(client, tools, actions)` guards the named tools and returns nothing.
 */
export function commonCases(driver) {
  for (const way of driver.ways) {
    const define = (name, ran, body, variant = '') =>
      adapterCase(driver.framework, name, `${way}${variant && `, ${variant}`}`, ran, body);
    const run = (given) =>
      driver.run({
        actions: { refund: ACTION, clock: driver.UNGUARDED },
        options: undefined,
        way,
        ...given,
        calls: given.calls.map((args, index) =>
          'args' in args
            ? { name: 'refund', id: `call_${index}`, ...args }
            : { name: 'refund', id: `call_${index}`, args },
        ),
      });

    define('allow', 1, (effects) =>
      withGateway(async (baseUrl) => {
        const [text] = await run({ client: newClient(baseUrl), effects, calls: [ALLOWED] });
        assert.match(text, /refunded 4900/);
        assert.deepEqual(effects.ran, [ALLOWED]);
      }),
    );
    define('deny', 0, (effects) =>
      withGateway(async (baseUrl) => {
        const [text] = await run({ client: newClient(baseUrl), effects, calls: [DENIED] });
        assertBlocked(text, 'refund.over_limit');
      }),
    );
    for (const [name, { respond, code }] of Object.entries(HOSTILE)) {
      define(`gateway ${name}`, 0, (effects) =>
        withScript(respond, async (baseUrl) => {
          const timeoutMs = name === 'hangs' ? 300 : 10_000;
          const [text] = await run({ client: newClient(baseUrl, { timeoutMs }), effects, calls: [ALLOWED] });
          assertBlocked(text, code);
        }),
      );
    }
    define('adapter raises', 0, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl, asked) => {
          const goal = () => {
            throw new Error('no goal today');
          };
          const actions = { refund: { ...ACTION, goal }, clock: driver.UNGUARDED };
          const [text] = await run({ client: newClient(baseUrl), effects, calls: [ALLOWED], actions });
          assert.match(text, /goal/);
          assert.equal(asked.length, 0);
        },
      ),
    );
    define('approval pending', 0, (effects) =>
      withGateway(async (baseUrl) => {
        const [text] = await run({
          client: newClient(baseUrl),
          effects,
          calls: [NEEDS_APPROVAL],
          options: { approvals: 'tell' },
        });
        assertBlocked(text, 'require_approval');
        assert.equal((await pendingIds(baseUrl)).length, 1);
      }),
    );
    define('same call again after approval', 1, (effects) =>
      withGateway(async (baseUrl) => {
        const client = newClient(baseUrl);
        const ask = async () =>
          (await run({ client, effects, calls: [NEEDS_APPROVAL], options: { approvals: 'tell' } }))[0];
        assertBlocked(await ask(), 'require_approval');
        assertBlocked(await ask(), 'require_approval');
        assert.equal((await decide(baseUrl, 'approve')).length, 1);
        assert.match(await ask(), /refunded 25000/);
        assertBlocked(await ask(), 'require_approval');
      }),
    );
    define(
      'approved in another process',
      1,
      (effects) =>
        withGateway(async (baseUrl) => {
          const given = { effects, calls: [NEEDS_APPROVAL], options: { approvals: 'tell' } };
          await run({ client: newClient(baseUrl), ...given });
          await decide(baseUrl, 'approve');
          assert.match((await run({ client: newClient(baseUrl), ...given }))[0], /refunded 25000/);
        }),
      'told',
    );
    if (driver.interrupts) {
      // The question whether to pause must not spend the approval.
      define(
        'approved in another process',
        1,
        (effects) =>
          withGateway(async (baseUrl) => {
            const given = { effects, calls: [NEEDS_APPROVAL] };
            await run({ client: newClient(baseUrl), ...given, options: { approvals: 'tell' } });
            await decide(baseUrl, 'approve');
            const options = { approvals: 'interrupt' };
            assert.match((await run({ client: newClient(baseUrl), ...given, options }))[0], /refunded 25000/);
            assert.deepEqual(await pendingIds(baseUrl), []);
          }),
        'before the run',
      );
    }
    define('approval rejected', 0, (effects) =>
      withGateway(async (baseUrl) => {
        const options = { approvals: 'hold', holdMs: 30_000 };
        const [[text]] = await Promise.all([
          run({ client: newClient(baseUrl), effects, calls: [NEEDS_APPROVAL], options }),
          decide(baseUrl, 'reject'),
        ]);
        assertBlocked(text, 'approval.rejected');
      }),
    );
    define('approval held', 1, (effects) =>
      withGateway(async (baseUrl) => {
        const options = { approvals: 'hold', holdMs: 30_000 };
        const [[text]] = await Promise.all([
          run({ client: newClient(baseUrl), effects, calls: [NEEDS_APPROVAL], options }),
          decide(baseUrl, 'approve'),
        ]);
        assert.match(text, /refunded 25000/);
      }),
    );
    define('approval held too long', 0, (effects) =>
      withGateway(async (baseUrl) => {
        const options = { approvals: 'hold', holdMs: 50 };
        const [text] = await run({ client: newClient(baseUrl), effects, calls: [NEEDS_APPROVAL], options });
        assertBlocked(text, 'actpass.approval_timeout');
        await decide(baseUrl, 'approve');
      }),
    );
    define('approval expired', 0, (effects) =>
      withScript(
        () => ({ decision: 'deny', reason_code: 'approval.expired' }),
        async (baseUrl) => {
          const [text] = await run({ client: newClient(baseUrl), effects, calls: [NEEDS_APPROVAL] });
          assertBlocked(text, 'approval.expired');
        },
      ),
    );
    if (driver.aborts) {
      define('cancelled before the decision', 0, async (effects) => {
        const controller = new AbortController();
        let onClosed;
        const closed = new Promise((resolve) => (onClosed = resolve));
        const abort = (_action, response) => {
          response.on('close', onClosed);
          setImmediate(() => controller.abort());
        };
        await withScript(abort, async (baseUrl, asked) => {
          // The client gives up because of the signal, long before its timeout.
          const client = newClient(baseUrl, { timeoutMs: 3_600_000 });
          await run({ client, effects, calls: [ALLOWED], signal: controller.signal }).catch(() => {});
          await closed;
          assert.equal(asked.length, 1);
        });
      });
    }
    if (driver.parallel) {
      define('parallel: allow and deny', 1, (effects) =>
        withGateway(async (baseUrl) => {
          const texts = await run({ client: newClient(baseUrl), effects, calls: [ALLOWED, DENIED] });
          assert.match(texts[0], /refunded 4900/);
          assertBlocked(texts[1], 'refund.over_limit');
        }),
      );
      define('parallel: allow and approval', 2, (effects) =>
        withGateway(async (baseUrl) => {
          const options = { approvals: 'hold', holdMs: 30_000 };
          const [texts] = await Promise.all([
            run({ client: newClient(baseUrl), effects, calls: [ALLOWED, NEEDS_APPROVAL], options }),
            decide(baseUrl, 'approve'),
          ]);
          assert.match(texts[0], /refunded 4900/);
          assert.match(texts[1], /refunded 25000/);
        }),
      );
      define('parallel: two approvals', 2, (effects) =>
        withGateway(async (baseUrl) => {
          const client = newClient(baseUrl);
          const other = { ...NEEDS_APPROVAL, charge: 'ch_4', amount: 30_000 };
          const ask = () => run({ client, effects, calls: [NEEDS_APPROVAL, other], options: { approvals: 'tell' } });
          await ask();
          assert.equal(effects.ran.length, 0);
          await decide(baseUrl, 'approve', 30_000);
          const texts = await ask();
          assertBlocked(texts[0], 'require_approval');
          assert.deepEqual(effects.ran, [other]);
          await decide(baseUrl, 'approve', 25_000);
          await ask();
          assert.deepEqual(effects.ran, [other, NEEDS_APPROVAL]);
        }),
      );
      if (driver.repeatsIds !== false) {
        define('same call id twice', driver.ranOn?.sameId?.(way) ?? 2, (effects) =>
          withScript(
            () => ALLOW,
            async (baseUrl, asked) => {
              const calls = [ALLOWED, ALLOWED].map((args) => ({ id: 'call_same', args }));
              await run({ client: newClient(baseUrl), effects, calls });
              assert.equal(asked.length, effects.ran.length);
            },
          ),
        );
      }
    }
    define('tool fails after its effect', 2, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl, asked) => {
          const calls = [{ ...ALLOWED, charge: 'ch_fails' }];
          for (const _ of [1, 2]) {
            const [text] = await run({ client: newClient(baseUrl), effects, calls }).catch((error) => {
              assert.equal(error, effects.failure);
              return [error.message];
            });
            assert.ok(driver.throws === false || text.includes('printer is on fire'), text);
          }
          assert.equal(asked.length, 2);
        },
      ),
    );
    define('tool raises', 1, (effects) =>
      withScript(
        () => ALLOW,
        async (baseUrl) => {
          const calls = [{ ...ALLOWED, charge: 'ch_fails' }];
          const [text] = await run({ client: newClient(baseUrl), effects, calls }).catch((error) => {
            assert.equal(error, effects.failure);
            return [error.message];
          });
          assert.doesNotMatch(text, /was not run/);
        },
      ),
    );
    define('unguarded', 1, (effects) =>
      withScript(
        () => DENY,
        async (baseUrl, asked) => {
          const [text] = await run({ client: newClient(baseUrl), effects, calls: [{ name: 'clock', args: {} }] });
          assert.match(text, /noon/);
          assert.equal(asked.length, 0);
        },
      ),
    );

    const evaluated = (name, args, ran) =>
      define(`arguments: ${name}`, ran, (effects) =>
        withScript(
          () => ALLOW,
          async (baseUrl, asked) => {
            await run({ client: newClient(baseUrl), effects, calls: [{ args }] }).catch(() => {});
            const evaluated = asked.map((one) => one.args);
            if (driver.evaluatesOutside) {
              // The schema may reject the evaluated arguments, drop unknown members, and add its default.
              assert.equal(evaluated.length >= ran, true);
              effects.ran.forEach((one, index) =>
                assert.deepEqual(
                  { currency: 'usd', ...evaluated[index], ...one },
                  { currency: 'usd', ...evaluated[index] },
                ),
              );
            } else {
              assert.deepEqual(evaluated, effects.ran);
            }
          },
        ),
      );
    evaluated('string for a number', { ...ALLOWED, amount: '4900' }, driver.ranOn?.text ?? 0);
    evaluated('missing default', { charge: 'ch_1', amount: 4900 }, 1);
    evaluated('extra member', { ...ALLOWED, note: 'hi' }, driver.ranOn?.extra ?? 1);
    evaluated('bool', { ...ALLOWED, amount: true }, driver.ranOn?.boolean ?? 0);
    if (driver.raw) {
      evaluated('4900.0', '{"charge": "ch_1", "amount": 4900.0, "currency": "usd"}', 1);
      evaluated('NaN', '{"charge": "ch_1", "amount": NaN, "currency": "usd"}', 0);
      evaluated('invalid JSON', '{"charge": "ch_1", "amount": ', 0);
      evaluated(
        'duplicate keys',
        '{"charge": "ch_1", "amount": 90000, "amount": 4900, "currency": "usd"}',
        driver.ranOn?.twice ?? 1,
      );
    }
  }

  const refused = (variant, tools, actions, message) =>
    adapterCase(driver.framework, 'coverage: unmapped', variant, 0, async (effects) => {
      const client = newClient('http://127.0.0.1:9');
      await assert.rejects(
        async () => driver.construct(client, effects, tools, actions),
        (error) => {
          assert.equal(error.name, 'ActPassArgumentError');
          assert.match(error.message, message);
          return true;
        },
      );
    });
  if (driver.constructs === false) {
    return;
  }
  refused('construction, no action', ['refund', 'clock'], {}, /refund.*clock|clock.*refund/);
  if (driver.knowsTools !== false) {
    refused('construction, no tool', ['clock'], { clock: driver.UNGUARDED, refnud: ACTION }, /refnud/);
  }
}

/** Defines a test that runs `examples/node/NAME`; its output shows that the refund ran once, after the approval. */
export function exampleCase(framework, name) {
  test(`${framework}: ${name}`, async () => {
    const program = [join(import.meta.dirname, name), process.env.ACTPASS_GATEWAY];
    const { stdout } = await promisify(execFile)(process.execPath, program);
    assert.match(stdout, /^paused: [^]*approved in another process: [^]*refunding ch_2: 25000\n/);
    assert.equal(stdout.split('refunding').length, 2);
  });
}

/**
 * Defines a test that compiles `types.mts` of the framework's folder and the code blocks of `docs/how-to/GUIDE`, as one module, with
 * the types of the framework.
 */
export function typesCase(framework, guide) {
  test(`${framework}: types`, async () => {
    const modules = join(process.env.ACTPASS_ROOT, 'bindings-node', 'node_modules');
    const compiler = join(modules, 'typescript-5.9', 'lib', 'tsc.js');
    const strict = [
      '--strict',
      '--exactOptionalPropertyTypes',
      '--noUncheckedIndexedAccess',
      '--skipLibCheck',
      '--noEmit',
    ];
    const target = ['--target', 'es2022', '--module', 'nodenext', '--lib', 'es2024,dom', '--types', 'node'];
    const roots = ['--typeRoots', join(modules, '@types')];
    const page = readFileSync(join(process.env.ACTPASS_ROOT, 'docs', 'how-to', guide), 'utf8');
    const blocks = [...page.matchAll(/^```ts\n([^]*?)^```$/gm)].map(([, block]) => block);
    assert.ok(blocks.length > 0);
    // The names that the reader supplies.
    const given = 'declare const model: any, checkpointer: any;\n';
    const files = ['types.mts', 'guide.mts'].map((name) => join(import.meta.dirname, name));
    writeFileSync(files[1], given + blocks.join('\n'));
    const run = promisify(execFile);
    await run(process.execPath, [compiler, ...strict, ...target, ...roots, ...files]).catch(({ stdout }) =>
      assert.fail(stdout),
    );
  });
}
