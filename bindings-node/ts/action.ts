/** The action of a tool: checked once, evaluated for each call; the tool runs with the evaluated arguments. */

import { types } from './host.js';
import { calling, itself, withDefaults } from './call.js';
import { checkAction, opened, partsOf } from './connection.js';
import { copied } from './copy.js';
import { presentInput, run } from './guard.js';
import { describe, joined, type Members, toMember, Written, wrongArgument } from './json.js';
import { DEFAULTS, JUDGED, OF_CALL, TEMPLATES } from './options.js';
import type { GuardOutcome } from './outcome.js';
import { Template } from './template.js';
import type { ExecutionContext } from './types.js';

/** @internal A checked `ToolAction`: its members, with parsed templates. */
export type CheckedAction = Members;

/** @internal Checks the members of a `ToolAction` that are neither functions nor templates. */
export function checkedAction(client: object, given: Members): CheckedAction {
  const action = joined(given);
  for (const name of TEMPLATES) {
    const value = action[name];
    if (typeof value === 'string') {
      action[name] = Template.of(name, value);
    }
  }
  const fixed = Object.entries(action).filter(
    ([name, value]) => !Template.is(value) && (!OF_CALL.includes(name) || typeof value !== 'function'),
  );
  const placeholders = { goal: 'placeholder', args: {} };
  checkAction(opened(partsOf(client).connection), joined(placeholders, Object.fromEntries(fixed)));
  return action;
}

/** @internal A call of a tool. */
export interface ToolCall<T> {
  readonly client: object;
  /** The name of the operation in errors. */
  readonly operation: string;
  /** The function of the SDK that the caller called. */
  readonly above: Function;
  readonly action: CheckedAction;
  /** Members of this call; they take precedence over those of the action. */
  readonly members?: Members;
  readonly args: unknown[];
  /** Runs the tool with copies of the evaluated arguments. */
  run(own: unknown[], context: ExecutionContext): T;
  /** Whether a thrown value is the control flow of a framework. */
  readonly suspends?: ((thrown: unknown) => boolean) | undefined;
}

/** @internal Requests a decision about a call of a tool, and runs the tool, with the evaluated arguments, if permitted. */
export function guarding<T>(call: ToolCall<T>): Promise<GuardOutcome<Awaited<T>>> {
  const { client, operation, above, suspends } = call;
  const judged: Judged = { action: joined(call.action, call.members), args: call.args, own: call.args };
  const read = (defaults: Members) => {
    const members = withDefaults(judge(judged), defaults, DEFAULTS);
    return joined(members, { execute: (context: ExecutionContext) => call.run(judged.own, context) });
  };
  return calling({ client, operation, span: 'guard', about: itself, above, read }, (begun) =>
    run(begun, 'authorize', { member: 'run', present: () => present(judged, begun.members), suspends }),
  );
}

/** The arguments of one call. */
interface Judged {
  readonly action: CheckedAction;
  /** The arguments of the call. */
  readonly args: unknown[];
  /** The arguments to run with: copies of the evaluated ones. */
  own: unknown[];
}

/** Evaluates the action for one call, with copies of its arguments. */
function judge(judged: Judged): Members {
  const { action, args } = judged;
  if (JUDGED.some((name) => typeof action[name] === 'function')) {
    judged.own = copied(args);
  } else if (action['args'] === undefined || TEMPLATES.some((name) => Template.is(action[name]))) {
    judged.own = [...copied(args.slice(0, 1)), ...args.slice(1)];
  }
  const others = Object.keys(action).filter((name) => !JUDGED.includes(name));
  const evaluated = Object.fromEntries(others.map((name) => [name, ofCall(name, action, judged.own)]));
  return joined(evaluated, evaluate(action, judged.own));
}

/** Returns the current action as JSON text; throws if a member cannot be serialized. */
function present({ action, args }: Judged, members: Members): string {
  return presentInput(joined(members, evaluate(action, args)));
}

/** Returns the members that a caller can change while the gateway decides, as JSON text. */
function evaluate(action: CheckedAction, args: unknown[]): Members {
  const members = joined();
  // In this order, so that a template sees the evaluated `args`.
  for (const name of ['args', ...JUDGED]) {
    const value = name in members ? undefined : ofCall(name, action, args, members['args']);
    if (value !== undefined) {
      members[name] = new Written(toMember(name, value));
    }
  }
  return members;
}

/** Returns the value of a member for a call with `args`, of which `sent` is evaluated. */
function ofCall(name: string, action: CheckedAction, args: unknown[], sent?: unknown): unknown {
  const member = action[name];
  if (name === 'args' && member === undefined) {
    return firstOf(args);
  }
  if (Template.is(member)) {
    return member.fill([JSON.parse((sent as Written).text), args[0]]);
  }
  if (typeof member !== 'function' || !OF_CALL.includes(name)) {
    return member;
  }
  let value: unknown;
  try {
    value = member(...args);
  } catch (error) {
    throw wrongArgument(`${name}: expected a function that returns its value, found one that threw`, error);
  }
  if (types.isPromise(value)) {
    value.catch(() => {});
    throw wrongArgument(`${name}: expected a function that returns its value, found one that returns a promise`);
  }
  return value;
}

/** Returns the arguments for the policy if the member `args` is absent. */
function firstOf([first]: unknown[]): object {
  if (first === undefined) {
    return {};
  }
  if (Array.isArray(first) || typeof first !== 'object' || first === null) {
    throw wrongArgument(
      `args: expected an object literal as the first argument of the function, found ${describe(first)}: ` +
        'use the option args, such as args: (charge, amount) => ({ charge, amount })',
    );
  }
  return first;
}
