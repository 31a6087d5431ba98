/** Verifies messages on standard input, a JSON list, with the `standardwebhooks` library; prints one result each. */

import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';

const [folder, secret] = process.argv.slice(2);
const library = pathToFileURL(`${folder}/node_modules/standardwebhooks/dist/index.js`);
const { Webhook } = (await import(library)).default;

const messages = JSON.parse(await text(process.stdin));
const results = messages.map(({ body, headers }) => {
  try {
    return { payload: new Webhook(secret).verify(body, headers) };
  } catch (error) {
    return { error: error.constructor.name };
  }
});
console.log(JSON.stringify(results));
