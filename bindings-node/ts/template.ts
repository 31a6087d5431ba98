/** Templates over the arguments of a tool, such as `stripe:charge:{charge}`. */

import { describe, wrongArgument } from './json.js';

/** A brace that is escaped, a name in braces, or a single brace, which is an error. */
const PART = /\{\{|\}\}|\{([^{}]*)\}|[{}]/g;
const NAME = /^[A-Za-z_$][\w$]*$/;

/** @internal A template; `member` is the name of the option in messages. */
export class Template {
  readonly #member: string;
  readonly #text: string;

  private constructor(member: string, text: string) {
    this.#member = member;
    this.#text = text;
  }

  /** Returns `text` without escapes if it names no argument, and otherwise its template. */
  static of(member: string, text: string): string | Template {
    let names = 0;
    const plain = text.replace(PART, (part: string, name: string | undefined) => {
      if (part === '{{' || part === '}}') {
        return part.slice(1);
      }
      if (name === undefined || !NAME.test(name)) {
        throw wrongArgument(
          `${member}: expected names of arguments in braces, such as 'charge:{id}', found ${JSON.stringify(text)}; ` +
            'write {{ and }} for braces',
        );
      }
      names += 1;
      return part;
    });
    return names === 0 ? plain : new Template(member, text);
  }

  /** Whether `value` is one. Runs no user code, unlike `instanceof` on a proxy. */
  static is(value: unknown): value is Template {
    return typeof value === 'object' && value !== null && #text in value;
  }

  /** Returns the text for the arguments in `sources`, of which the first that has a name supplies its value. */
  fill(sources: readonly unknown[]): string {
    return this.#text.replace(PART, (part: string, name: string | undefined) => {
      if (name === undefined) {
        return part.slice(1);
      }
      const source = sources.find((one) => typeof one === 'object' && one !== null && Object.hasOwn(one, name));
      const value = source === undefined ? undefined : (source as { [name: string]: unknown })[name];
      if (typeof value === 'string' || Number.isSafeInteger(value)) {
        return `${value as string | number}`;
      }
      const found = source === undefined ? 'nothing' : describe(value);
      throw wrongArgument(`${this.#member}: expected ${name} as a string or an integer, found ${found}`);
    });
  }
}
