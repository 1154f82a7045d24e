// The tables: Markdown, as a README can carry them.
import { KINDS, passes } from './suite.mjs';

const row = (cells) => `| ${cells.join(' | ')} |`;
const table = (head, rows) => [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');

/** How many pass by kind; in brackets how many fail, and how many could not be judged. */
export function byKind(suite, scores) {
  const rows = KINDS.map((kind) => {
    const ids = suite.tests.filter((test) => test.kind === kind).map((test) => test.id);
    const cells = scores.map(({ results }) => {
      const passed = ids.filter((id) => passes(results.get(id))).length;
      const failed = ids.filter((id) => ['fail', 'no'].includes(results.get(id))).length;
      return `${passed} (${failed}, ${ids.length - passed - failed})`;
    });
    return [kind, ids.length, ...cells];
  });
  return table(['kind', 'tests', ...scores.map(({ store }) => store)], rows);
}

/** How many of how many pass, by group and kind: one number where all stores agree, else one for each. */
export function byGroup(suite, scores) {
  const rows = suite.groups.map((group) => {
    const cells = KINDS.map((kind) => {
      const ids = group.tests.filter((test) => test.kind === kind).map((test) => test.id);
      if (ids.length === 0) return '';
      const counts = scores.map(({ results }) => ids.filter((id) => passes(results.get(id))).length);
      const shown = new Set(counts).size === 1 ? [counts[0]] : counts;
      return `${shown.join(', ')} of ${ids.length}`;
    });
    return [group.id, ...cells];
  });
  return table(['group', ...KINDS], rows);
}

/** Each test that does not pass on some store, with what the suite says of it and the reason that the expectation gives. */
export function notPassed(suite, scores, reasons) {
  const lines = [];
  for (const group of suite.groups) {
    for (const { id, kind } of group.tests) {
      const failing = scores.filter(({ results }) => !passes(results.get(id)));
      if (failing.length === 0) continue;
      const { results, raw } = failing[0];
      const where = failing.length === scores.length ? '' : ` on ${failing.map(({ store }) => store).join(', ')}`;
      const said = results.get(id) === 'dependency' ? '' : `: ${[raw[id]].flat().join(': ')}`;
      const reason = reasons?.get(id);
      lines.push(`${group.id} ${kind} ${id}: ${results.get(id)}${where}${said}${reason ? ` # ${reason.reason}` : ''}`);
    }
  }
  return lines.join('\n');
}
