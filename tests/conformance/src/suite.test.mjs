import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { openSuite } from './suite.mjs';

const TESTS = [
  { id: 'plain' },
  { id: 'extra', kind: 'optimal', depends_on: ['plain'] },
  { id: 'browser', browser_only: true },
];
/** Draws a result as the suite does. */
const SCORING = `
export function determineTestResult (suites, id, raw) {
  const test = suites.flatMap(suite => suite.tests).find(test => test.id === id)
  if ((test.depends_on ?? []).some(gate => raw[gate] !== true)) return ['', '', '⚪️']
  return ['', '', raw[id] === true ? '✅' : raw[id][0] === 'Setup' ? '🔹' : '⛔️']
}`;

async function withSuite(files, use) {
  const folder = mkdtempSync(join(tmpdir(), 'suite-'));
  try {
    const all = {
      'package.json': '{ "version": "1.0" }',
      'tests/index.mjs': `export default [{ id: 'g', name: 'G', tests: ${JSON.stringify(TESTS)} }]`,
      ...files,
    };
    for (const [file, text] of Object.entries(all)) {
      mkdirSync(join(folder, file, '..'), { recursive: true });
      writeFileSync(join(folder, file), text);
    }
    await use(await openSuite(folder), folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const RELEASE = {
  'lib/display.mjs': SCORING,
  'tests/surrogate-control.mjs': "export default { id: 's', name: 'S', tests: [{ id: 'late', kind: 'check' }] }",
};
const CHECKOUT = { 'test-engine/lib/results.mjs': SCORING };

test('the release has its tests of surrogates, a checkout none', async () => {
  await withSuite(RELEASE, (suite) => assert.deepEqual(suite.tests.map(({ id }) => id), ['plain', 'extra', 'late']));
  await withSuite(CHECKOUT, (suite) => assert.equal(suite.name, '1.0-2'));
});

test('results are the suite\'s own, those of failed dependencies among them', async () => {
  await withSuite(CHECKOUT, ({ score }) => {
    assert.deepEqual([...score({ plain: true, extra: true })], [['plain', 'pass'], ['extra', 'pass']]);
    assert.deepEqual([...score({ plain: ['Assertion', ''], extra: true })], [['plain', 'fail'], ['extra', 'dependency']]);
    assert.deepEqual([...score({ plain: ['Setup', ''], extra: true })], [['plain', 'setup'], ['extra', 'dependency']]);
  });
});
