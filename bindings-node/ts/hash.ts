/** Canonical JSON: hashes, signatures and outcomes. */

import { placing } from './errors.js';
import { describe, toJson, toMembers, wrongArgument } from './json.js';
import { native } from './native.js';
import { OUTCOME_MEMBERS } from './options.js';
import type { GuardOutcome } from './outcome.js';
import { converting } from './runtime.js';

/**
 * Returns the SHA-256, in hex, of the canonical JSON (RFC 8785) of `payload`.
 *
 * @throws {@link ActPassArgumentError} `payload` has no canonical form: not JSON, NaN, an integer beyond ±(2^53 - 1), a lone
 * surrogate.
 *
 * @example
 * ```ts
 * import { hashPayload } from '@actpass/sdk';
 *
 * console.log(hashPayload({ currency: 'usd', amount: 4900 }) === hashPayload({ amount: 4900, currency: 'usd' }));
 * ```
 */
export function hashPayload(payload: unknown): string {
  return placing(hashPayload, () => hashOf(payload));
}

/**
 * Returns the HMAC-SHA256 of the canonical JSON of `payload` under `secret`, in hex.
 *
 * @throws {@link ActPassArgumentError} As {@link hashPayload}.
 *
 * @example
 * ```ts
 * import { signPayload } from '@actpass/sdk';
 *
 * console.log(signPayload('signing key', { amount: 4900 }).length);
 * ```
 */
export function signPayload(secret: string, payload: unknown): string {
  return placing(signPayload, () => signatureOf(secret, payload));
}

/**
 * Returns the thumbprint of the setting `dpopKey`, to which the gateway binds an API key: the SHA-256 of the public key
 * (RFC 7638) in base64url, 43 characters.
 *
 * @throws {@link ActPassArgumentError} `key` is not a P-256 or Ed25519 private key in PKCS#8 PEM.
 *
 * @example
 * ```ts
 * import { generateKeyPairSync } from 'node:crypto';
 * import { dpopThumbprint } from '@actpass/sdk';
 *
 * const { privateKey } = generateKeyPairSync('ed25519');
 * console.log(dpopThumbprint(privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()).length);
 * ```
 */
export function dpopThumbprint(key: string): string {
  return placing(dpopThumbprint, () => {
    if (typeof key !== 'string') {
      throw wrongArgument(`dpopKey: expected a string, found ${describe(key)}`);
    }
    return converting(() => native.dpopThumbprint(key));
  });
}

/**
 * Returns `{"decision", "error", "executed"}` of an outcome as canonical JSON, identical in every language.
 *
 * `error` is `null` or `{"kind", "status"}`; the kind is `action` for an error of the guarded function.
 *
 * @throws {@link ActPassArgumentError} `outcome` is not the outcome of a guard.
 *
 * @example
 * ```ts
 * import { ActPass, canonicalOutcome } from '@actpass/sdk';
 *
 * const actpass = new ActPass();
 * const outcome = await actpass.guard({ goal: 'g', tool: 'gmail.send', args: {}, execute: () => 'sent' });
 * console.log(canonicalOutcome(outcome));
 * ```
 */
export function canonicalOutcome(outcome: GuardOutcome<unknown>): string {
  return placing(canonicalOutcome, () => {
    const { kind: how, executed, decision, error } = toMembers(outcome, OUTCOME_MEMBERS);
    if (typeof executed !== 'boolean') {
      throw wrongArgument(`executed: expected true or false, found ${describe(executed)}`);
    }
    const text = toJson('decision', decision);
    const { kind, status } = how === 'failed' ? { kind: 'action' } : kindOf(error);
    return converting(() => native.canonicalOutcome(executed, text, kind ?? null, status ?? null));
  });
}

/** Returns kind and status of the gate's error. */
function kindOf(error: unknown): { kind?: string; status?: number } {
  try {
    const { kind, status } = Object(error) as { kind?: unknown; status?: unknown };
    return { ...(typeof kind === 'string' && { kind }), ...(typeof status === 'number' && { status }) };
  } catch (cause) {
    throw wrongArgument('error: reading its members failed', cause);
  }
}

/** @internal As {@link hashPayload}. */
export function hashOf(payload: unknown): string {
  const text = toJson('payload', payload);
  return converting(() => native.hashPayload(text));
}

/** @internal As {@link signPayload}. */
export function signatureOf(secret: unknown, payload: unknown): string {
  if (typeof secret !== 'string') {
    throw wrongArgument(`secret: expected a string, found ${describe(secret)}`);
  }
  const text = toJson('payload', payload);
  return converting(() => native.signPayload(secret, text));
}
