#!/usr/bin/env node
/** Runs the program `actpass-gateway` with the same arguments, streams, signals and exit code. */

import { spawn } from 'node:child_process';
import { gatewayPath } from '../index.mjs';

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'];

let program;
try {
  program = gatewayPath();
} catch (error) {
  console.error(`actpass-gateway: ${error.message}`);
  process.exit(1);
}
// Before the program starts: a signal that arrives until then is delivered once it runs.
for (const signal of SIGNALS) {
  process.on(signal, () => child.kill(signal));
}
const child = spawn(program, process.argv.slice(2), { stdio: 'inherit' });
child.on('error', (error) => {
  console.error(`actpass-gateway: cannot run ${program}: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  if (signal === null) {
    process.exit(code);
  }
  // Ends by the same signal, so that the caller sees it.
  SIGNALS.forEach((one) => process.removeAllListeners(one));
  process.kill(process.pid, signal);
});
