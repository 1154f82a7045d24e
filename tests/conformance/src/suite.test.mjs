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
  { id: 'cdn', cdn_only: true },
  { id: 'proxy', browser_skip: true },
];
/** Draws a result as the suite does. */
const SCORING = `
export function determineTestResult (suites, id, raw) {
  const test = suites.flatMap(suite => suite.tests).find(test => test.id === id)
  if ((test.depends_on ?? []).some(gate => raw[gate] !== true)) return ['', '', '⚪️']
  return ['', '', raw[id] === true ? '✅' : raw[id][0] === 'Setup' ? '🔹' : '⛔️']
}`;

async function withSuite(files, use, which) {
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
    await use(await openSuite(folder, which), folder);
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
  await withSuite(RELEASE, (suite) => assert.deepEqual(suite.tests.map(({ id }) => id), ['plain', 'extra', 'cdn', 'proxy', 'late']));
  await withSuite(CHECKOUT, (suite) => assert.equal(suite.name, '1.0-4'));
});

test('results are the suite\'s own, those of failed dependencies among them', async () => {
  await withSuite(CHECKOUT, ({ score }) => {
    const first = (raw) => [...score({ cdn: true, proxy: true, ...raw })].slice(0, 2);
    assert.deepEqual(first({ plain: true, extra: true }), [['plain', 'pass'], ['extra', 'pass']]);
    assert.deepEqual(first({ plain: ['Assertion', ''], extra: true }), [['plain', 'fail'], ['extra', 'dependency']]);
    assert.deepEqual(first({ plain: ['Setup', ''], extra: true }), [['plain', 'setup'], ['extra', 'dependency']]);
  });
});

test('a browser has tests of its own, and its results are published', async () => {
  const files = {
    ...CHECKOUT,
    'results/index.mjs': "export default [{ file: 'b.json', name: 'B', type: 'browser', version: '1' }, { file: 'c.json', type: 'cdn' }]",
    'results/b.json': '{ "plain": true, "extra": ["Assertion", ""], "browser": true }',
  };
  await withSuite(
    files,
    async (suite) => {
      assert.deepEqual(suite.tests.map(({ id }) => id), ['plain', 'extra', 'browser']);
      assert.equal(suite.name, '1.0-4', 'the version is the same');
      const [{ store, results }, ...others] = await suite.published();
      assert.deepEqual([store, [...results], others], ['B 1', [['plain', 'pass'], ['extra', 'fail'], ['browser', 'pass']], []]);
    },
    { browser: true },
  );
});
