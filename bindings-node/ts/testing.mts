/** ES module entry point of the CommonJS implementation, so that both share the same classes. Names are static. */
export {
  allow,
  deny,
  installedGateway,
  RealGateway,
  requireApproval,
  respond,
  ScriptedGateway,
  TestGateway,
  unreachable,
  UnknownExecution,
  warn,
} from './testing.js';
export type * from './testing.js';
