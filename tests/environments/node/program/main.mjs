import { probe } from './probe.mjs';

console.log(await probe());
