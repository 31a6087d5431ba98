/** The same implementation for `import`: the classes are one, whichever way they come. */
export * from './index.js';
