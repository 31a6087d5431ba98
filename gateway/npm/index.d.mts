/** The error of `gatewayPath`. Its message names the package to install. */
export declare class GatewayNotFoundError extends Error {
  /** `actpass.gateway_missing` or `actpass.gateway_platform`. */
  readonly code: string;
}

/**
 * Return the absolute path of the program `actpass-gateway` for this platform.
 *
 * @throws {GatewayNotFoundError} This platform's package is missing, or this platform is not supported.
 */
export declare function gatewayPath(): string;
