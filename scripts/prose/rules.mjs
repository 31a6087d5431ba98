// The textlint rules of the project: patterns of style.yaml, and the width of lines.

const START = String.raw`(?<=^\W*|[.:;!?]\W*\s+|[—–]\s+|\()`;

/** Compiles the patterns of style.yaml: a space matches any white space, `<start>` the start of a sentence, a cell or a clause. */
export function compile(patterns) {
  return patterns.map((pattern) => {
    const source = pattern.regex.replaceAll('<start>', START).replaceAll(/ (?![+*?])/g, String.raw`\s+`);
    return { ...pattern, regex: new RegExp(source, pattern.case ? 'g' : 'gi') };
  });
}

/** Returns the source of a node with code, link targets and markers masked, so that offsets are kept. */
function masked(node, source) {
  const base = node.range[0];
  const out = [...source.slice(node.range[0], node.range[1]).split('')];
  const mask = (from, to, filler) => {
    for (let at = from - base; at < to - base; at += 1) if (out[at] !== '\n') out[at] = filler;
  };
  const walk = (one) => {
    if (one.type === 'Code' || one.type === 'Image') mask(one.range[0], one.range[1], 'Q');
    else if (one.type === 'Html') mask(one.range[0], one.range[1], ' ');
    else if (one.children) {
      const inner = one.children;
      if (one !== node && one.type !== 'Str' && inner.length) {
        mask(one.range[0], inner[0].range[0], ' ');
        mask(inner.at(-1).range[1], one.range[1], ' ');
      }
      inner.forEach(walk);
    } else if (one.type === 'Str' && /^(https?:\/\/|\w+@)/.test(one.value ?? '')) mask(one.range[0], one.range[1], 'Q');
  };
  walk(node);
  return out.join('').replace(/`[^`\n]*`/g, (code) => 'Q'.repeat(code.length));
}

function isQuestion(text, from) {
  return /^[^.!?]*\?/.test(text.slice(from));
}

/** Reports each match of a pattern in paragraphs, headings and table cells. */
export function styleRule(context, { patterns, kind }) {
  const { Syntax, RuleError, report, getSource } = context;
  const source = getSource();
  const check = (node, heading) => {
    const text = masked(node, source);
    const seen = new Set();
    for (const { id, regex, message, only, question } of patterns) {
      if (only && !only.includes(heading ? 'heading' : kind) && !(heading && only.includes('prose'))) continue;
      for (const match of text.matchAll(regex)) {
        const lead = /^\s*/.exec(match[0])[0].length;
        const index = match.index + lead;
        if ((question && isQuestion(text, index)) || seen.has(`${id} ${index}`)) continue;
        seen.add(`${id} ${index}`);
        report(node, new RuleError(`[${id}] “${match[0].trim().replace(/\s+/g, ' ')}”: ${message}`, { index }));
      }
    }
  };
  return {
    [Syntax.Paragraph]: (node) => check(node, false),
    [Syntax.Header]: (node) => check(node, true),
    [Syntax.TableCell]: (node) => check(node, false),
  };
}

/** Reports lines of Markdown prose beyond `width` columns. Tables, code, headings and link targets are exempt. */
export function widthRule(context, { width }) {
  const { Syntax, RuleError, report, getSource } = context;
  return {
    [Syntax.Paragraph](node) {
      const source = getSource();
      const from = source.lastIndexOf('\n', node.range[0]) + 1;
      let at = from;
      for (const line of source.slice(from, node.range[1]).split('\n')) {
        const shown = line.replace(/\]\([^)]*\)/g, ']').replace(/https?:\/\/\S+/g, '');
        if ([...shown].length > width) {
          report(node, new RuleError(`[line-width] ${[...shown].length} columns: wrap prose at ${width}`, { index: Math.max(0, at - node.range[0]) }));
        }
        at += line.length + 1;
      }
    },
  };
}
