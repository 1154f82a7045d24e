import assert from 'node:assert/strict';
import { test } from 'node:test';

import { explanations } from './explained.mjs';

const judged = (...said) => explanations('memory', said, () => {});

test('answers that are as they were explained pass, and others do not', () => {
  assert.equal(judged('900 answers compared, 0 differ, 20 left alone'), true);
  assert.equal(judged('GET /a was explained as "x", and answered with "y"', '900 answers compared, 1 differ, 20 left alone'), false);
});

test('nothing compared, or too little of it, does not pass', () => {
  assert.equal(judged(), false);
  assert.equal(judged('0 answers compared, 0 differ, 0 left alone'), false);
  assert.equal(judged('89 answers compared, 0 differ, 11 left alone'), false);
});
