#!/usr/bin/env node
/** Runs the program `actpass-conformance` with the same arguments, streams, signals and exit code. */

import { run } from '../program.mjs';

run('conformance');
