/** Names of options: per method, per native call, and with defaults. */

import type { CallName } from './abi.js';

/** @internal */
export const SETTINGS = [
  'apiKey',
  'tenantId',
  'agentId',
  'baseUrl',
  'timeoutMs',
  'connectTimeoutMs',
  'maxRetries',
  'circuitFailures',
  'mode',
  'ca',
  'approvalKeys',
  'dpopKey',
  'dangerAllowInsecureHttp',
  'dangerAllowBrowser',
];
const ACTION = [
  'goal',
  'tool',
  'args',
  'resource',
  'userId',
  'passport',
  'mode',
  'idempotencyKey',
  'audience',
  'approvalRequestId',
  'toolManifestHash',
];
/** @internal */
export const ISSUE = [
  'audience',
  'goal',
  'allowedTools',
  'allowedResources',
  'resourceConstraints',
  'userId',
  'riskTier',
  'ttlSeconds',
  'approvalRequestId',
];
/** @internal */
export const VERIFY = ['token', 'audience', 'agentId', 'userId', 'currentToolManifestHash', 'policyHash'];
/** @internal */
export const VERIFY_OFFLINE = ['token', 'audience', 'issuer', 'tenantId', 'agentId', 'userId'];
/** @internal */
export const EVIDENCE = [
  'eventType',
  'chainId',
  'toolId',
  'decision',
  'reasonCode',
  'metadata',
  'requestHash',
  'responseHash',
];
const GUARD = [...ACTION, 'waitForApprovalMs'];
const RESUME = ['passport', 'waitForApprovalMs'];
/** Members of a guarded action that a verified passport determines; options exclude them. */
const OF_PASSPORT = ['agentId'];
/** Options of every call that the native module reads. */
const CALL = ['traceparent', 'timeoutMs', 'maxRetries'];
/** @internal Options that the native module reads, per call. */
export const INPUTS: { readonly [name in CallName]: readonly string[] } = {
  preflight: [...ACTION, ...CALL],
  authorize: [...GUARD, ...OF_PASSPORT, 'recordOutcome', ...CALL],
  resume: ['pending', ...RESUME, 'recordOutcome', ...CALL],
  waitForApproval: ['approvalRequestId', ...CALL],
  recordOutcome: ['call', ...CALL],
  issuePassport: [...ISSUE, ...CALL],
  verifyPassport: [...VERIFY, ...CALL],
  verifyPassportOffline: [...VERIFY_OFFLINE, ...CALL],
  revokePassport: ['jti', 'reason', ...CALL],
  recordEvidence: [...EVIDENCE, ...CALL],
};
/** Options of a guard that the TypeScript layer reads. */
const OF_GUARD = ['execute', 'signal'];
/** @internal */
export const PREFLIGHT_OPTIONS = [...INPUTS.preflight, 'signal'];
/** @internal */
export const GUARD_OPTIONS = [...GUARD, 'recordOutcome', ...CALL, ...OF_GUARD];
/** @internal */
export const AUTHORIZE_OPTIONS = [...GUARD, 'recordOutcome', ...CALL, 'signal'];
/** @internal */
export const RESUME_OPTIONS = [...RESUME, 'recordOutcome', ...CALL, ...OF_GUARD];
/** @internal */
export const AWAIT_OPTIONS = [...CALL, 'signal'];
/** @internal */
export const PROTECT_OPTIONS = [...GUARD, 'recordOutcome', ...CALL, 'signal', 'withContext', 'onBlocked'];
/** Options of `protect` that are not members of a `ToolAction`. */
const OF_PROTECT = ['idempotencyKey', 'traceparent', 'signal', 'withContext', 'onBlocked'];
/** @internal The members of a `ToolAction`. */
export const TOOL_ACTION = PROTECT_OPTIONS.filter((name) => !OF_PROTECT.includes(name));
/** @internal The options of `protect` that may be functions of the call's arguments. */
export const OF_CALL = ['goal', 'args', 'resource', 'userId', 'passport', 'idempotencyKey', 'approvalRequestId'];
/** @internal The options of `protect` that may be templates over the call's arguments. */
export const TEMPLATES = ['goal', 'resource'];
/** Defaults of every call about an action. */
const OF_ACTION = ['goal', 'userId', 'passport', 'audience'];
/** @internal */
export const SCOPE = [...OF_ACTION, 'signal', 'traceparent'];
/** @internal */
export const DEFAULTS = [...SCOPE, 'mode', 'timeoutMs', 'maxRetries', 'waitForApprovalMs', 'recordOutcome'];
/** @internal The options and defaults of every call. */
export const OF_ANY_CALL = ['signal', ...CALL];
/** @internal The defaults of a call about an action. */
export const OF_PREFLIGHT = [...OF_ACTION, 'mode', ...OF_ANY_CALL];
/** @internal The defaults of `waitForApproval`, whose own `timeoutMs` is the wait. */
export const OF_AWAIT = OF_ANY_CALL.filter((name) => name !== 'timeoutMs');
/** @internal The defaults of `issuePassport`. */
export const OF_ISSUE = ['userId', ...OF_ANY_CALL];
/** @internal The defaults of `resume`. */
export const OF_RESUME = ['passport', 'waitForApprovalMs', 'recordOutcome', ...OF_ANY_CALL];
/** @internal The members of an outcome. */
export const OUTCOME_MEMBERS = [
  'kind',
  'executed',
  'decision',
  'result',
  'error',
  'approval',
  'evidence',
  'evidenceError',
  'requestId',
];
/** @internal The members of an action that are compared before it runs. */
export const COMPARED = ['goal', 'tool', 'args', 'resource', 'agentId', 'userId', 'audience', 'toolManifestHash'];
/** @internal Compared members that a caller can change while the gateway decides. */
export const JUDGED = ['goal', 'args', 'resource', 'userId'];
