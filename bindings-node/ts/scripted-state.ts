/** The state of a scripted gateway in wasm, behind the interface of the native module. */

import type { ScriptedGatewayState } from './abi.js';
import { Buffers, type BufferExports, wasm, type WasmModule } from './engine.js';

/** The exports of `actpass-testing.wasm`. */
interface Exports extends BufferExports {
  call(length: number): number;
}

/** @internal Creates the state of a scripted gateway from the compiled module; each has its own instance. */
export function scriptedState(module: WasmModule): ScriptedGatewayState {
  const buffers = new Buffers(new wasm.Instance(module, {}).exports as unknown as Exports);
  const { exports } = buffers;
  const call = (name: string, given: object): unknown => {
    const [length = 0] = buffers.write(JSON.stringify({ name, ...given }));
    const succeeded = exports.call(length) !== 0;
    const text = buffers.output();
    if (!succeeded) {
      throw new Error(text);
    }
    return JSON.parse(text);
  };
  return {
    script: (tool, answer, status) => void call('script', { tool, answer, status }),
    scriptNext: (answer, status) => void call('scriptNext', { answer, status }),
    decide: (approval, approved) => call('decide', { approval, approved }) as string,
    expire: (approval) => call('expire', { approval }) as string,
    halt: (scope, id, reason) => call('halt', { scope, id, reason }) as number,
    lift: () => call('lift', {}) as number,
    approvals: () => (call('approvals', {}) as object[]).map((approval) => JSON.stringify(approval)),
    requests: () => call('requests', {}) as { method: string; path: string; body: string }[],
    hold: (method, path) => call('hold', { method, path }) as number,
    reply: (method, path, body) => call('reply', { method, path, body }) as { status: number; body: string } | null,
  };
}
