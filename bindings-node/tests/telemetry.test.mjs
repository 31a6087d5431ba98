/** The OpenTelemetry signals of calls; `docs/telemetry.md` lists the names. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, before, beforeEach, describe, test } from 'node:test';
import { ActPass } from '@actpass/sdk';
import { context, metrics, trace } from '@opentelemetry/api';
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics';
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node';
import { ACTION, ALLOW, answer, Hostile, newClient, rejection, runModule } from './support.mjs';

const hostile = new Hostile();
const DENY = answer({ decision: 'deny', reason_code: 'refund.over_limit' });
const RECORDED = answer({ event_id: 'ev_2', current_event_hash: '00' });
const GIVEN = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

/** The `traceparent` of each request. */
async function sentTo(gateway) {
  return (await gateway.seen()).map((one) => new Map(one.headers).get('traceparent'));
}

function textOf(span) {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return `00-${traceId}-${spanId}-0${traceFlags}`;
}

describe('without OpenTelemetry', () => {
  test('no trace is sent and no package is required', async () => {
    const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
    const peers = Object.keys(manifest.peerDependencies);
    assert.ok(peers.includes('@opentelemetry/api'));
    assert.deepEqual(
      [manifest.dependencies, manifest.peerDependenciesMeta],
      [undefined, Object.fromEntries(peers.map((name) => [name, { optional: true }]))],
    );
    await hostile.play([answer(ALLOW)], async (gateway) => {
      await newClient(gateway.baseUrl).preflight(ACTION);
      assert.deepEqual(await sentTo(gateway), [undefined]);
    });
  });

  test('every request of a call has the given traceparent', async () => {
    await hostile.play([answer(ALLOW), RECORDED, answer(ALLOW), RECORDED], async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      const { executed } = await actpass.guard({
        ...ACTION,
        traceparent: GIVEN,
        recordOutcome: true,
        execute: () => 1,
      });
      assert.ok(executed);
      await actpass.protect(() => 1, { ...ACTION, args: () => ({}), traceparent: GIVEN })();
      await actpass.recordEvidence({ eventType: 'e', chainId: 'c', traceparent: GIVEN });
      assert.deepEqual(await sentTo(gateway), [GIVEN, GIVEN, GIVEN, GIVEN]);
    });
  });

  test('rejects an invalid traceparent; nothing is sent or run', async () => {
    await hostile.play([answer(ALLOW)], async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      for (const traceparent of ['', 'x', GIVEN.toUpperCase(), `${GIVEN}\r\n`, 7, null]) {
        for (const mode of ['enforce', 'monitor']) {
          const execute = () => assert.fail('it ran');
          const error = await rejection(actpass.guard({ ...ACTION, mode, traceparent, execute }));
          assert.equal(error.code, 'actpass.invalid_argument');
          assert.match(error.message, /^traceparent: /);
        }
      }
      assert.deepEqual(await gateway.seen(), []);
    });
  });
});

describe('with OpenTelemetry', () => {
  const exporter = new InMemorySpanExporter();
  const points = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter: points, exportIntervalMillis: 3_600_000 });
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  const meters = new MeterProvider({ readers: [reader] });
  let tracer;

  before(() => {
    provider.register();
    metrics.setGlobalMeterProvider(meters);
    tracer = trace.getTracer('tests');
  });

  beforeEach(() => exporter.reset());

  afterEach(() => exporter.reset());

  /** The recorded spans, oldest first. */
  function spans() {
    return exporter
      .getFinishedSpans()
      .map(({ name, attributes, status, kind }) => ({ name, attributes, status, kind }));
  }

  test('the current trace is sent, and the function runs inside the span', async () => {
    let inside;
    await hostile.play([answer(ALLOW), RECORDED], async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      await tracer.startActiveSpan('outside', async (outside) => {
        await actpass.guard({
          ...ACTION,
          recordOutcome: true,
          execute: async () => {
            await null;
            inside = tracer.startSpan('inside');
            inside.end();
          },
        });
        assert.equal(trace.getActiveSpan(), outside);
        outside.end();
      });
      const [within, guard, outside] = exporter.getFinishedSpans();
      assert.deepEqual([within.name, guard.name, outside.name], ['inside', 'actpass.guard', 'outside']);
      assert.equal(guard.parentSpanContext.spanId, outside.spanContext().spanId);
      assert.equal(within.parentSpanContext.spanId, guard.spanContext().spanId);
      assert.deepEqual(await sentTo(gateway), [textOf(guard), textOf(guard)]);
    });
  });

  test('a given traceparent overrides the current trace', async () => {
    await hostile.play([answer(ALLOW)], async (gateway) => {
      await tracer.startActiveSpan('outside', async (outside) => {
        await newClient(gateway.baseUrl).preflight({ ...ACTION, traceparent: GIVEN });
        outside.end();
      });
      assert.deepEqual(await sentTo(gateway), [GIVEN]);
    });
  });

  test('concurrent calls keep their own trace', async () => {
    const count = 16;
    await hostile.play(Array(count).fill(answer(ALLOW)), async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      const one = (at) =>
        tracer.startActiveSpan(`outside ${at}`, async (outside) => {
          await actpass.guard({
            ...ACTION,
            args: { at },
            execute: () => assert.notEqual(trace.getActiveSpan(), outside),
          });
          outside.end();
          return outside.spanContext().traceId;
        });
      const traces = await Promise.all(Array.from({ length: count }, (_, at) => one(at)));
      for (const request of await gateway.seen()) {
        const { at } = JSON.parse(request.body).args;
        assert.equal(new Map(request.headers).get('traceparent').split('-')[1], traces[at]);
      }
    });
  });

  test('a span has the decision and whether the action ran', async () => {
    await hostile.play([answer(ALLOW), DENY, answer(ALLOW), answer({}, { status: 500 })], async (gateway) => {
      const actpass = newClient(gateway.baseUrl, { mode: 'warn' });
      await actpass.guard({ ...ACTION, execute: () => 1 });
      await actpass.guard({ ...ACTION, mode: 'enforce', execute: () => 1 });
      await actpass.guard({ ...ACTION, execute: () => Promise.reject(new RangeError('secret')) });
      await actpass.guard({ ...ACTION, execute: () => 1 });
      await rejection(actpass.guard({ ...ACTION, args: 7, execute: () => 1 }));
    });
    const about = { 'actpass.operation': 'guard', 'actpass.tool': ACTION.tool, 'actpass.mode': 'warn' };
    const allowed = {
      ...about,
      'actpass.decision': 'allow',
      'actpass.reason_code': ALLOW.reason_code,
      'actpass.evidence_event_id': ALLOW.evidence_event_id,
      'actpass.executed': true,
    };
    const [ran, denied, failed, unreachable, wrong] = spans();
    assert.deepEqual(ran, { name: 'actpass.guard', kind: 2, status: { code: 0 }, attributes: allowed });
    assert.deepEqual(denied.attributes, {
      ...about,
      'actpass.mode': 'enforce',
      'actpass.decision': 'deny',
      'actpass.reason_code': 'refund.over_limit',
      'actpass.executed': false,
    });
    assert.deepEqual(denied.status, { code: 0 });
    assert.deepEqual([failed.attributes, failed.status], [{ ...allowed, 'error.type': 'RangeError' }, { code: 2 }]);
    assert.equal(unreachable.attributes['error.type'], 'actpass.gateway_error');
    assert.equal(unreachable.attributes['actpass.executed'], false);
    assert.deepEqual([wrong.attributes['error.type'], wrong.status], ['actpass.invalid_argument', { code: 2 }]);
    assert.ok(!JSON.stringify(spans()).includes('secret'));
  });

  test('a function that throws undefined is recorded as failed', async () => {
    await hostile.play([answer(ALLOW)], async (gateway) => {
      const outcome = await newClient(gateway.baseUrl).guard({ ...ACTION, execute: () => Promise.reject() });
      assert.deepEqual([outcome.kind, 'result' in outcome, outcome.error.name], ['failed', false, 'Error']);
    });
    const [{ attributes, status }] = spans();
    assert.deepEqual(
      [attributes['error.type'], attributes['actpass.executed'], status],
      ['undefined', true, { code: 2 }],
    );
  });

  test('every call has a span with the documented name', async () => {
    const table = readFileSync(new URL('../../docs/telemetry.md', import.meta.url), 'utf8');
    const actpass = newClient('http://127.0.0.1:9');
    const calls = {
      preflight: () => actpass.preflight(ACTION),
      guard: () => actpass.guard({ ...ACTION, execute: () => 1 }),
      authorize: () => actpass.authorize(ACTION),
      resume: () => actpass.resume({}, { execute: () => 1 }),
      wait_for_approval: () => actpass.waitForApproval('apr_1'),
      issue_passport: () => actpass.issuePassport({ audience: 'a', goal: 'g', allowedTools: ['t'] }),
      verify_passport: () => actpass.verifyPassport({ token: 't', audience: 'a' }),
      verify_passport_offline: () => actpass.verifyPassportOffline({ token: 't', audience: 'a' }),
      revoke_passport: () => actpass.revokePassport('ap_1'),
      record_evidence: () => actpass.recordEvidence({ eventType: 'e', chainId: 'c' }),
    };
    for (const [name, call] of Object.entries(calls)) {
      exporter.reset();
      await call().catch(() => {});
      const [span] = spans();
      assert.deepEqual([span.name, span.attributes['actpass.operation']], [`actpass.${name}`, name]);
      assert.ok(table.includes(`\`actpass.${name}\``), name);
      for (const attribute of Object.keys(span.attributes)) {
        assert.ok(table.includes(`\`${attribute}\``), attribute);
      }
    }
  });

  test('an unmapped tool has the span and the duration of a guard', async () => {
    const actpass = newClient('http://127.0.0.1:9');
    exporter.reset();
    await actpass.protectTools({}, {}, { onBlocked: () => 1 }).rm();
    const [{ name, attributes }] = spans();
    assert.deepEqual(
      [name, attributes],
      [
        'actpass.guard',
        {
          'actpass.operation': 'guard',
          'actpass.tool': 'rm',
          'actpass.decision': 'deny',
          'actpass.reason_code': 'actpass.unmapped_tool',
          'actpass.executed': false,
        },
      ],
    );
  });

  test('records the duration of the gateway call', async () => {
    await hostile.play([answer({ decision: 'warn' }, { delay_ms: 60 })], async (gateway) => {
      await newClient(gateway.baseUrl).guard({
        ...ACTION,
        mode: 'warn',
        execute: () => new Promise((resolve) => setTimeout(resolve, 400)),
      });
    });
    await reader.forceFlush();
    const [{ scopeMetrics }] = points.getMetrics().slice(-1);
    const [metric] = scopeMetrics.flatMap((scope) => scope.metrics);
    assert.deepEqual([metric.descriptor.name, metric.descriptor.unit], ['actpass.client.duration', 's']);
    const ours = metric.dataPoints.filter(
      ({ attributes }) => attributes['actpass.operation'] === 'guard' && attributes['actpass.decision'] === 'warn',
    );
    const [{ attributes, value }] = ours;
    assert.deepEqual(attributes, { 'actpass.operation': 'guard', 'actpass.decision': 'warn' });
    assert.equal(value.buckets.boundaries[0], 0.0005);
    assert.ok(value.max >= 0.06, `${value.max}`);
    assert.ok(value.max < 0.4, 'the duration includes the function');
  });

  test('failing processors, samplers and exporters do not affect outcomes', async () => {
    const key = Symbol.for('opentelemetry.js.api.1');
    const kept = globalThis[key];
    const fail = () => {
      throw new Error('of the program');
    };
    const quiet = { onStart() {}, onEnd() {}, forceFlush: async () => {}, shutdown: async () => {} };
    const exporting = (exported) => new SimpleSpanProcessor({ export: exported, shutdown: async () => {} });
    const providers = {
      'a processor at the start': { spanProcessors: [{ ...quiet, onStart: fail }] },
      'a processor at the end': { spanProcessors: [{ ...quiet, onEnd: fail }] },
      'a processor while ending': { spanProcessors: [{ ...quiet, onEnding: fail }] },
      'a sampler': { sampler: { shouldSample: fail }, spanProcessors: [quiet] },
      'a sampler of nonsense': { sampler: { shouldSample: () => undefined }, spanProcessors: [quiet] },
      'ids of nonsense': { idGenerator: { generateTraceId: () => 7, generateSpanId: fail }, spanProcessors: [quiet] },
      'an exporter that throws': { spanProcessors: [exporting(fail)] },
      'an exporter that reports a failure': { spanProcessors: [exporting((_, done) => done({ code: 1 }))] },
      'an exporter that never ends': { spanProcessors: [exporting(() => {})] },
    };
    await hostile.play([answer(ALLOW)], async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      for (const [name, settings] of Object.entries(providers)) {
        const broken = new NodeTracerProvider(settings);
        globalThis[key] = { version: kept.version, context: kept.context, trace: broken };
        try {
          const own = new Error('own');
          let runs = 0;
          const returned = await actpass.guard({ ...ACTION, execute: () => (runs += 1) });
          assert.deepEqual([returned.executed, returned.result], [true, 1], name);
          assert.equal((await actpass.guard({ ...ACTION, execute: () => Promise.reject(own) })).error, own, name);
          assert.equal(await actpass.protect(() => (runs += 1), { ...ACTION, args: {} })(), 2, name);
        } finally {
          globalThis[key] = kept;
        }
      }
    });
  });

  test('a broken API does not affect outcomes', async () => {
    const key = Symbol.for('opentelemetry.js.api.1');
    const kept = globalThis[key];
    const fail = () => {
      throw new Error('of the program');
    };
    const broken = [
      7,
      { trace: { getTracer: fail } },
      { trace: {}, metrics: {}, context: {} },
      { trace: kept.trace, context: { active: () => context.active(), with: fail } },
      { trace: kept.trace, context: { active: fail, with: fail }, metrics: { getMeter: fail } },
      {
        trace: { getTracer: () => ({ startSpan: () => ({ setAttribute: fail, end: fail, spanContext: fail }) }) },
        context: kept.context,
      },
      {
        trace: { getTracer: () => ({ startSpan: () => ({ spanContext: () => ({ traceId: '"', spanId: 1 }) }) }) },
        context: kept.context,
      },
    ];
    await hostile.play(Array(2 * broken.length).fill(answer(ALLOW)), async (gateway) => {
      const actpass = newClient(gateway.baseUrl);
      try {
        for (const api of broken) {
          globalThis[key] = typeof api === 'object' ? { version: kept.version, ...api } : api;
          let runs = 0;
          const { executed, result } = await actpass.guard({ ...ACTION, execute: () => (runs += 1) });
          assert.deepEqual([executed, result, runs], [true, 1, 1]);
          const error = await rejection(actpass.protect(fail, ACTION)());
          assert.equal(error.message, 'of the program');
        }
      } finally {
        globalThis[key] = kept;
      }
      assert.equal((await gateway.seen()).length, 2 * broken.length);
    });
  });
});

/** Runs a separate program; `setUp` configures its OpenTelemetry and console. */
async function programWith(setUp, flags = []) {
  const code = `
    import { ActPass } from '@actpass/sdk';
    import { createServer } from 'node:http';
    const fail = () => { throw new Error('of the observer'); };
    const reject = () => Promise.reject(new Error('of the observer'));
    const later = () => ({ then: (_, no) => setTimeout(() => no(new Error('of the observer')), 1) });
    const key = Symbol.for('opentelemetry.js.api.1');
    ${setUp}
    const server = createServer((request, response) => {
      request.resume();
      const isEvidence = request.url.endsWith('/events');
      response.end(JSON.stringify(isEvidence ? { event_id: 'ev_2' } : { decision: 'allow' }));
    });
    server.listen(0, '127.0.0.1', async () => {
      const baseUrl = 'http://127.0.0.1:' + server.address().port;
      const actpass = new ActPass({ apiKey: 'apk_dev', baseUrl, maxRetries: 0 });
      const action = { goal: 'g', tool: 't', args: {}, recordOutcome: true };
      const result = {};
      let runs = 0;
      for (let round = 0; round < 2; round += 1) {
        const returned = await actpass.guard({ ...action, execute: () => ((runs += 1), result) });
        const own = new Error('own');
        const thrown = await actpass.guard({ ...action, execute: () => { runs += 1; throw own; } });
        const safe = actpass.protect(async () => ((runs += 1), result), { goal: 'g', tool: 't' });
        const kept = [returned.result === result, returned.evidence?.event_id === 'ev_2', thrown.error === own,
          thrown.evidence?.event_id === 'ev_2', (await safe()) === result, (await actpass.preflight({ goal: 'g', tool: 't', args: {} })).decision === 'allow'];
        if (kept.includes(false)) process.stdout.write(JSON.stringify(kept));
      }
      // An unhandled rejection would end the process here.
      await new Promise((resolve) => setTimeout(resolve, 20));
      process.stdout.write('runs ' + runs);
      server.close();
      server.closeAllConnections();
    });`;
  return runModule(code, { flags });
}

describe('a failing observer does not affect outcomes', () => {
  const span = (how) =>
    `{ spanContext: ${how}, setAttribute: ${how}, setStatus: ${how}, recordException: ${how}, addEvent: ${how}, end: ${how} }`;
  const { version } = JSON.parse(
    readFileSync(new URL('../node_modules/@opentelemetry/api/package.json', import.meta.url)),
  );
  const api = (members) => `globalThis[key] = ${members.replace('{', `{ version: '${version}', `)};`;
  const context = `{ active: () => ({ getValue: () => undefined, setValue() { return this; } }), with: (_, call) => call() }`;
  const tracer = (startSpan) => `trace: { getTracer: () => ({ startSpan: ${startSpan} }) }`;
  const programs = {
    'a getter of the global object': `Object.defineProperty(globalThis, key, { get: fail });`,
    'a symbol registry': `const own = Symbol.for; Symbol.for = (name) => (name.startsWith('opentelemetry') ? fail() : own(name));`,
    'a proxy in its place': api(`new Proxy({}, { get: fail })`),
    'a getter of the API': api(
      `{ get trace() { return fail(); }, get metrics() { return fail(); }, get context() { return fail(); } }`,
    ),
    'a getter of the API, only the second time':
      `let reads = 0;` + api(`{ get trace() { return (reads += 1) % 2 ? {} : fail(); } }`),
    'a provider of tracers': api(`{ trace: { getTracer: fail } }`),
    'a provider of tracers that rejects': api(`{ trace: { getTracer: reject } }`),
    'a sampler': api(`{ ${tracer('fail')}, context: ${context} }`),
    'a tracer that rejects': api(`{ ${tracer('reject')}, context: ${context} }`),
    'a tracer that rejects later': api(`{ ${tracer('later')}, context: ${context} }`),
    'a tracer that starts nothing': api(`{ ${tracer('() => undefined')}, context: ${context} }`),
    'a tracer that starts nonsense': api(`{ ${tracer('() => 7')}, context: ${context} }`),
    'a span that throws': api(`{ ${tracer(`() => (${span('fail')})`)}, context: ${context} }`),
    'a span that rejects': api(`{ ${tracer(`() => (${span('reject')})`)}, context: ${context} }`),
    'a span that rejects later': api(`{ ${tracer(`() => (${span('later')})`)}, context: ${context} }`),
    'a span whose members throw': api(`{ ${tracer('() => new Proxy({}, { get: fail })')}, context: ${context} }`),
    'a context manager without contexts': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { active: fail, with: fail } }`,
    ),
    'a context manager that never calls': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { ...${context}, with: () => undefined } }`,
    ),
    'a context manager that calls twice': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { ...${context}, with: (_, call) => (call(), call()) } }`,
    ),
    'a context manager that calls later': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { ...${context}, with: (_, call) => void setTimeout(call, 1) } }`,
    ),
    'a context manager that calls and throws': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { ...${context}, with: (_, call) => (call(), fail()) } }`,
    ),
    'a context manager that awaits and rejects': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { ...${context}, with: async (_, call) => { await call(); fail(); } } }`,
    ),
    'a context without values': api(
      `{ ${tracer(`() => (${span('() => ({})')})`)}, context: { active: () => ({ getValue: fail, setValue: fail }), with: fail } }`,
    ),
    'a meter': api(`{ metrics: { getMeter: fail } }`),
    'a meter that rejects': api(`{ metrics: { getMeter: () => ({ createHistogram: reject }) } }`),
    'a meter provider that rejects': api(`{ metrics: { getMeter: reject } }`),
    'a current context that rejects': api(`{ trace: {}, context: { active: reject, with: reject } }`),
    'a current span that rejects': api(
      `{ trace: {}, context: { active: () => ({ getValue: reject, setValue: reject }), with: reject } }`,
    ),
    'a current span whose identity rejects': api(
      `{ trace: {}, context: { active: () => ({ getValue: () => (${span('reject')}) }) } }`,
    ),
    'an identity of nonsense': api(
      `{ trace: {}, context: { active: () => ({ getValue: () => (${span('() => ({ traceId: {}, spanId: Symbol(), traceFlags: 1n })')}) }) } }`,
    ),
    'a histogram': api(`{ metrics: { getMeter: () => ({ createHistogram: () => ({ record: fail }) }) } }`),
    'a histogram that rejects': api(
      `{ metrics: { getMeter: () => ({ createHistogram: () => ({ record: reject }) }) } }`,
    ),
    'metrics that are not an object': api(`{ metrics: 7, trace: 'text' }`),
    'a clock': `performance.now = fail;` + api(`{ ${tracer(`() => (${span('() => ({})')})`)} }`),
    'a console that throws': `console.warn = fail; console.error = fail;` + api(`{ trace: { getTracer: fail } }`),
    'no console at all': `delete globalThis.console;${api(`{ trace: { getTracer: fail } }`)}`,
    'no clock at all': `delete globalThis.performance;${api(`{ ${tracer(`() => (${span('() => ({})')})`)} }`)}`,
    'a symbol registry of nonsense': `const own = Symbol.for; Symbol.for = (name) => (name.startsWith('opentelemetry') ? 7 : own(name));`,
    'a prototype of all objects': `Object.prototype.trace = { getTracer: fail }; ` + api('{}'),
    'a console that rejects': `console.warn = reject;` + api(`{ trace: { getTracer: fail } }`),
    'an error that cannot be printed': api(
      `{ trace: { getTracer() { throw { toString: fail, [Symbol.toPrimitive]: fail }; } } }`,
    ),
    'an error that is nothing': api(`{ trace: { getTracer() { throw undefined; } } }`),
  };
  for (const [name, setUp] of Object.entries(programs)) {
    test(name, async () => {
      const { code, stdout, stderr } = await programWith(setUp);
      assert.deepEqual([code, stdout], [0, 'runs 6'], stderr);
      assert.ok(stderr.split('\n').length <= 2, `more than one line: ${stderr}`);
    });
  }

  test('the first failure is reported once', async () => {
    const { stderr } = await programWith(programs['a span that throws']);
    assert.equal(
      stderr,
      'actpass: telemetry error ignored; calls are not affected, further errors are not reported: Error: of the observer\n',
    );
  });

  test('nothing is reported without a failure', async () => {
    const { stderr } = await programWith(api(`{ ${tracer(`() => (${span('() => ({})')})`)}, context: ${context} }`));
    assert.equal(stderr, '');
  });

  test('an unreadable error of the function is still its error', async () => {
    const own = new Proxy(new Error('own'), {
      get: () => {
        throw new Error('unreadable');
      },
    });
    await hostile.play([answer(ALLOW)], async ({ baseUrl }) => {
      const execute = () => {
        throw own;
      };
      const outcome = await newClient(baseUrl).guard({ ...ACTION, execute });
      assert.ok(outcome.error === own);
    });
  });

  test('a custom signal affects only its call', async () => {
    await hostile.play([answer(ALLOW, { delay_ms: 20 })], async ({ baseUrl }) => {
      const signal = {
        aborted: false,
        throwIfAborted() {},
        addEventListener(_, listener) {
          this.listener = listener;
        },
        removeEventListener() {
          throw new Error('of the signal');
        },
      };
      const actpass = newClient(baseUrl);
      const call = (more) => actpass.guard({ ...ACTION, ...more, execute: () => 1 });
      const outcomes = await Promise.all([call({ signal }), call({ signal }), call({}), call({})]);
      assert.deepEqual(
        outcomes.map(({ result }) => result),
        [1, 1, 1, 1],
      );
      // An abort during or after the run does not change the outcome.
      const late = await call({ signal: { ...signal, aborted: false } });
      assert.equal(late.result, 1);
      const running = await actpass.guard({
        ...ACTION,
        signal,
        recordOutcome: false,
        execute: () => {
          signal.listener();
          return 'ran';
        },
      });
      assert.equal(running.result, 'ran');
    });
  });
});
