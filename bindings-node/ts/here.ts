/** @internal The file that this module is in: of the package, or the bundle it was built into, as far as that can be told. */
export const here: string = typeof __filename === 'string' ? __filename : (process.argv[1] ?? process.execPath);
