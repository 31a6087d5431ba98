#!/usr/bin/env node
/** Runs the program `actpass-gateway` with the same arguments, streams, signals and exit code. */

import { run } from '../program.mjs';

run('gateway');
