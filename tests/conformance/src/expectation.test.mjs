import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { changes, readExpectation, writeExpectation } from './expectation.mjs';

const suite = {
  title: '1.0, 2 tests',
  groups: [{ id: 'vary', tests: [{ id: 'vary-match', kind: 'required' }, { id: 'vary-space', kind: 'optimal' }] }],
};

function written(results, reasons) {
  const folder = mkdtempSync(join(tmpdir(), 'expectation-'));
  try {
    const file = join(folder, 'safe.txt');
    writeExpectation(file, { suite, profile: 'safe', results: new Map(Object.entries(results)), reasons });
    return readExpectation(file);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('what is written is read again', () => {
  const { results } = written({ 'vary-match': 'pass', 'vary-space': 'fail' });
  assert.deepEqual([...results], [['vary-match', 'pass'], ['vary-space', 'fail']]);
});

test('a reason stays as long as the result that it explains', () => {
  const reasons = new Map([['vary-space', { result: 'fail', reason: 'not safe inside quotes' }]]);
  assert.deepEqual(written({ 'vary-match': 'pass', 'vary-space': 'fail' }, reasons).reasons, reasons);
  assert.equal(written({ 'vary-match': 'pass', 'vary-space': 'setup' }, reasons).reasons.size, 0);
});

test('a test that passes now, one that is new and one that is gone are changes', () => {
  const was = new Map([['better', 'fail'], ['gone', 'pass'], ['same', 'setup']]);
  const is = new Map([['better', 'pass'], ['new', 'pass'], ['same', 'setup']]);
  assert.deepEqual(changes(was, is), [
    { id: 'better', was: 'fail', is: 'pass' },
    { id: 'new', was: 'absent', is: 'pass' },
    { id: 'gone', was: 'pass', is: 'absent' },
  ]);
});
