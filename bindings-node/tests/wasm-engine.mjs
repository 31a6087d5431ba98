/** Imported first, makes the package use the engine in wasm, and shows its instances. */

process.env.ACTPASS_ENGINE = 'wasm';

/** The instances of the module, in the order of their creation. */
export const instances = [];

const { Instance } = WebAssembly;
WebAssembly.Instance = class extends Instance {
  constructor(...args) {
    super(...args);
    instances.push(this);
  }
};
