// The suite as it lies on disk: the release on npm, or a checkout of its repository, which has moved things since.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const KINDS = ['required', 'optimal', 'check'];

const load = (file) => import(pathToFileURL(file).href);

/** The names for what the suite draws as a symbol. A failure of an optional test is a failure here: its kind stands beside it. */
const RESULTS = new Map([
  ['✅', 'pass'],
  ['⛔️', 'fail'],
  ['⚠️', 'fail'],
  ['Y', 'yes'],
  ['N', 'no'],
  ['🔹', 'setup'],
  ['⁉️', 'harness'],
  ['⚪️', 'dependency'],
  ['↻', 'retry'],
  ['-', 'untested'],
]);

export const passes = (result) => result === 'pass' || result === 'yes';

function layout(folder) {
  const engine = join(folder, 'test-engine');
  if (existsSync(engine)) {
    return { engine, scoring: join(engine, 'lib/results.mjs'), more: [], ownFetch: true };
  }
  return {
    engine: folder,
    scoring: join(folder, 'lib/display.mjs'),
    // Left to its command line to add.
    more: [join(folder, 'tests/surrogate-control.mjs')],
    ownFetch: false,
  };
}

/** Tests of our own, in its format. */
const OWN = fileURLToPath(new URL('../tests/index.mjs', import.meta.url));

/** Of whom a test is: by the suite's own rule, which its release on npm leaves half of to its web page. */
export const isFor = (test, browser) =>
  browser ? test.browser_skip !== true && test.cdn_only !== true : test.browser_only !== true;

/**
 * What the suite tests a cache between client and origin with, or else a `browser`'s; `all` has the tests for either. With `own`, its
 * server and its client, and the tests of this folder instead.
 */
export async function openSuite(folder, { own = false, browser = false } = {}) {
  const { engine, scoring, more, ownFetch } = layout(folder);
  const index = join(folder, 'tests/index.mjs');
  if (!existsSync(index)) throw new Error(`${folder} has no tests/index.mjs: it is no copy of the suite`);
  const all = [];
  for (const file of own ? [OWN] : [index, ...more]) all.push(...[(await load(file)).default].flat());
  const groups = all
    .map(({ id, name, tests }) => ({ id, name, tests: tests.filter((test) => isFor(test, browser)).map(describe) }))
    .filter((group) => group.tests.length > 0);
  const tests = groups.flatMap((group) => group.tests);
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const { determineTestResult } = await load(scoring);

  return {
    folder,
    own,
    browser,
    // Release and checkout call themselves by the same version.
    name: own ? 'own' : `${version}-${countOf(all)}`,
    title: own ? `${tests.length} tests of our own` : `${version}, ${tests.length} tests${browser ? ' for browsers' : ''}`,
    all,
    groups,
    tests,
    server: join(engine, 'server/server.mjs'),
    runner: join(engine, 'client/runner.mjs'),
    ownFetch,
    /** What the suite publishes of browsers, in the form of `scores`: by its own client, in them. */
    async published() {
      const known = join(folder, 'results/index.mjs');
      if (!browser || !existsSync(known)) return [];
      const browsers = (await load(known)).default.filter(({ type }) => type === 'browser');
      return browsers.map(({ name, version, file }) => {
        const raw = JSON.parse(readFileSync(join(folder, 'results', file), 'utf8'));
        return { store: `${name} ${version}`, results: this.score(raw) };
      });
    },
    /** By the suite's own rules: a test counts only if all that it depends on pass. */
    score(raw) {
      return new Map(tests.map(({ id }) => [id, name(determineTestResult(all, id, raw))]));
    },
  };
}

/** Of those for a cache between client and origin: what a version of the suite is known by. */
const countOf = (groups) => groups.flatMap(({ tests }) => tests).filter((test) => isFor(test, false)).length;

function describe({ id, kind = 'required' }) {
  if (!KINDS.includes(kind)) throw new Error(`${id} is of the unknown kind ${kind}`);
  return { id, kind };
}

function name([, , symbol]) {
  const result = RESULTS.get(symbol);
  if (result === undefined) throw new Error(`the suite has a result unknown here: ${symbol}`);
  return result;
}
