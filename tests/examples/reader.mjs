// Names that the reader of the documentation has in the program around a block; see reader.d.ts.
globalThis.stripe = { refunds: { create: async ({ amount }) => ({ id: 're_1', amount }) } };
globalThis.notify = (text) => console.log(text);
globalThis.log = { warn: (...texts) => console.log(...texts) };
