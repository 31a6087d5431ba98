/**
 * Test kit for agents: a gateway in the test's process that answers as the test scripts it. It works in any test runner.
 *
 * **Executed** means: a guarded function was called, or a permit was spent, in this process or in one that got the gateway's
 * `environment`. If the gateway allowed an action and no process reported whether it ran, the helpers throw an
 * {@link UnknownExecution}, an `AssertionError`.
 *
 * @module @actpass/sdk/testing
 */

import { ActPass } from './client.js';
import { placing, Site, stamped } from './errors.js';
import type { Note } from './journal.js';
import { type Journal, journals } from './journals.js';
import { describe, toJson, toMembers, wrongArgument } from './json.js';
import type { ScriptedGatewayState } from './native.js';
import { converting } from './runtime.js';
import type { Reply, ScriptedServer } from './scripted.js';
import {
  AssertionError,
  awaitReports,
  environmentOf,
  linesOf,
  openJournal,
  programOf,
  serve,
  setVariables,
  sizeOf,
  sleep,
  type StartedGateway,
  startGateway,
  stateOf,
} from './testing-host.js';
import type { ActPassOptions, JsonValue } from './types.js';

/** The interval of checks, in milliseconds. */
const INTERVAL = 5;
const PREFLIGHT = '/api/v1/actions/preflight';
const ACKNOWLEDGE = '/api/v1/halts/ack';

/** The scope of a stop. */
export type HaltScope = 'agent' | 'tool' | 'user' | 'tenant' | 'all';

/** A stop. */
export interface HaltOptions {
  /** The agent, the tool or the user. */
  id?: string | undefined;
  /** Why; the summary of the denials contains it. Default: `test`. */
  reason?: string | undefined;
}

/** The gateway does not know whether an allowed action ran. */
export class UnknownExecution extends AssertionError {
  constructor(message: string) {
    super({ message });
    this.name = 'UnknownExecution';
  }
}

/** A scripted response to a preflight. */
export interface Answer {
  /** The HTTP status. */
  readonly status: number;
  /** The body; `undefined` closes the connection. */
  readonly body: object | undefined;
}

/** Members of a scripted decision. */
export interface AnswerOptions {
  /** The reason code. Default: `test.` and the decision, such as `test.deny`. */
  reasonCode?: string | undefined;
  /** The sentence that explains the decision. */
  summary?: string | undefined;
  /** The steps that the explanation suggests. */
  nextSteps?: string[] | undefined;
  /** The token of a vaulted credential, for `allow`. */
  credential?: string | undefined;
  /** The id of the approval, for `requireApproval`. Default: `apr_1`, `apr_2` and so on. */
  id?: string | undefined;
  /** Other members of the response, such as `risk_tier`. */
  members?: { [member: string]: JsonValue } | undefined;
}

const ANSWER = ['reasonCode', 'summary', 'nextSteps', 'credential', 'id', 'members'];

/** Returns an `allow`. */
export function allow(options: AnswerOptions = {}): Answer {
  return placing(allow, () => decision('allow', options));
}

/** Returns a `deny`. */
export function deny(options: AnswerOptions = {}): Answer {
  return placing(deny, () => decision('deny', options));
}

/** Returns a `warn`: the action runs in the modes `warn` and `monitor` only. */
export function warn(options: AnswerOptions = {}): Answer {
  return placing(warn, () => decision('warn', options));
}

/** Returns a `require_approval`, which opens an approval of the action; see {@link ScriptedGateway.approve}. */
export function requireApproval(options: AnswerOptions = {}): Answer {
  return placing(requireApproval, () => decision('require_approval', options));
}

/** Simulates an unreachable gateway: the connection is closed without a response. */
export function unreachable(): Answer {
  return { status: 200, body: undefined };
}

/** Returns any response, such as an error status. */
export function respond(status: number, body: object = {}): Answer {
  return { status, body };
}

function decision(word: string, given: AnswerOptions): Answer {
  const { reasonCode = `test.${word}`, summary, nextSteps, credential, id, members } = toMembers(given, ANSWER);
  const explain = { summary: summary ?? '', matched_rules: [], next_steps: nextSteps ?? [] };
  const body = {
    decision: word,
    reason_code: reasonCode,
    ...((summary ?? nextSteps) !== undefined && { explain }),
    ...(credential !== undefined && { credential: { token: credential, expires_at: null } }),
    ...(id !== undefined && { approval_request_id: id }),
    ...(members as object | undefined),
  };
  return { status: 200, body };
}

/** Options of a gateway for tests. */
export interface TestGatewayOptions {
  /**
   * Sets the variables of `environment` in `process.env` until the gateway is closed, so that `new ActPass()` finds it.
   * Jest and worker threads have a copy of `process.env`, which the SDK does not read: pass `client()` there. Refused in hosts
   * without processes. Default: `false`.
   */
  setEnvironment?: boolean | undefined;
}

/** A response after which an action may run: its tool, and its ledger event if known. */
interface Allowed {
  tool: string;
  event: string | null;
}

/** Base of the scripted and the real gateway. */
export abstract class TestGateway {
  /** The URL. */
  readonly baseUrl: string;
  /** The API key of clients. */
  readonly apiKey: string;
  readonly #journal: Journal = openJournal();
  /** Lines of the journal after this offset belong to this gateway. */
  #begins = sizeOf(this.#journal);
  /** The number of earlier responses that no longer count. */
  #skipped = 0;
  #restore: (() => void) | undefined;
  #isClosed = false;

  /** @internal */
  protected constructor(baseUrl: string, apiKey: string, { setEnvironment = false }: TestGatewayOptions) {
    this.baseUrl = baseUrl;
    this.apiKey = apiKey;
    if (setEnvironment) {
      this.#restore = setVariables(this.environment);
    }
    open.add(this);
    if (!journals.includes(this.#journal)) {
      journals.push(this.#journal);
    }
  }

  /**
   * Environment variables that point a process to this gateway and make it report executions.
   *
   * @throws {@link ActPassConfigError} The host has no processes, such as a worker or a browser.
   */
  get environment(): { [variable: string]: string } {
    return { ACTPASS_API_KEY: this.apiKey, ACTPASS_API_BASE_URL: this.baseUrl, ...environmentOf(this.#journal) };
  }

  /**
   * The tools of the guarded functions that ran since the gateway was started or reset, in order.
   *
   * Waits, synchronously, for at most two seconds for reports of other processes.
   *
   * @throws {@link UnknownExecution} The gateway allowed an action and no process reported whether it ran.
   */
  get executed(): string[] {
    const began = performance.now();
    for (;;) {
      // In this order: a response after the journal was read is not unknown, only later.
      const allowed = this.allowed().slice(this.#skipped);
      const notes = this.#notes();
      const unknown = unmatched(allowed, notes);
      const ran = notes.filter((note) => note.ran).map((note) => note.tool);
      if (unknown.length === 0) {
        return ran;
      }
      if (!awaitReports(began, INTERVAL)) {
        throw new UnknownExecution(
          `${unknown.join(', ')}: allowed, but no process reported whether it ran. Await the calls first, and pass the ` +
            "gateway's environment to the processes that use it. Executions of other programs are not visible: assert on " +
            `the effect of the action instead. Known to have run: ${JSON.stringify(ran)}`,
        );
      }
    }
  }

  /** Ignores all executions so far. */
  reset(): void {
    this.#begins = sizeOf(this.#journal);
    this.#skipped = this.allowed().length;
  }

  /** Returns a client of this gateway, by default with a timeout of 5 seconds and no retries. */
  client(options: ActPassOptions = {}): ActPass {
    const { apiKey, baseUrl } = this;
    // The key of a test gateway is public.
    return new ActPass({ apiKey, baseUrl, timeoutMs: 5000, maxRetries: 0, dangerAllowBrowser: true, ...options });
  }

  /**
   * Fails unless a guarded function (of `tool`, if given) ran at least once, or exactly `times` times if given.
   *
   * @throws AssertionError: it did not run, or the gateway does not know ({@link UnknownExecution}).
   */
  assertExecuted(tool?: string, times?: number): void {
    checkTool(tool, times);
    assertTimes(this.assertExecuted, 'ran', this.executed, tool, times);
  }

  /**
   * Fails if a guarded function (of `tool`, if given) ran in any process.
   *
   * Does not detect a misspelled name; see {@link ScriptedGateway.assertAsked}.
   *
   * @throws AssertionError: it ran, or the gateway does not know ({@link UnknownExecution}).
   */
  assertNotExecuted(tool?: string): void {
    checkTool(tool);
    assertTimes(this.assertNotExecuted, 'ran', this.executed, tool, 0);
  }

  /** Stops the gateway, and restores the environment. */
  async close(): Promise<void> {
    if (this.#isClosed) {
      return;
    }
    this.#isClosed = true;
    open.delete(this);
    if (open.size === 0) {
      journals.splice(journals.indexOf(this.#journal), 1);
    }
    this.#restore?.();
    await this.stop();
  }

  /** Calls {@link TestGateway.close} without waiting for its end, for `using`. */
  [Symbol.dispose](): void {
    void this.close();
  }

  /** Calls {@link TestGateway.close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal Returns the responses after which an action may have run. */
  protected abstract allowed(): Allowed[];
  /** @internal Stops the server. */
  protected abstract stop(): Promise<void>;

  /** @internal Throws if the gateway is closed. */
  protected checkOpen(): void {
    if (this.#isClosed) {
      throw new UnknownExecution('the gateway is closed');
    }
  }

  #notes(): Note[] {
    this.checkOpen();
    return linesOf(this.#journal, this.#begins).map((line) => JSON.parse(line) as Note);
  }
}

/** The open gateways of this process. */
const open = new Set<TestGateway>();
/** Returns the tools of responses without a report. */
function unmatched(allowed: readonly Allowed[], notes: readonly Note[]): string[] {
  const keyOf = (tool: string, event: string | null) => JSON.stringify([tool, event]);
  const left = new Map<string, number>();
  for (const { tool, event } of notes) {
    left.set(keyOf(tool, event), (left.get(keyOf(tool, event)) ?? 0) + 1);
  }
  const takes = (key: string) => {
    const count = left.get(key) ?? 0;
    left.set(key, count - 1);
    return count > 0;
  };
  // A call that was aborted does not know its event.
  return allowed
    .filter(({ tool, event }) => !takes(keyOf(tool, event)))
    .filter(({ tool, event }) => event === null || !takes(keyOf(tool, null)))
    .map(({ tool }) => tool);
}

function checkTool(tool: unknown, times?: unknown): void {
  if (tool !== undefined && (typeof tool !== 'string' || tool === '')) {
    throw new TypeError(`tool: expected the name of a tool, found ${describe(tool)}`);
  }
  if (times !== undefined && !(Number.isInteger(times) && (times as number) >= 0)) {
    throw new TypeError(`times: expected a non-negative integer, found ${describe(times)}`);
  }
}

function assertTimes(above: Function, what: string, tools: readonly string[], tool?: string, times?: number): void {
  const count = tools.filter((one) => tool === undefined || one === tool).length;
  if (times === undefined ? count === 0 : count !== times) {
    const often = times === undefined ? '' : ` ${times} times`;
    const message = `expected ${tool ?? 'an action'}${often}; ${what}: ${JSON.stringify(tools)}`;
    throw new AssertionError({ message, actual: count, expected: times ?? 1, operator: what, stackStartFn: above });
  }
}

/**
 * A gateway that answers as a test scripts it, on the loopback interface. In hosts without servers, such as workers and browsers,
 * the engine calls it directly, and nothing is sent. The client and its guard are the real ones. Without a script it denies every action. It answers while the test's event loop runs: do not block it, for example by
 * `spawnSync`.
 *
 * An approval is bound to its action, as in a real gateway: it is found by the action, and allows it, with the same arguments,
 * once.
 *
 * @example
 * ```ts
 * import { ScriptedGateway } from '@actpass/sdk/testing';
 *
 * const gateway = await ScriptedGateway.start();
 * const actpass = gateway.client();
 * const refund = actpass.protect(async ({ amount }: { amount: number }) => `refunded ${amount}`, {
 *   tool: 'stripe.refund.create',
 *   goal: 'resolve_refund_request',
 *   onBlocked: (error) => error.message,
 * });
 *
 * gateway.deny('stripe.refund.create', { reasonCode: 'refund.over_limit' });
 * console.log(await refund({ amount: 90_000 }));
 * gateway.assertNotExecuted('stripe.refund.create');
 *
 * gateway.requireApproval('stripe.refund.create');
 * await refund({ amount: 25_000 });
 * gateway.approve('stripe.refund.create');
 * console.log(await refund({ amount: 25_000 }));
 * gateway.assertExecuted('stripe.refund.create', 1);
 * await gateway.close();
 * ```
 */
export class ScriptedGateway extends TestGateway {
  readonly #state: ScriptedGatewayState;
  readonly #server: ScriptedServer;
  readonly #allowed: Allowed[] = [];
  /** Idempotency keys of actions whose connection was closed: a retry is the same action. */
  readonly #hungUp = new Set<string>();

  private constructor(server: ScriptedServer, state: ScriptedGatewayState, options: TestGatewayOptions) {
    super(server.baseUrl, 'apk_test', options);
    this.#state = state;
    this.#server = server;
  }

  /** Starts a gateway: on a free port of the loopback interface, or inside the engine if the host has no servers. */
  static async start(options: TestGatewayOptions = {}): Promise<ScriptedGateway> {
    const site = new Site(ScriptedGateway.start);
    const given = placing(ScriptedGateway.start, () => toMembers(options, ['setEnvironment']));
    const state = converting(stateOf);
    let started: ScriptedGateway | undefined;
    const server = await serve(async (...request) => (started as ScriptedGateway).#respond(...request));
    try {
      started = new ScriptedGateway(server, state, given);
      return started;
    } catch (error) {
      await server.stop();
      throw stamped(error, site);
    }
  }

  /** Answers all following preflights of `tool`, or of every tool, with `answer`. */
  answer(answer: Answer, tool?: string): void {
    placing(this.answer, () => {
      const [name, body] = [toolName(tool), bodyOf(answer)];
      converting(() => this.#state.script(name, body, answer.status));
    });
  }

  /** Answers the next preflights, of any tool, with one answer each; then as before. */
  answerNext(...answers: Answer[]): void {
    placing(this.answerNext, () => {
      for (const answer of answers) {
        const body = bodyOf(answer);
        converting(() => this.#state.scriptNext(body, answer.status));
      }
    });
  }

  /** Allows all following actions of `tool`, or of every tool. */
  allow(tool?: string, options: AnswerOptions = {}): void {
    this.answer(allow(options), tool);
  }

  /** Denies all following actions. */
  deny(tool?: string, options: AnswerOptions = {}): void {
    this.answer(deny(options), tool);
  }

  /** Answers all following actions with `warn`. */
  warn(tool?: string, options: AnswerOptions = {}): void {
    this.answer(warn(options), tool);
  }

  /** Requires approval for all following actions. */
  requireApproval(tool?: string, options: AnswerOptions = {}): void {
    this.answer(requireApproval(options), tool);
  }

  /** Closes the connection of all following preflights. */
  unreachable(tool?: string): void {
    this.answer(unreachable(), tool);
  }

  /**
   * Approves an action: the gateway then allows this action, with the same arguments, once.
   *
   * @param approval - The id of the approval, or a tool: then the latest pending approval of the tool. An id that a scripted
   * answer sets may be decided before the action is requested.
   * @returns The id.
   * @throws {@link ActPassArgumentError} No such approval is pending; the message lists the approvals.
   */
  approve(approval: string): string {
    return placing(this.approve, () => {
      const name = text('approval', approval);
      return converting(() => this.#state.decide(name, true));
    });
  }

  /** Rejects an action; otherwise as {@link ScriptedGateway.approve}. */
  reject(approval: string): string {
    return placing(this.reject, () => {
      const name = text('approval', approval);
      return converting(() => this.#state.decide(name, false));
    });
  }

  /** Lets an approval expire, also after it was approved; otherwise as {@link ScriptedGateway.approve}. */
  expire(approval: string): string {
    return placing(this.expire, () => {
      const name = text('approval', approval);
      return converting(() => this.#state.expire(name));
    });
  }

  /**
   * Stops actions, and signals their running functions ({@link ExecutionContext.halt}).
   *
   * @param scope - `agent`, `tool` or `user`, named by `id`; or `tenant` or `all`.
   * @returns The new `halt_epoch`.
   * @throws {@link ActPassArgumentError} The scope is unknown, or the id is missing or superfluous.
   */
  halt(scope: HaltScope, options: HaltOptions = {}): number {
    return placing(this.halt, () => {
      const { id, reason = 'test' } = options;
      return converting(() => this.#state.halt(scope, id, reason));
    });
  }

  /** Lifts all stops. Returns the new `halt_epoch`. */
  lift(): number {
    return this.#state.lift();
  }

  /** The acknowledgements of stops so far: `epoch`, `in_flight`, `agent_id` and `instance`. */
  get acknowledgements(): { [member: string]: JsonValue }[] {
    const sent = this.#state.requests().filter(({ path }) => path === ACKNOWLEDGE);
    return sent.map(({ body }) => JSON.parse(body) as { [member: string]: JsonValue });
  }

  /** The approvals so far, in the order in which they were opened. */
  get approvals(): ScriptedApproval[] {
    return this.#state.approvals().map((one) => JSON.parse(one) as ScriptedApproval);
  }

  /** The bodies of all preflights so far, including retries. */
  get actions(): { [member: string]: JsonValue }[] {
    const preflights = this.#state.requests().filter(({ path }) => path === PREFLIGHT);
    return preflights.map(({ body }) => JSON.parse(body) as { [member: string]: JsonValue });
  }

  /** Fails unless a preflight (of `tool`, if given) was received, or exactly `times` if given. */
  assertAsked(tool?: string, times?: number): void {
    checkTool(tool, times);
    this.checkOpen();
    assertTimes(this.assertAsked, 'received', this.#tools(), tool, times);
  }

  /** Fails if a preflight (of `tool`, if given) was received. */
  assertNotAsked(tool?: string): void {
    checkTool(tool);
    this.checkOpen();
    assertTimes(this.assertNotAsked, 'received', this.#tools(), tool, 0);
  }

  /** @internal */
  protected override allowed(): Allowed[] {
    return [...this.#allowed];
  }

  /** @internal */
  protected override async stop(): Promise<void> {
    await this.#server.stop();
  }

  #tools(): string[] {
    return this.actions.map(({ tool }) => `${tool as string}`);
  }

  /** Answers a request; `null` closes the connection. `signal` ends a request that is held. */
  async #respond(method: string, path: string, body: string, signal?: AbortSignal): Promise<Reply | null> {
    const until = performance.now() + this.#state.hold(method, path);
    while (this.#state.hold(method, path) > 0 && performance.now() < until) {
      await sleep(INTERVAL);
      signal?.throwIfAborted();
    }
    const reply = this.#state.reply(method, path, body);
    if (path === PREFLIGHT) {
      this.#answered(JSON.parse(body) as Preflight, reply);
    }
    return reply;
  }

  /** Notes a response after which an action may run. */
  #answered({ tool, mode, idempotency_key: key }: Preflight, reply: Reply | null): void {
    if (reply === null) {
      if (mode === 'monitor' && !this.#hungUp.has(`${key}`)) {
        this.#hungUp.add(`${key}`);
        this.#allowed.push({ tool, event: null });
      }
      return;
    }
    const { decision: word, evidence_event_id: event = null } = JSON.parse(reply.body) as Responded;
    const allows = word === 'allow' || (word === 'warn' && mode === 'warn');
    if (mode === 'monitor' || (allows && reply.status >= 200 && reply.status < 300)) {
      this.#allowed.push({ tool, event });
    }
  }
}

/** Members of the body of a preflight. */
interface Preflight {
  tool: string;
  mode?: string;
  idempotency_key?: string;
}

/** Members of a response to a preflight. */
interface Responded {
  decision?: string;
  evidence_event_id?: string;
}

/** An approval of a {@link ScriptedGateway}. */
export interface ScriptedApproval {
  /** Its id. */
  id: string;
  /** The tool of the action. */
  tool: string;
  /** The hash of the action to which it is bound. */
  action_hash: string;
  /** Its status. */
  status: 'pending' | 'approved' | 'rejected' | 'expired';
  /** Whether the action was allowed with it. */
  spent: boolean;
}

function toolName(tool: unknown): string | undefined {
  return tool === undefined ? undefined : text('tool', tool);
}

function text(member: string, value: unknown): string {
  if (typeof value !== 'string') {
    throw wrongArgument(`${member}: expected a string, found ${describe(value)}`);
  }
  return value;
}

function bodyOf({ body }: Answer): string | undefined {
  return body === undefined ? undefined : toJson('answer', body);
}

/** Options of {@link RealGateway.start}. */
export interface RealGatewayOptions extends TestGatewayOptions {
  /** The path of the program. Default: {@link installedGateway}. */
  program?: string | undefined;
  /** The path of a policy file. Default: the development policy. */
  policy?: string | undefined;
}

/**
 * The real gateway in development mode, as a child process with an empty ledger and its own policy.
 *
 * @example
 * ```ts
 * import { RealGateway } from '@actpass/sdk/testing';
 *
 * export async function testARefundOfTheDevelopmentPolicy(): Promise<void> {
 *   await using gateway = await RealGateway.start();
 *   const action = { goal: 'resolve_refund_request', tool: 'stripe.refund.create', args: { amount: 4900, currency: 'usd' } };
 *   await gateway.client().guard({ ...action, execute: () => 're_1' });
 *   gateway.assertExecuted('stripe.refund.create', 1);
 * }
 * ```
 */
export class RealGateway extends TestGateway {
  readonly #started: StartedGateway;

  private constructor(started: StartedGateway, options: TestGatewayOptions) {
    super(started.baseUrl, 'apk_dev', options);
    this.#started = started;
  }

  /**
   * Starts the gateway and waits until it listens on a free port of the loopback interface.
   *
   * @throws {@link ActPassConfigError} No gateway is installed, it did not start (the message quotes its log), or the host starts
   * no processes.
   */
  static async start(options: RealGatewayOptions = {}): Promise<RealGateway> {
    const site = new Site(RealGateway.start);
    const given = placing(RealGateway.start, () => toMembers(options, ['program', 'policy', 'setEnvironment']));
    const { program = await installedGateway(), policy, ...others } = given as RealGatewayOptions;
    try {
      return new RealGateway(await startGateway(program, policy), others);
    } catch (error) {
      throw stamped(error, site);
    }
  }

  /** @internal */
  protected override allowed(): Allowed[] {
    // The ledger contains the decision of `enforce`, independent of the mode.
    const { status, body } = this.#started.read('/api/v1/evidence/chains/decisions');
    if (status === 404) {
      return []; // No decision yet.
    }
    if (status !== 200) {
      throw new UnknownExecution(`cannot read the ledger: ${body}`);
    }
    const { events } = JSON.parse(body) as { events: LedgerEvent[] };
    return events
      .filter(
        ({ mode, decision: word }) => mode !== undefined && (word === 'allow' || mode === 'monitor' || mode === 'warn'),
      )
      .map(({ tool_id: tool, event_id: event }) => ({ tool, event }));
  }

  /** @internal */
  protected override stop(): Promise<void> {
    return this.#started.stop();
  }
}

interface LedgerEvent {
  event_id: string;
  tool_id: string;
  mode?: string;
  decision?: string;
}

/**
 * Returns the path of the gateway: of the package `@actpass/gateway`, or else the one on the `PATH`.
 *
 * @throws {@link ActPassConfigError} No gateway is installed.
 */
export async function installedGateway(): Promise<string> {
  const site = new Site(installedGateway);
  try {
    return await programOf();
  } catch (error) {
    throw stamped(error, site);
  }
}
