/** Signals of running functions whose action was stopped. */

import type { Credential, Decision, ExecutionContext } from './types.js';

interface Running {
  isHalted: boolean;
  controller?: AbortController;
}

/** Functions that run, by the number of their call. */
const running = new Map<number, Running>();

/** @internal Creates the context of the function of `call`, which begins to run. */
export function contextOf(call: number, credential: Credential | null, decision: Decision): ExecutionContext {
  const state: Running = { isHalted: false };
  running.set(call, state);
  const halt = {
    // Created at the first use, because most functions do not use it.
    get: (): AbortSignal => {
      state.controller ??= new AbortController();
      if (state.isHalted) {
        abort(state.controller);
      }
      return state.controller.signal;
    },
  };
  // Not enumerable: not printed, compared or serialized.
  return Object.defineProperty({ credential, decision }, 'halt', halt) as ExecutionContext;
}

/** @internal The action of `call` was stopped. */
export function halted(call: number): void {
  const state = running.get(call);
  if (state !== undefined) {
    state.isHalted = true;
    if (state.controller !== undefined) {
      abort(state.controller);
    }
  }
}

/** @internal The function of `call` has ended, or its permit was abandoned. */
export function ended(call: number): void {
  running.delete(call);
}

function abort(controller: AbortController): void {
  if (!controller.signal.aborted) {
    controller.abort(new DOMException('the action was stopped', 'AbortError'));
  }
}
