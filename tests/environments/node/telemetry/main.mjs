/** The program with OpenTelemetry; expects a span of each guard. */

import { trace } from '@opentelemetry/api';
import { probe } from './probe.mjs';

const spans = [];
const span = { spanContext: () => ({}), setAttribute() {}, setStatus() {}, end() {} };
trace.setGlobalTracerProvider({ getTracer: () => ({ startSpan: (name) => (spans.push(name), span) }) });
const text = await probe();
console.log(spans.join() === 'actpass.guard,actpass.guard' ? text : `expected two spans, found: ${spans}`);
