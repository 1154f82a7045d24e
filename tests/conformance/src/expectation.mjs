// What is known to happen, test by test, in a form that a person reads and a diff shows well.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

import { passes } from './suite.mjs';

const LINE = /^(?<kind>\S+)\s+(?<result>\S+)\s+(?<id>\S+)(?:\s+# (?<reason>.*))?$/;

/** The expected results and the reasons given for them, by test id; null if nothing is known yet. */
export function readExpectation(file) {
  if (!existsSync(file)) return null;
  const results = new Map();
  const reasons = new Map();
  for (const [index, line] of readFileSync(file, 'utf8').split('\n').entries()) {
    if (line === '' || line.startsWith('#') || line.startsWith('[')) continue;
    const entry = LINE.exec(line)?.groups;
    if (!entry || results.has(entry.id)) throw new Error(`${file}:${index + 1}: malformed, or a second line for one test`);
    results.set(entry.id, entry.result);
    if (entry.reason) reasons.set(entry.id, { result: entry.result, reason: entry.reason });
  }
  return { results, reasons };
}

/** Keeps a reason as long as the result that it explains. */
export function writeExpectation(file, { suite, profile, results, reasons = new Map() }) {
  const lines = [
    `# ${suite.own ? '' : 'http-cache-tests '}${suite.title}, through the ${suite.browser ? "client's proxy" : `reverse proxy with --profile ${profile}`}.`,
    '# Kind, result and test; after a # why it does not pass. `tests/conformance/run --write` rewrites all but the reasons.',
  ];
  for (const group of suite.groups) {
    lines.push('', `[${group.id}]`);
    for (const { id, kind } of group.tests) {
      const result = results.get(id);
      const known = reasons.get(id);
      const reason = known?.result === result && !passes(result) ? `  # ${known.reason}` : '';
      lines.push(`${kind.padEnd(8)}  ${result.padEnd(10)}  ${id}${reason}`);
    }
  }
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${lines.join('\n')}\n`);
}

/** Every difference, in either direction: `{ id, was, is }`, with `absent` for a test that one side does not have. */
export function changes(expected, results) {
  const ids = new Set([...results.keys(), ...expected.keys()]);
  return [...ids]
    .map((id) => ({ id, was: expected.get(id) ?? 'absent', is: results.get(id) ?? 'absent' }))
    .filter(({ was, is }) => was !== is);
}
