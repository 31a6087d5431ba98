/** The files of the journal. `edge/journals.ts` replaces this module in the build for other hosts. */

import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { wrongSetting } from './json.js';

/** @internal The environment variable that passes the path of a journal to child processes. */
export const JOURNAL = 'ACTPASS_TEST_JOURNAL';
/** Shared by all copies of this module in the process. */
const KEY = Symbol.for('@actpass/sdk.journals');
const globals = globalThis as { [KEY]?: Journal[] };

/** @internal The path of a journal. */
export type Journal = string;

/** @internal The journals in which executions are recorded. */
export const journals: Journal[] = (globals[KEY] ??= [process.env[JOURNAL]].filter((path) => path !== undefined));

/** @internal Adds a line to a journal. */
export function append(path: Journal, line: string): void {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_WRONLY | constants.O_APPEND);
    const written = writeSync(file, line);
    if (written !== Buffer.byteLength(line)) {
      throw new Error('the disk is full');
    }
  } catch (error) {
    // The test has ended and removed it.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw wrongSetting(`${JOURNAL}: expected a writable file; nothing ran`, error);
    }
  } finally {
    if (file !== undefined) {
      closeSync(file);
    }
  }
}
