// Lints prose: see scripts/lint-prose for the usage.

import { spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TextlintKernel } from '@textlint/kernel';
import markdownPlugin from '@textlint/textlint-plugin-markdown';
import textPlugin from '@textlint/textlint-plugin-text';
import { parse } from 'yaml';
import { extract, languageOf } from './extract.mjs';
import { compile, styleRule, widthRule } from './rules.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const style = parse(readFileSync(resolve(HERE, 'style.yaml'), 'utf8'));
const patterns = compile(style.patterns);
const kernel = new TextlintKernel();

/** Compiles a glob: `**` matches folders, `*` a part of a name. */
const glob = (text) => new RegExp(`^${text.replace(/[.+^$()|[\]\\]/g, '\\$&').replaceAll('**', '\0').replaceAll('*', '[^/]*').replaceAll('\0', '.*')}$`);
const excludes = style.exclude.map(glob);

const plugin = (module) => module.default ?? module;
const plugins = [
  { pluginId: 'markdown', plugin: plugin(markdownPlugin) },
  { pluginId: 'text', plugin: plugin(textPlugin) },
];

/** Lints one text; returns `{ line, id, message, shown }`. */
async function lint(text, { ext, kind, path = `text${ext}`, width }) {
  const rules = [{ ruleId: 'style', rule: styleRule, options: { patterns, kind } }];
  if (width) rules.push({ ruleId: 'width', rule: widthRule, options: { width } });
  const { messages } = await kernel.lintText(text, { ext, filePath: path, plugins, rules });
  return messages.map(({ line, message, ruleId }) => {
    const [, id, rest] = /^(?:\[([\w-]+)\] )?(.*)$/s.exec(message);
    return { line, id: id ?? ruleId, message: rest };
  });
}

const sorted = (found) => found.sort((a, b) => a.line - b.line || (a.id < b.id ? -1 : 1));

async function lintFile(path, text, language) {
  if (language === 'md') return sorted(await lint(text, { ext: '.md', kind: 'prose', path, width: style.width }));
  const found = [];
  const { comments, strings, names } = extract(language, text);
  const run = async (parts, ext, kind) => {
    const lines = [];
    const virtual = [];
    for (const part of parts) {
      const shown = Array.isArray(part.text) ? part.text : [part.text.replace(/\s+/g, ' ').trim()];
      shown.forEach((line, index) => {
        virtual.push(line);
        lines.push(part.lines ? (part.lines[index] ?? part.lines.at(-1)) : part.line);
      });
      virtual.push('');
      lines.push(lines.at(-1));
    }
    for (const one of await lint(virtual.join('\n'), { ext, kind })) found.push({ ...one, line: lines[one.line - 1] });
  };
  await run(comments, '.md', 'prose');
  await run(strings, '.txt', 'message');
  await run(names, '.txt', 'name');
  return sorted(found);
}

function filesOf(root, paths) {
  const git = spawnSync('git', ['ls-files', '-z', '-co', '--exclude-standard', '--', ...paths], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (git.status !== 0) throw new Error(`git ls-files failed in ${root}: ${git.stderr}`);
  const excluded = (name) => excludes.some((one) => one.test(name));
  return [...new Set(git.stdout.split('\0'))].filter((name) => name && !excluded(name)).sort();
}

async function lintAll(root, paths, summary) {
  const counts = new Map();
  const perFile = new Map();
  let files = 0;
  for (const name of filesOf(root, paths)) {
    const path = resolve(root, name);
    if (!statSync(path, { throwIfNoEntry: false })?.isFile()) continue;
    const text = readFileSync(path, 'utf8');
    const language = languageOf(name, text);
    if (!language) continue;
    files += 1;
    for (const { line, id, message } of await lintFile(name, text, language)) {
      counts.set(id, (counts.get(id) ?? 0) + 1);
      perFile.set(name, (perFile.get(name) ?? 0) + 1);
      if (!summary) console.log(`${name}:${line}: ${id}: ${message}`);
    }
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  const ranked = (map) => [...map].sort((a, b) => b[1] - a[1]).map(([key, count]) => `${String(count).padStart(6)} ${key}`).join('\n');
  if (summary && total) console.log(`${ranked(counts)}\n\n${ranked(perFile)}\n`);
  if (!files) throw new Error(`no file to lint in ${root} for: ${paths.join(' ') || 'the whole repository'}`);
  console.error(`lint-prose: ${files} files, ${total} findings`);
  return total;
}

/** Checks that each pattern finds its bad examples and that no pattern finds anything in the good ones. */
async function selfTest() {
  const problems = [];
  const ids = async (text, kind) => (await lint(text, { ext: '.md', kind })).map(({ id }) => id);
  let checked = 0;
  for (const { id, bad, good, only } of style.patterns) {
    const kind = only?.includes('message') && !only.includes('prose') ? 'message' : 'prose';
    if (!bad?.length || !good?.length) problems.push(`${id}: expected at least one bad and one good example`);
    for (const text of bad ?? []) {
      checked += 1;
      if (!(await ids(text, kind)).includes(id)) problems.push(`${id}: does not find: ${text}`);
    }
    for (const text of good ?? []) {
      checked += 1;
      const found = await ids(text, kind);
      if (found.length) problems.push(`${id}: the good example has ${found.join(', ')}: ${text}`);
    }
  }
  for (const [bad, good] of style.pairs) {
    checked += 2;
    if (!(await ids(bad, 'prose')).length) problems.push(`pairs: nothing found in: ${bad}`);
    const found = await ids(good, 'prose');
    if (found.length) problems.push(`pairs: the good example has ${found.join(', ')}: ${good}`);
  }
  for (const { file, text, findings } of style.sources) {
    checked += 1;
    const found = (await lintFile(file, text, languageOf(file, text))).map(({ line, id }) => `${line} ${id}`);
    if (found.join() !== findings.join()) problems.push(`${file}: expected ${findings.join()}, found ${found.join()}:\n${text}`);
  }
  console.log(`lint-prose: ${style.patterns.length} patterns, ${checked} examples, ${problems.length} wrong`);
  for (const problem of problems) console.error(problem);
  return problems.length;
}

const given = process.argv.slice(2);
let root = resolve(HERE, '../..');
let summary = false;
let test = false;
const paths = [];
while (given.length) {
  const one = given.shift();
  if (one === '--root') root = resolve(given.shift() ?? '');
  else if (one === '--summary') summary = true;
  else if (one === '--self-test') test = true;
  else if (one.startsWith('--')) throw new Error(`expected --root, --summary or --self-test, found ${one}`);
  else paths.push(one.startsWith('/') ? relative(root, one) || '.' : one);
}
const wrong = test ? await selfTest() : await lintAll(root, paths, summary);
process.exitCode = wrong ? 1 : 0;
