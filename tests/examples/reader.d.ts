// Names that the reader of the documentation has in the program around a block.
declare const stripe: {
  refunds: { create(wanted: { charge: string; amount: number }): Promise<{ id: string; amount: number }> };
};
declare function notify(text: string): void;
declare const log: { warn(...texts: (string | undefined)[]): void };
