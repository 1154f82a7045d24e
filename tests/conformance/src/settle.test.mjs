import assert from 'node:assert/strict';
import { test } from 'node:test';

import { settle } from './settle.mjs';

const score = (raw) => new Map(Object.entries(raw));

/** Runs `settle` over stacks with these results; each test that is run again has the next result of `later`. */
async function settled(results, expected, later) {
  const stacks = Object.entries(results).map(([store, raw]) => ({ store, raw }));
  const ran = [];
  const again = async (stack, id) => {
    ran.push(`${id} on ${stack.store}`);
    return { [id]: later.shift() };
  };
  const wentAway = await settle(stacks, { expected: expected && new Map(Object.entries(expected)), score, again });
  return { raw: Object.fromEntries(stacks.map(({ store, raw }) => [store, raw])), ran, wentAway };
}

test('a surprise that does not come again is no change', async () => {
  const { raw, wentAway } = await settled({ memory: { a: 'fail' } }, { a: 'pass' }, ['fail', 'pass']);
  assert.deepEqual(raw.memory, { a: 'pass' });
  assert.deepEqual(wentAway, [{ store: 'memory', id: 'a', first: 'fail', tries: 2 }]);
});

test('a surprise that stays is one after three more tries, for better as for worse', async () => {
  const { raw, ran, wentAway } = await settled({ memory: { a: 'pass' } }, { a: 'fail' }, ['pass', 'pass', 'pass', 'fail']);
  assert.deepEqual(raw.memory, { a: 'pass' });
  assert.equal(ran.length, 3);
  assert.deepEqual(wentAway, []);
});

test('what follows from another test is left to that', async () => {
  const { ran } = await settled({ memory: { gate: 'fail', a: 'dependency' } }, { gate: 'pass', a: 'pass' }, ['fail', 'fail', 'fail']);
  assert.deepEqual(ran, ['gate on memory', 'gate on memory', 'gate on memory']);
});

test('stores that differ are asked again where nothing is expected yet', async () => {
  const { raw } = await settled({ memory: { a: 'pass' }, redis: { a: 'fail' } }, null, ['pass', 'pass']);
  assert.deepEqual(raw, { memory: { a: 'pass' }, redis: { a: 'pass' } });
});

const many = (count, result) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`t${index}`, result]));

test('more surprises than chance explains are not run again', async () => {
  const { ran } = await settled({ memory: many(101, 'fail') }, many(101, 'pass'), []);
  assert.deepEqual(ran, []);
});

test('as many as one pause explains are run again, and a second time only if most of them went away', async () => {
  const went = await settled({ memory: many(100, 'fail') }, many(100, 'pass'), [...Array(75).fill('pass'), ...Array(25).fill('fail'), ...Array(25).fill('pass')]);
  assert.deepEqual(went.raw.memory, many(100, 'pass'));
  const { ran, wentAway } = await settled({ memory: many(100, 'fail') }, many(100, 'pass'), Array(100).fill('fail'));
  assert.deepEqual([ran.length, wentAway], [100, []]);
});
