// Extracts prose from source files: comments and docstrings as Markdown, messages and test names as plain text.
//
// Each extractor returns `{ comments, strings, names }`: lists of `{ line, text }`, where `line` is the first line of `text`, or
// `lines` gives the line of each line of `text`.

const C_LIKE = { line: '//', block: ['/*', '*/'] };
const LANGUAGES = {
  rs: { ...C_LIKE, nested: true, read: rustString, tests: /\bfn ([a-z0-9]+(?:_[a-z0-9]+){2,})/g },
  ts: { ...C_LIKE, read: scriptString },
  swift: { ...C_LIKE, nested: true, read: swiftString, tests: /\bfunc (test[A-Z]\w+)/g },
  kt: { ...C_LIKE, nested: true, read: kotlinString, tests: /\bfun `([^`]+)`/g },
  java: { ...C_LIKE, read: kotlinString },
  py: { line: '#', read: pythonString, tests: /\bdef (test_\w+)/g },
  sh: { line: '#', read: shellString, spaced: true },
  toml: { line: '#', read: shellString, spaced: true, silent: true },
};
for (const name of ['mts', 'cts', 'mjs', 'cjs', 'js']) LANGUAGES[name] = LANGUAGES.ts;
for (const name of ['yml', 'yaml', 'mk']) LANGUAGES[name] = LANGUAGES.toml;
LANGUAGES.pyi = LANGUAGES.py;

/** Returns the language of a file by its name or its first line, or `undefined` if its prose is not checked. */
export function languageOf(path, text) {
  const name = path.split('/').pop();
  if (name === 'Makefile') return 'mk';
  const dot = name.lastIndexOf('.');
  if (dot > 0) {
    const extension = name.slice(dot + 1);
    return extension === 'md' || extension === 'html' || LANGUAGES[extension] ? extension : undefined;
  }
  const shebang = /^#!.*?(python|bash|sh)/.exec(text);
  return shebang ? (shebang[1] === 'python' ? 'py' : 'sh') : undefined;
}

/** Extracts the prose of one source file. */
export function extract(language, text) {
  if (language === 'html') return html(text);
  const rules = LANGUAGES[language];
  const lineOf = lineCounter(text);
  const comments = [];
  const strings = [];
  let at = 0;
  while (at < text.length) {
    if (text.startsWith(rules.line, at) && (!rules.spaced || at === 0 || /\s/.test(text[at - 1]))) {
      const end = endOfLine(text, at);
      comments.push({ line: lineOf(at), text: text.slice(at, end), alone: text.slice(text.lastIndexOf('\n', at - 1) + 1, at).trim() === '' });
      at = end;
    } else if (rules.block && text.startsWith(rules.block[0], at)) {
      const end = endOfBlock(text, at, rules);
      comments.push({ line: lineOf(at), text: text.slice(at, end), block: true });
      at = end;
    } else {
      const found = rules.read(text, at);
      if (found) {
        const one = { line: lineOf(at), text: found.text };
        if (found.doc) comments.push({ ...one, doc: true });
        else if (!rules.silent) strings.push(one);
        at = found.end;
      } else {
        at += 1;
      }
    }
  }
  const names = [];
  for (const match of rules.tests ? text.matchAll(rules.tests) : []) {
    names.push({ line: lineOf(match.index), text: words(match[1]) });
  }
  return { comments: blocks(comments), strings: strings.filter((one) => isProse(one.text)), names };
}

/** Joins adjacent line comments and removes comment markers and indentation. */
function blocks(comments) {
  const found = [];
  let last;
  for (const one of comments) {
    let lines = one.text.split('\n');
    if (one.block) lines = lines.map((line) => line.replace(/^\s*(?:\/\*+!?|\*+\/|\*(?!\*))? ?/, '').replace(/\s*\*+\/\s*$/, ''));
    else if (!one.doc) lines = lines.map((line) => line.replace(/^(?:\/\/[/!]?|#[:!]?) ?/, ''));
    const joins = last && !one.block && !one.doc && one.alone && last.alone && last.end + 1 === one.line;
    if (!joins) {
      last = { lines: [], text: [], alone: !one.block && !one.doc && one.alone };
      found.push(last);
    }
    lines.forEach((line, index) => {
      last.lines.push(one.line + index);
      last.text.push(line);
    });
    last.end = one.line + lines.length - 1;
  }
  return found.map(({ lines, text }) => ({ lines, text: dedent(text) }));
}

/** Removes indentation outside of fenced code, so that Markdown does not take it for code; drops doctest lines. */
function dedent(lines) {
  let fenced = false;
  const out = lines.map((line) => {
    const trimmed = line.trim();
    if (/^(```|~~~)/.test(trimmed)) {
      fenced = !fenced;
      return trimmed;
    }
    if (fenced) return line;
    return /^(>>>|\.\.\. |@\w+\(|-\*-|!\/)/.test(trimmed) ? '' : trimmed;
  });
  return fenced ? [...out, '```'] : out;
}

/** Splits `snake_case` and `camelCase` into words. */
function words(name) {
  return name.replace(/^test_?/, '').replace(/_/g, ' ').replace(/([a-z0-9])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`).trim();
}

/** Tells messages from keys, code and data: at least three words, one of them in lower case, and no code. */
function isProse(text) {
  const trimmed = text.trim();
  if (/^[[{<]|^(select|insert|update|delete|create|drop|alter|with|pragma|grant|begin)\b.*\b(from|into|set|table|index|as|to|immediate|trigger)\b/is.test(trimmed)) return false;
  if (/[;{}]\s*\n|=>|\)\s*;|::|\n\s*(def|import|fn|let|const|class)\s/.test(trimmed)) return false;
  return /[a-z]{2,}\s+[a-z]/i.test(trimmed) && (trimmed.match(/[a-z]{2,}/gi) ?? []).length >= 3;
}

function lineCounter(text) {
  const starts = [0];
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  return (index) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  };
}

function endOfLine(text, at) {
  const end = text.indexOf('\n', at);
  return end === -1 ? text.length : end;
}

function endOfBlock(text, at, { block: [open, close], nested }) {
  let depth = 0;
  for (let index = at; index < text.length; index += 1) {
    if (text.startsWith(close, index)) {
      depth -= 1;
      index += close.length - 1;
      if (depth === 0) return index + 1;
    } else if (text.startsWith(open, index) && (nested || depth === 0)) {
      depth += 1;
      index += open.length - 1;
    }
  }
  return text.length;
}

/** Reads a literal up to `close`; `\` escapes a character, and `interpolate` skips a nested expression. */
function literal(text, from, close, { raw = false, interpolate } = {}) {
  let out = '';
  let at = from;
  while (at < text.length) {
    if (text.startsWith(close, at)) return { text: out, end: at + close.length };
    const nested = interpolate?.(text, at);
    if (nested) {
      out += 'QQ';
      at = nested;
    } else if (!raw && text[at] === '\\') {
      if (text[at + 1] === '\n') {
        at += 2;
        while (/\s/.test(text[at] ?? '')) at += 1;
      } else {
        out += /[ntr0]/.test(text[at + 1] ?? '') ? ' ' : (text[at + 1] ?? '');
        at += 2;
      }
    } else {
      out += text[at];
      at += 1;
    }
  }
  return { text: out, end: text.length };
}

/** Returns an interpolation reader for expressions between `open` and the matching bracket. */
function nested(open, left, right) {
  return (text, at) => {
    if (!text.startsWith(open, at)) return undefined;
    let depth = 1;
    let quoted = false;
    for (let index = at + open.length; index < text.length; index += 1) {
      if (text[index] === '\\') index += 1;
      else if (text[index] === '"') quoted = !quoted;
      else if (!quoted && text[index] === left) depth += 1;
      else if (!quoted && text[index] === right && (depth -= 1) === 0) return index + 1;
    }
    return text.length;
  };
}

function previous(text, at) {
  return /\w/.test(text[at - 1] ?? '');
}

function rustString(text, at) {
  if (text[at] === '"') {
    const found = literal(text, at + 1, '"');
    return { ...found, text: found.text.replace(/\{[^{}]*\}/g, 'QQ') };
  }
  if (text[at] === 'r' && !(previous(text, at) && !/[bc]/.test(text[at - 1]))) {
    const hashes = /^r(#*)"/.exec(text.slice(at, at + 12));
    if (hashes) return literal(text, at + hashes[0].length, `"${hashes[1]}`, { raw: true });
  }
  if (text[at] === "'" && !previous(text, at)) {
    if (text[at + 1] === '\\') return { text: '', end: text.indexOf("'", at + 3) + 1 || text.length };
    const one = String.fromCodePoint(text.codePointAt(at + 1) ?? 32);
    if (text[at + 1 + one.length] === "'") return { text: '', end: at + 2 + one.length };
  }
  return undefined;
}

function scriptString(text, at) {
  const quote = text[at];
  if (quote === '"' || quote === "'") return literal(text, at + 1, quote);
  if (quote === '`') return literal(text, at + 1, '`', { interpolate: nested('${', '{', '}') });
  if (quote === '/' && /(?:^|[(,=:[!&|?{};\n]|\breturn|\btypeof)\s*$/.test(text.slice(Math.max(0, at - 12), at))) {
    let inClass = false;
    for (let index = at + 1; index < text.length && text[index] !== '\n'; index += 1) {
      if (text[index] === '\\') index += 1;
      else if (text[index] === '[') inClass = true;
      else if (text[index] === ']') inClass = false;
      else if (text[index] === '/' && !inClass) return { text: '', end: index + 1 };
    }
  }
  return undefined;
}

function swiftString(text, at) {
  const open = /^(#*)("""|")/.exec(text.slice(at, at + 8));
  if (!open) return undefined;
  return literal(text, at + open[0].length, open[2] + open[1], { raw: open[1] !== '', interpolate: nested(`\\${open[1]}(`, '(', ')') });
}

function kotlinString(text, at) {
  if (text.startsWith('"""', at)) return literal(text, at + 3, '"""', { raw: true, interpolate: nested('${', '{', '}') });
  if (text[at] === '"') return literal(text, at + 1, '"', { interpolate: nested('${', '{', '}') });
  if (text[at] === "'" && !previous(text, at)) return literal(text, at + 1, "'");
  return undefined;
}

function pythonString(text, at) {
  const open = /^([rbfu]{0,2})("""|'''|"|')/i.exec(text.slice(at, at + 6));
  if (!open || previous(text, at)) return undefined;
  const raw = /r/i.test(open[1]);
  const interpolate = /f/i.test(open[1]) ? (all, index) => (all.startsWith('{{', index) ? undefined : nested('{', '{', '}')(all, index)) : undefined;
  const found = literal(text, at + open[0].length, open[2], { raw: raw || open[2].length === 3, interpolate });
  const before = text.slice(0, at).trimEnd();
  const doc = open[2].length === 3 && (before === '' || /[:"'\])\w]$/.test(before)) && /(^|\n)\s*$/.test(text.slice(Math.max(0, at - 40), at));
  return { ...found, doc };
}

function shellString(text, at) {
  if (text[at] === "'" && !previous(text, at)) {
    const end = text.indexOf("'", at + 1);
    const line = endOfLine(text, at);
    return end === -1 || end > line ? undefined : { text: text.slice(at + 1, end), end: end + 1 };
  }
  if (text[at] !== '"') return undefined;
  const found = literal(text, at + 1, '"');
  return found.end - at > 2000 ? undefined : { ...found, text: found.text.replace(/\$\w+|\$\{[^}]*\}|\$\([^)]*\)/g, 'QQ') };
}

/** The text between the tags of a template. */
function html(text) {
  const blank = (match) => match.replace(/[^\n]/g, ' ');
  const shown = text
    .replace(/<(script|style)\b.*?<\/\1>|\{#.*?#\}|<!--.*?-->/gs, blank)
    .replace(/\{\{.*?\}\}/gs, (match) => 'Q'.repeat(Math.min(match.length, 4)).padEnd(match.length))
    .replace(/\{%.*?%\}|<\/?(?:a|b|code|em|i|span|strong|time|kbd)\b[^>]*>/gs, blank)
    .replace(/<[^>]*>/gs, (match) => match.replace(/[^\n]/g, '\u0000'));
  const strings = [];
  let line = 1;
  for (const part of shown.split(/(\u0000+)/)) {
    const lead = /^\s*/.exec(part)[0].split('\n').length - 1;
    if (isProse(part)) strings.push({ line: line + lead, text: part.trim().replace(/\s+/g, ' ') });
    line += part.split('\n').length - 1;
  }
  return { comments: [], strings, names: [] };
}
