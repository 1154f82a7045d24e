// Measures, compares, reports. Ends with 0 if all is as expected, 1 if something changed, 2 if it could not be measured.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

import { changes, readExpectation, writeExpectation } from './expectation.mjs';
import { measure } from './measure.mjs';
import { parseOptions } from './options.mjs';
import { stopAll } from './processes.mjs';
import { byGroup, byKind, notPassed } from './report.mjs';
import { settle } from './settle.mjs';
import { explanations } from './explained.mjs';
import { openStack } from './stack.mjs';
import { openSuite } from './suite.mjs';

const EXPECTED = fileURLToPath(new URL('../expected', import.meta.url));

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => stopAll().finally(() => process.exit(130)));
}

try {
  process.exitCode = await main(parseOptions(process.argv.slice(2)));
} catch (error) {
  console.error(`conformance: ${error.message}`);
  process.exitCode = 2;
} finally {
  await stopAll();
}

async function main(options) {
  const open = (which) => openSuite(options.suite, which);
  const [suite, own, browser] = [await open(), await open({ own: true }), await open({ browser: true })];
  const folders = { logs: join(options.target, 'logs'), results: join(options.target, 'results') };
  for (const folder of Object.values(folders)) mkdirSync(folder, { recursive: true });
  const has = (suite, id) => suite.tests.some((test) => test.id === id);
  const unknown = options.test.filter((id) => ![suite, own, browser].some((suite) => has(suite, id)));
  if (unknown.length > 0) throw new Error(`the suite has no test ${unknown.join(', ')}`);

  const runs = options.profile.map((profile) => ({
    suite: { own, private: browser }[profile] ?? suite,
    proxy: profile === 'private' ? options['client-proxy'] : options.proxy,
    profile,
    options,
    folders,
  }));
  if (options.test.length > 0) {
    for (const run of runs) await show(run);
    return 0;
  }
  // Whatever is missing is better known before the first measurement than after it.
  for (const run of runs) Object.assign(run, expectationOf(run));
  let bad = false;
  for (const run of runs) bad = (await compare(run)) || bad;
  return bad ? 1 : 0;
}

/** One test after another with every field on both sides; says nothing about what is expected. */
async function show({ suite, proxy, profile, options, folders }) {
  for (const store of options.store) {
    const stack = await openStack({ suite, proxy, profile, store, explain: options.explain, logs: folders.logs });
    for (const id of options.test.filter((id) => suite.tests.some((test) => test.id === id))) {
      console.log(`\n=== ${id}, ${profile}, ${store}`);
      const raw = await measure(suite, stack, { ids: [id], show: true });
      console.log(raw[id] === true ? 'passed' : raw[id].join(': '));
    }
    await stack.close();
  }
}

function expectationOf({ suite, profile, options }) {
  const file = join(EXPECTED, suite.name, `${profile}.txt`);
  const expectation = readExpectation(file);
  if (!expectation && !options.write) {
    throw new Error(`there is no ${relative(process.cwd(), file)}: run it with --write, and read what it wrote`);
  }
  return { file, expectation };
}

async function compare({ suite, proxy, profile, options, folders, file, expectation }) {
  const started = Date.now();
  console.log(`\n### ${profile}: ${suite.own ? '' : 'http-cache-tests '}${suite.title}\n`);

  const { explain } = options;
  const opened = options.store.map((store) => openStack({ suite, proxy, profile, store, explain, logs: folders.logs }));
  const stacks = await Promise.all(opened);
  const run = (stack, ids) => {
    const log = join(folders.logs, `${suite.name}-${profile}-${stack.store}-client.log`);
    return measure(suite, stack, { ids, log });
  };
  await Promise.all(stacks.map(async (stack) => Object.assign(stack, { raw: await run(stack, null) })));
  const settled = await settle(stacks, {
    expected: expectation?.results,
    score: suite.score,
    again: (stack, id) => run(stack, [id]),
  });
  await Promise.all(stacks.map((stack) => stack.close()));

  const scores = stacks.map(({ store, raw }) => ({ store, raw, results: suite.score(raw) }));
  for (const { store, raw } of scores) {
    writeFileSync(join(folders.results, `${suite.name}-${profile}-${store}.json`), `${JSON.stringify(raw, null, 2)}\n`);
  }
  console.log(`${byKind(suite, [...scores, ...(await suite.published())])}\n\n${byGroup(suite, scores)}\n`);
  if (options.list) console.log(`Not passed:\n${notPassed(suite, scores, expectation?.reasons)}\n`);
  for (const { store, id, first, tries } of settled) {
    console.log(`${id} on ${store} was ${first} at first, but not when run again by itself (${tries} more)`);
  }
  console.log(`${Math.round((Date.now() - started) / 1000)} s\n`);
  const explained = !explain || stacks.map(({ store, said }) => explanations(store, said)).every(Boolean);
  return verdict({ suite, profile, options, file, expectation, scores }) || !explained;
}

/** Says what changed and what is unequal; true if there is any. */
function verdict({ suite, profile, options, file, expectation, scores }) {
  const [first, ...others] = scores;
  const unequal = others.flatMap(({ store, results }) => {
    return changes(first.results, results).map((change) => ({ ...change, store }));
  });
  for (const { id, store, was, is } of unequal) {
    console.log(`UNEQUAL ${id}: ${was} on ${first.store}, ${is} on ${store}`);
  }
  const differing = scores.flatMap(({ store, raw, results }) => {
    return changes(expectation?.results ?? new Map(), results).map((change) => ({ ...change, store, said: raw[change.id] }));
  });
  if (expectation) {
    for (const { id, store, was, is, said } of differing) {
      console.log(`CHANGED ${id} on ${store}: ${was} -> ${is}${Array.isArray(said) ? ` (${said.join(': ')})` : ''}`);
    }
  }
  if (options.write && unequal.length === 0) {
    writeExpectation(file, { suite, profile, results: first.results, reasons: expectation?.reasons });
    console.log(`${profile}: written to ${relative(process.cwd(), file)}`);
    return false;
  }
  const bad = unequal.length > 0 || differing.length > 0;
  const stores = scores.map(({ store }) => store).join(', ');
  if (unequal.length > 0) console.log(`${profile}: the stores differ${options.write ? '; nothing was written' : ''}`);
  console.log(`${profile} on ${stores}: ${bad ? 'NOT AS EXPECTED' : 'as expected'}`);
  return bad;
}
