/** The compiled module, imported in the way of the host: see `imports` in `package.json`. */
declare module '#wasm' {
  const module: object;
  export default module;
}

declare module '#wasm-testing' {
  const module: object;
  export default module;
}
