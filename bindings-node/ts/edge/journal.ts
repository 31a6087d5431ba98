/** Without files, nothing records executions. The build puts it in place of `journal.ts`. */

import type { Call } from '../call.js';

export function noteExecution(): void {}

export function unlessEnded<R>(_call: Call, request: () => Promise<R>): Promise<R> {
  return request();
}

export function unlessAborted<R>(_call: Call, take: () => R): R {
  return take();
}
