/** @internal The version of the JavaScript half. The native module of another version is refused. */
export const VERSION = '2.0.0';
