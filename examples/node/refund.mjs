/**
 * A support agent refunds customers, guarded by a local gateway.
 *
 * The example tries refunds of 49, 250 and 900 dollars under the refund policy. Then it stops the gateway and tries one refund
 * in `enforce` and one in `monitor`. The ledger file contains one line for each refund that ran.
 *
 * Usage: refund.mjs GATEWAY LEDGER, the path of the program `actpass-gateway` and of a file to write.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { ActPass } from '@actpass/sdk';

const KEY = 'apk_dev';

/** Tries the refunds and prints the decisions and what ran. */
async function main(gateway, ledger) {
  await mkdir(dirname(ledger), { recursive: true });
  await writeFile(ledger, '');
  printRow('amount', 'mode', 'decision', 'reason', 'ran');
  const { baseUrl, stop } = await start(gateway);
  try {
    const actpass = new ActPass({
      apiKey: KEY,
      agentId: 'support_agent',
      baseUrl,
    });
    for (const [charge, cents] of Object.entries({
      ch_1: 4900,
      ch_2: 25_000,
      ch_3: 90_000,
    })) {
      await guardedRefund(actpass, ledger, charge, cents, 'enforce');
    }
    const chain = await readChain(baseUrl);
    await stop();
    await guardedRefund(actpass, ledger, 'ch_4', 1200, 'enforce');
    await guardedRefund(actpass, ledger, 'ch_5', 1200, 'monitor');
    console.log(`\nevidence: ${chain.length} events, the chain ${chain.valid ? 'verifies' : 'IS BROKEN'}`);
  } finally {
    await stop();
  }
  console.log(`refunds that ran (${ledger}):`);
  process.stdout.write(await readFile(ledger, 'utf8'));
}

/** Refunds `charge` if the gateway allows it, and prints a row. */
async function guardedRefund(actpass, ledger, charge, cents, mode) {
  const { executed, decision } = await actpass.guard({
    goal: 'resolve_refund_request',
    tool: 'stripe.refund.create',
    resource: `stripe:charge:${charge}`,
    args: { amount: cents, currency: 'usd' },
    mode,
    execute: () => refund(ledger, charge, cents),
  });
  printRow((cents / 100).toFixed(2), mode, decision.decision, decision.reason_code, executed ? 'yes' : 'no');
}

/** Pays the refund; this example appends a line to a file instead. */
async function refund(ledger, charge, cents) {
  await appendFile(ledger, `${JSON.stringify({ charge, amount: cents })}\n`);
  return `re_${charge}`;
}

/** Has the gateway verify its chain of decisions. */
async function readChain(baseUrl) {
  const headers = { authorization: `Bearer ${KEY}` };
  const answer = await fetch(`${baseUrl}/api/v1/evidence/chains/decisions/verify`, { headers });
  return answer.json();
}

/** Starts a gateway with a new data file; returns its URL and a function that stops it. */
async function start(gateway) {
  const folder = await mkdtemp(join(tmpdir(), 'actpass-'));
  const child = spawn(gateway, ['dev', '--listen', '127.0.0.1:0', '--data', join(folder, 'dev.db')], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      child.kill();
      await ended;
    }
    await rm(folder, { recursive: true, force: true });
  };
  const [line] = await once(createInterface({ input: child.stdout }), 'line');
  if (!line.startsWith('listening on ')) {
    await stop();
    throw new Error(`the gateway did not start: ${line}`);
  }
  return { baseUrl: line.split(' ').at(-1), stop };
}

/** Prints a row of the table. */
function printRow(amount, mode, decision, reason, ran) {
  console.log(`${amount.padStart(8)}  ${mode.padEnd(8)}  ${decision.padEnd(17)} ${reason.padEnd(28)} ${ran}`);
}

const [gateway, ledger] = process.argv.slice(2);
if (ledger === undefined) {
  console.error('usage: refund.mjs GATEWAY LEDGER');
  process.exit(2);
}
await main(gateway, ledger);
