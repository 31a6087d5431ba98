/** Finds the program `actpass-gateway` in the package of this platform. */

import { programPath } from './program.mjs';

export class GatewayNotFoundError extends Error {
  name = 'GatewayNotFoundError';
}

export function gatewayPath() {
  return programPath('gateway', GatewayNotFoundError);
}
