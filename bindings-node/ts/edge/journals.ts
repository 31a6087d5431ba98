/** A journal in memory. The build puts this module in place of `journals.ts`. */

/** The lines of a journal. */
export type Journal = string[];

export const journals: Journal[] = [];

export function append(journal: Journal, line: string): void {
  journal.push(line);
}
