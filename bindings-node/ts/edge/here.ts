/** Without files and `require`. The build puts it in place of `here.ts`. */

export const here = '';

export function nodeRequire(): (specifier: string) => never {
  return (specifier) => {
    throw Object.assign(new Error(`${specifier}: this host has no require`), { code: 'MODULE_NOT_FOUND' });
  };
}
