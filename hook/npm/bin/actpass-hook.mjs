#!/usr/bin/env node
/** Runs the program `actpass-hook` with the same arguments, streams and signals. Exits with 0 or, as hosts expect of a denial, 2. */

const DENIED = 2;

try {
  const { run } = await import('../program.mjs');
  run('hook', DENIED);
} catch (error) {
  console.error(`actpass-hook: ${error.message}`);
  process.exit(DENIED);
}
