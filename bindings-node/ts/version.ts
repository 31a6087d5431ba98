/** @internal The version of the JavaScript half. The native half of another version is refused. */
export const VERSION = '2.0.0';
