/**
 * The engine in wasm, behind the interface of the native module. It sends with the host's `fetch`.
 *
 * A panic traps and ends the instance: it is replaced by a fresh one, and every call in flight ends as a call whose gate failed.
 */

import { type Batch, type Begin, type Client, How, type Native } from './abi.js';
import type { CallName } from './abi.js';
import { fetchScripted, isScripted } from './scripted.js';

/** @internal A compiled module. */
export type WasmModule = object;

/** @internal The part of `WebAssembly` that the engine uses, for which TypeScript's library needs the types of a browser. */
export const wasm = (globalThis as unknown as { WebAssembly: unknown }).WebAssembly as {
  Instance: new (module: WasmModule, imports: object) => { readonly exports: object };
  Module: new (bytes: Uint8Array) => WasmModule;
  RuntimeError: new () => Error;
};

/** The maximum size of a response body, as in the core. */
const MAX_BODY = 1024 * 1024;
/** The longest timer of JavaScript. */
const MAX_TIMER = 2 ** 31 - 1;
/** The environment variable with the path of the DPoP key. */
const DPOP_KEY_FILE = 'ACTPASS_DPOP_KEY_FILE';
/** The headers of a response that the engine reads. */
const HEADERS = ['retry-after', 'x-request-id', 'www-authenticate', 'dpop-nonce'];
/** The length of a missing header. */
const ABSENT = 2 ** 32 - 1;
const ENDS = ['failed', 'returned', 'cancelled', 'suspended'] as const;

/** @internal The host of an engine. */
export interface EngineHost {
  /** Reads an environment variable; `undefined` if unset or unsupported. */
  environment(name: string): string | undefined;
  /** Reads a text file; throws if it cannot be read, or if the host has no files. */
  readText(path: string): string;
  /** Whether a page or an extension of a browser runs the program. */
  readonly isBrowser: boolean;
  /** Returns why the settings cannot be kept here, naming the member; `undefined` if they can. */
  refuses?(settings: Settings): string | undefined;
}

/** @internal The settings of a client. */
export type Settings = { [name: string]: unknown };

/** @internal The exports of each module; `buffers.rs` describes them. */
export interface BufferExports {
  readonly memory: { readonly buffer: ArrayBuffer };
  input(length: number): number;
  output(): number;
  output_length(): number;
}

/** The exports of the module; `abi.rs` describes them. */
interface Exports extends BufferExports {
  start_module(): void;
  lines(): number;
  lines_length(): number;
  completed(): number;
  next(): number;
  client_create(client: number, length: number): number;
  client_close(client: number): void;
  client_circuit(client: number): number;
  client_check(client: number, length: number): number;
  call_start(client: number, id: number, lost: number, name: number, length: number): number;
  call_cancel(id: number): void;
  call_begin(id: number, hasNow: number, length: number): number;
  call_finish(id: number, ended: number, hasResponse: number, length: number): number;
  fetched(
    operation: number,
    status: number,
    retryAfter: number,
    requestId: number,
    wwwAuthenticate: number,
    dpopNonce: number,
    problem: number,
    body: number,
  ): void;
  fetch_failed(operation: number, length: number): void;
  fired(operation: number): void;
  function(which: number, length: number): number;
  /** Only in test builds. */
  has_test_hooks?(): number;
}

/** A call that has not completed. */
interface Asking {
  readonly client: number;
  readonly name: CallName;
  readonly input: string;
}

/** @internal The texts that cross to an instance of a module and back. */
export class Buffers<E extends BufferExports> {
  // Not at load: a realm that never uses this engine may lack the classes.
  readonly #encoder = new TextEncoder();
  readonly #decoder = new TextDecoder();
  readonly exports: E;
  #bytes: Uint8Array;

  constructor(exports: E) {
    this.exports = exports;
    this.#bytes = new Uint8Array(exports.memory.buffer);
  }

  /** The memory, which moves when it grows. */
  get view(): Uint8Array {
    if (this.#bytes.length === 0) {
      this.#bytes = new Uint8Array(this.exports.memory.buffer);
    }
    return this.#bytes;
  }

  text(place: number, length: number): string {
    return length === 0 ? '' : this.#decoder.decode(this.view.subarray(place, place + length));
  }

  output(): string {
    return this.text(this.exports.output(), this.exports.output_length());
  }

  /** Writes the parts of an input one after the other, and returns the length of each in bytes. */
  write(...parts: (string | Uint8Array)[]): number[] {
    let capacity = 0;
    for (const part of parts) {
      capacity += typeof part === 'string' ? part.length * 3 : part.length;
    }
    let at = this.exports.input(capacity);
    const { view } = this;
    return parts.map((part) => {
      let length = part.length;
      if (typeof part === 'string') {
        ({ written: length } = this.#encoder.encodeInto(part, view.subarray(at)));
      } else {
        view.set(part, at);
      }
      at += length;
      return length;
    });
  }
}

/** An instance of the module. It is never used again after a trap. */
class Instance extends Buffers<Exports> {
  readonly requests = new Map<number, AbortController>();
  readonly timers = new Map<number, ReturnType<typeof setTimeout>>();
  isDead = false;

  constructor(module: WasmModule, engine: Engine) {
    const random = new Uint32Array(64);
    let unused = 0;
    const host = {
      fetch: (operation: number, head: number, headLength: number, body: number, bodyLength: number) => {
        const [method, url, headers] = JSON.parse(this.text(head, headLength)) as [string, string, [string, string][]];
        const sent = bodyLength === 0 ? null : this.view.slice(body, body + bodyLength);
        const controller = new AbortController();
        this.requests.set(operation, controller);
        const { signal } = controller;
        // Not inside the module's entry: a replaced fetch may run the program's code.
        void Promise.resolve().then(() => engine.send(this, operation, url, { method, headers, body: sent, signal }));
      },
      abort: (operation: number) => {
        this.requests.get(operation)?.abort();
        this.requests.delete(operation);
      },
      start_timer: (operation: number, milliseconds: number) => {
        const wait = Math.min(Math.ceil(milliseconds), MAX_TIMER);
        const fired = () => {
          this.timers.delete(operation);
          engine.complete(this, (exports) => exports.fired(operation));
        };
        this.timers.set(operation, setTimeout(fired, wait));
      },
      stop_timer: (operation: number) => {
        clearTimeout(this.timers.get(operation));
        this.timers.delete(operation);
      },
      monotonic: () => performance.now(),
      wall_clock: () => Date.now(),
      random: () => {
        if (unused === 0) {
          crypto.getRandomValues(random);
          unused = random.length;
        }
        unused -= 1;
        const taken = random[unused] as number;
        random[unused] = 0;
        return taken;
      },
      panicked: (place: number, length: number) => {
        engine.place = this.text(place, length);
      },
    };
    super(new wasm.Instance(module, { host }).exports as unknown as Exports);
    this.exports.start_module();
  }

  /** Ends the requests and timers of the instance. */
  end(): void {
    this.isDead = true;
    for (const controller of this.requests.values()) {
      controller.abort();
    }
    for (const timer of this.timers.values()) {
      clearTimeout(timer);
    }
    this.requests.clear();
    this.timers.clear();
  }
}

/** The engine of one JavaScript thread. */
class Engine {
  readonly #module: WasmModule;
  readonly #host: EngineHost;
  #instance: Instance;
  /** The settings of each client, to create it again in another instance. */
  readonly #clients = new Map<number, string>();
  #lastClient = 0;
  readonly #asking = new Map<number, Asking>();
  /** The instance of each permitted action. */
  readonly #permitted = new Map<number, Instance>();
  #completed: Batch = [];
  #settled: (batch: Batch) => void = () => {};
  readonly #unreachable = new FinalizationRegistry<number>((client) => this.close(client));
  /** The place of the last panic in the source. */
  place = '?';

  constructor(module: WasmModule, host: EngineHost) {
    this.#module = module;
    this.#host = host;
    this.#instance = new Instance(module, this);
  }

  listen(settled: (batch: Batch) => void): void {
    this.#settled = settled;
  }

  /** Creates a client for `owner`. Throws if the settings are invalid. */
  create(owner: object, text: string): number {
    const settings = this.#settings(text);
    this.#lastClient += 1;
    const client = this.#lastClient;
    this.#call((instance) => {
      const [length = 0] = instance.write(settings);
      return instance.exports.client_create(client, length);
    });
    this.#clients.set(client, settings);
    this.#unreachable.register(owner, client);
    return client;
  }

  close(client: number): void {
    if (this.#clients.delete(client)) {
      this.#enterQuietly(({ exports }) => exports.client_close(client));
    }
  }

  circuit(client: number): string {
    return this.#call(({ exports }) => exports.client_circuit(client));
  }

  check(client: number, input: string): void {
    this.#call((instance) => {
      const [length = 0] = instance.write(input);
      return instance.exports.client_check(client, length);
    });
  }

  start(client: number, name: CallName, id: number, input: string): void {
    this.#asking.set(id, { client, name, input });
    try {
      this.#start({ client, name, input }, id, false);
    } catch (error) {
      // After a panic the call completes as one whose gate failed.
      if (!(error instanceof Panic)) {
        this.#asking.delete(id);
        throw error;
      }
    }
  }

  cancel(id: number): void {
    this.#asking.delete(id);
    this.#permitted.delete(id);
    this.#enterQuietly(({ exports }) => exports.call_cancel(id));
  }

  begin(id: number, now: string | undefined): string {
    const instance = this.#permitted.get(id);
    if (instance?.isDead === true) {
      this.#permitted.delete(id);
      throw internal('the permit is void');
    }
    const text = this.#call((current) => {
      const [length = 0] = current.write(now ?? '');
      return current.exports.call_begin(id, now === undefined ? 0 : 1, length);
    });
    if (text.startsWith('{"blocked"')) {
      this.#permitted.delete(id);
    }
    return text;
  }

  finish(id: number, ended: (typeof ENDS)[number], response: string | undefined): string {
    const isDead = this.#permitted.get(id)?.isDead === true;
    this.#permitted.delete(id);
    if (isDead) {
      // It ran: the new instance does not change that.
      return '{"executed":true}';
    }
    return this.#call((instance) => {
      const [length = 0] = instance.write(response ?? '');
      return instance.exports.call_finish(id, ENDS.indexOf(ended), response === undefined ? 0 : 1, length);
    });
  }

  get hasTestHooks(): boolean {
    return this.#instance.exports.has_test_hooks !== undefined;
  }

  function(which: number, given: object): string {
    return this.#call((instance) => {
      const [length = 0] = instance.write(JSON.stringify(given));
      return instance.exports.function(which, length);
    });
  }

  /** Sends a request and completes it. */
  async send(instance: Instance, operation: number, url: string, request: RequestInit): Promise<void> {
    try {
      const asked = isScripted(url) ? fetchScripted : fetch;
      const response = await asked(url, { ...request, redirect: 'manual', ...this.#policy() });
      if (response.type === 'opaqueredirect') {
        throw Object.assign(new Error('the browser hides its status'), { code: 'REDIRECT' });
      }
      const { problem, body } = await read(response);
      const headers = HEADERS.map((name) => headerOf(response, name));
      const { status } = response;
      this.complete(instance, (exports) => {
        const lengths = instance.write(...headers.map((text) => text ?? ''), body);
        const lengthOf = (at: number) => (headers[at] === undefined ? ABSENT : (lengths[at] ?? 0));
        const length = lengths[HEADERS.length] ?? 0;
        exports.fetched(operation, status, lengthOf(0), lengthOf(1), lengthOf(2), lengthOf(3), problem, length);
      });
    } catch (error) {
      if (request.signal?.aborted === true) {
        return;
      }
      const text = failureOf(error);
      this.complete(instance, (exports) => {
        const [length = 0] = instance.write(text);
        exports.fetch_failed(operation, length);
      });
    } finally {
      instance.requests.delete(operation);
    }
  }

  /** Runs an entry that completes an operation of `instance`, unless the instance was replaced. */
  complete(instance: Instance, entry: (exports: Exports) => void): void {
    if (!instance.isDead) {
      this.#enterQuietly(() => entry(instance.exports));
    }
  }

  /** Runs an entry without a caller that could handle a panic. */
  #enterQuietly(entry: (instance: Instance) => void): void {
    try {
      this.#enter(entry);
    } catch (error) {
      if (!(error instanceof Panic)) {
        throw error;
      }
    }
  }

  /** Options of each request that not every host accepts. */
  #policy(): object {
    return this.#host.isBrowser ? { cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' } : {};
  }

  /** Reads the variables of the environment, and refuses settings that `fetch` cannot support. */
  #settings(text: string): string {
    const settings = JSON.parse(text) as Settings;
    const problem = problemOf(settings, this.#host) ?? this.#host.refuses?.(settings);
    if (problem !== undefined) {
      throw described('ActPassConfigError', 'actpass.invalid_config', 'config', problem);
    }
    delete settings['dangerAllowBrowser'];
    settings['apiKey'] ??= this.#host.environment('ACTPASS_API_KEY');
    settings['baseUrl'] ??= this.#host.environment('ACTPASS_API_BASE_URL') || undefined;
    const path = this.#host.environment(DPOP_KEY_FILE);
    if (settings['dpopKey'] === undefined && path) {
      settings['dpopKey'] = keyIn(path, this.#host);
    }
    return JSON.stringify(settings);
  }

  #start({ client, name, input }: Asking, id: number, lost: boolean): void {
    this.#call((instance) => {
      const [nameLength = 0, length = 0] = instance.write(name, input);
      return instance.exports.call_start(client, id, lost ? 1 : 0, nameLength, length);
    });
  }

  /** Runs an entry that returns whether it succeeded, and returns its text; throws its error. */
  #call(entry: (instance: Instance) => number): string {
    const instance = this.#instance;
    const [succeeded, text] = this.#enter(() => [entry(instance) !== 0, instance.output()] as const);
    if (!succeeded) {
      throw new Error(text);
    }
    return text;
  }

  /** Runs an entry. If it traps, replaces the instance and throws a {@link Panic}. */
  #enter<R>(entry: (instance: Instance) => R): R {
    let result: R;
    try {
      result = entry(this.#instance);
      this.#collect();
    } catch {
      this.#replace();
      this.#deliver();
      throw new Panic(internal().message);
    }
    this.#deliver();
    return result;
  }

  /** Takes the completed calls of the instance. */
  #collect(): void {
    const instance = this.#instance;
    const { exports } = instance;
    for (let kind = exports.next(); kind >= 0; kind = exports.next()) {
      const call = exports.completed();
      if (kind === How.Permitted) {
        this.#permitted.set(call, instance);
      }
      if (kind !== How.Halted) {
        this.#asking.delete(call);
      }
      this.#completed.push(call, kind, instance.output(), instance.text(exports.lines(), exports.lines_length()));
    }
  }

  /** Delivers completed calls, later: the caller may not know the number of its call yet. */
  #deliver(): void {
    if (this.#completed.length > 0 && !this.#isDelivering) {
      this.#isDelivering = true;
      queueMicrotask(() => {
        this.#isDelivering = false;
        const batch = this.#completed;
        this.#completed = [];
        this.#settled(batch);
      });
    }
  }

  #isDelivering = false;

  /** Replaces an instance that panicked. Every call in flight ends as one whose gate failed. */
  #replace(): void {
    this.#instance.end();
    say(
      `actpass: the engine panicked at ${this.place}; its calls are denied, and it was replaced. ` +
        'Please report this, it is a defect of the SDK',
    );
    this.#instance = new Instance(this.#module, this);
    for (const [client, settings] of this.#clients) {
      this.#again((instance) => {
        const [length = 0] = instance.write(settings);
        instance.exports.client_create(client, length);
      });
    }
    for (const [id, asking] of [...this.#asking]) {
      const isCompleted = this.#again((instance) => {
        const [nameLength = 0, length = 0] = instance.write(asking.name, asking.input);
        const started = instance.exports.call_start(asking.client, id, 1, nameLength, length);
        if (started === 0) {
          throw new Error(instance.output());
        }
        this.#collect();
      });
      if (!isCompleted) {
        this.#asking.delete(id);
        this.#completed.push(id, How.Failed, internal().message, '');
      }
    }
  }

  /** Repeats an entry in a new instance; if that fails too, in no other one. */
  #again(entry: (instance: Instance) => void): boolean {
    try {
      entry(this.#instance);
      return true;
    } catch (error) {
      if (error instanceof wasm.RuntimeError) {
        this.#instance.end();
        this.#instance = new Instance(this.#module, this);
        for (const [client, settings] of this.#clients) {
          const [length = 0] = this.#instance.write(settings);
          this.#instance.exports.client_create(client, length);
        }
      }
      return false;
    }
  }
}

/** A panic of the engine. */
class Panic extends Error {}

/** @internal Creates the engine of this thread from the compiled module. */
export function wasmEngine(module: WasmModule, host: EngineHost): Native {
  const engine = new Engine(module, host);
  class WasmClient implements Client {
    readonly #number: number;

    constructor(settings: string) {
      this.#number = engine.create(this, settings);
    }

    get circuit(): 'closed' | 'half_open' | 'open' {
      return engine.circuit(this.#number) as 'closed' | 'half_open' | 'open';
    }

    check(input: string): void {
      engine.check(this.#number, input);
    }

    close(): void {
      engine.close(this.#number);
    }

    readonly #begin =
      (name: CallName): Begin =>
      (_bridge, call, input) =>
        engine.start(this.#number, name, call, input);
    readonly preflight = this.#begin('preflight');
    readonly authorize = this.#begin('authorize');
    readonly resume = this.#begin('resume');
    readonly waitForApproval = this.#begin('waitForApproval');
    readonly recordOutcome = this.#begin('recordOutcome');
    readonly issuePassport = this.#begin('issuePassport');
    readonly verifyPassport = this.#begin('verifyPassport');
    readonly verifyPassportOffline = this.#begin('verifyPassportOffline');
    readonly revokePassport = this.#begin('revokePassport');
    readonly recordEvidence = this.#begin('recordEvidence');
  }
  class WasmBridge {
    constructor(settled: (batch: Batch) => void) {
      engine.listen(settled);
    }

    cancel(call: number): void {
      engine.cancel(call);
    }

    begin(call: number, now: string | undefined): string {
      return engine.begin(call, now);
    }

    finish(call: number, ended: (typeof ENDS)[number], response: string | undefined): string {
      return engine.finish(call, ended, response);
    }
  }
  return {
    engine: 'wasm',
    VERSION: engine.function(7, {}),
    ...(engine.hasTestHooks && { hasTestHooks: () => true }),
    Client: WasmClient,
    Bridge: WasmBridge,
    canonicalOutcome: (executed, decision, kind, status) =>
      engine.function(0, { executed, decision, ...(kind !== null && { kind }), ...(status !== null && { status }) }),
    unmappedTool: (tool) => engine.function(1, { tool }),
    invalidArgument: (tool, problem) => engine.function(2, { tool, problem }),
    invalidPassport: (tool, errors) => engine.function(3, { tool, errors }),
    argumentPath: (member, steps) => engine.function(4, { member, steps }),
    hashPayload: (payload) => engine.function(5, { payload }),
    signPayload: (secret, payload) => engine.function(6, { secret, payload }),
    dpopThumbprint: (key) => engine.function(8, { key }),
  };
}

/** Reads the file of the DPoP key. */
function keyIn(path: string, host: EngineHost): string {
  try {
    return host.readText(path);
  } catch (error) {
    const problem = `cannot read ${path}, the file in ${DPOP_KEY_FILE}: ${(error as Error).message}`;
    throw described('ActPassConfigError', 'actpass.invalid_config', 'config', `dpopKey: ${problem}`);
  }
}

/** Returns why `fetch` cannot support a setting. */
function problemOf(settings: Settings, { isBrowser }: EngineHost): string | undefined {
  const given = (name: string) => settings[name] !== undefined && settings[name] !== false;
  const wasm = "the engine is wasm, which sends with the host's fetch";
  if (given('ca')) {
    return `ca: ${wasm}, and fetch takes no certificate: let the host trust it, or use the native engine`;
  }
  if (given('connectTimeoutMs')) {
    return `connectTimeoutMs: ${wasm}, and fetch has no connect timeout: set timeoutMs, or use the native engine`;
  }
  if (isBrowser && given('dangerAllowInsecureHttp')) {
    return 'dangerAllowInsecureHttp: the browser decides about plain http; serve the gateway over https';
  }
  if (isBrowser && settings['dangerAllowBrowser'] !== true) {
    return (
      'dangerAllowBrowser: refused in a browser, where everyone who opens the page can read the API key and act with ' +
      'it: call the gateway from a server, or pass true if the key is the user’s own'
    );
  }
  return undefined;
}

/** Reads a body as it arrives, up to the maximum. */
async function read(response: Response): Promise<{ problem: number; body: Uint8Array }> {
  const nothing = new Uint8Array();
  const large = { problem: 1, body: nothing };
  const { body: stream } = response;
  if (stream === null) {
    return { problem: 0, body: nothing };
  }
  const reader = (stream as ReadableStream<Uint8Array>).getReader();
  const cancel = () => void reader.cancel().catch(() => {});
  if (Number(response.headers.get('content-length')) > MAX_BODY) {
    cancel();
    return large;
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      length += next.value.length;
      if (length > MAX_BODY) {
        cancel();
        return large;
      }
      chunks.push(next.value);
    }
  } catch (error) {
    if (codeOf(error) === 'ECONNRESET') {
      throw error;
    }
    return { problem: 2, body: nothing };
  }
  const [only] = chunks;
  if (only !== undefined && chunks.length === 1) {
    return { problem: 0, body: only };
  }
  const body = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.length;
  }
  return { problem: 0, body };
}

/** Returns the text of a header that is visible ASCII. */
function headerOf(response: Response, name: string): string | undefined {
  const text = response.headers.get(name);
  return text !== null && /^[\t\x20-\x7e]*$/.test(text) ? text : undefined;
}

/** `error` and its causes. */
function* causesOf(error: unknown): Generator<{ code?: unknown; message?: unknown }> {
  for (let at = error, depth = 0; typeof at === 'object' && at !== null && depth < 8; depth += 1) {
    yield at;
    const { cause, errors } = at as { cause?: unknown; errors?: unknown };
    at = cause ?? (Array.isArray(errors) ? errors[0] : undefined);
  }
}

function codeOf(error: unknown): string | undefined {
  for (const { code } of causesOf(error)) {
    if (typeof code === 'string') {
      return code;
    }
  }
  return undefined;
}

/** The code and the innermost message of an error of `fetch`, on one line. */
function failureOf(error: unknown): string {
  let text = '';
  try {
    for (const { message } of causesOf(error)) {
      text = typeof message === 'string' && message !== '' ? message : text;
    }
    return `${codeOf(error) ?? ''} ${text}`.replace(/\s/g, ' ').slice(0, 500);
  } catch {
    return ' ';
  }
}

/** The error of a call that a panic ended, as the native module serializes it. */
function internal(consequence = ''): Error {
  const text = `a panic in the SDK${consequence && `: ${consequence}`}`;
  return described('ActPassInternalError', 'actpass.internal', 'internal', text);
}

function described(name: string, code: string, kind: string, message: string): Error {
  return new Error(JSON.stringify({ name, message, code, kind, retryable: false, causes: [] }));
}

function say(text: string): void {
  try {
    console.error(text);
  } catch {
    // The program may have replaced the console.
  }
}
