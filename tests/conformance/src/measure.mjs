// Runs tests in a process of their own: the suite keeps its results in its modules, and changes its tests as it runs them.
import { fork } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { isFor, openSuite } from './suite.mjs';

/** As many as the suite's own command line runs at a time. */
const AT_A_TIME = 25;
/** What the suite gives one request. Its release on npm waits for ever. */
const REQUEST_SECONDS = 10;
const RUN_SECONDS = 600;
/** Where the suite's server is told of a test, and says what it has seen of it. */
const AROUND_TESTS = /^\/(config|state)\//;

const SELF = fileURLToPath(import.meta.url);

/**
 * Resolves to the suite's raw results by test id; `show` prints every field of every message on the way. What a test is made of, and what
 * came to the origin of it, is said between the suite's client and its server, at `direct`: a cache would take it for writes.
 */
export function measure(suite, { base, direct, failed }, { ids = null, show = false, log }) {
  const out = show ? 'inherit' : openSync(log, ids === null ? 'w' : 'a');
  const child = fork(SELF, [], { stdio: ['ignore', out, out, 'ipc'], execArgv: ['--no-warnings'] });
  if (!show) closeSync(out);
  child.send({ folder: suite.folder, own: suite.own, browser: suite.browser, base, direct, ids, show });
  let deadline;
  const results = new Promise((resolve, reject) => {
    deadline = setTimeout(() => reject(new Error(`no results after ${RUN_SECONDS} s: see ${log}`)), RUN_SECONDS * 1000);
    child.once('message', resolve);
    child.once('exit', (code) => reject(new Error(`the suite ended with code ${code} and no results: see ${log}`)));
  });
  return Promise.race([results, failed]).finally(() => {
    clearTimeout(deadline);
    child.kill('SIGKILL');
  });
}

async function run({ folder, own, browser, base, direct, ids, show }) {
  const suite = await openSuite(folder, { own, browser });
  const chosen = suite.all
    .map((group) => ({ ...group, tests: group.tests.filter((test) => isFor(test, browser) && (ids?.includes(test.id) ?? true)) }))
    .filter((group) => group.tests.length > 0);
  if (show) for (const test of chosen.flatMap((group) => group.tests)) test.dump = true;
  const { runTests, getResults } = await import(pathToFileURL(suite.runner).href);
  const around = (url) => (AROUND_TESTS.test(new URL(url).pathname) ? url.replace(base, direct) : url);
  const fetch = [];
  if (suite.ownFetch) {
    const { fetch: whole } = globalThis;
    globalThis.fetch = (url, init) => whole(around(url), init);
  } else {
    const whole = timed(createRequire(join(folder, 'package.json'))('node-fetch'));
    fetch.push((url, init) => whole(around(url), init));
  }
  await runTests(chosen, ...fetch, browser, base, AT_A_TIME);
  return getResults();
}

function timed(fetch) {
  return (url, init) => fetch(url, { ...init, signal: AbortSignal.timeout(REQUEST_SECONDS * 1000) });
}

if (process.argv[1] === SELF) {
  process.on('disconnect', () => process.exit(1));
  process.once('message', (task) => run(task).then((results) => process.send(results)));
}
