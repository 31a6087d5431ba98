/** TypeDoc plugin: resolves links from the modules `@actpass/sdk/…` to names of `@actpass/sdk` that they do not import. */

export function load(app) {
  app.converter.addUnknownSymbolResolver((reference, reflection) => {
    const path = (reference.symbolReference?.path ?? []).map((component) => component.path);
    const target = path.length > 0 && reflection.project.getChildByName(['@actpass/sdk', ...path]);
    return target ? { target } : undefined;
  });
}
