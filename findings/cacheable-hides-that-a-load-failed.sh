#!/usr/bin/env bash
# cacheable's `getOrSet` gives `undefined` when the function that loads the value fails, and throws nothing.
#
# cacheable 2.5.0 (the newest), and cache-manager 7.2.9 of the same family, on Node 24. Run it with Node's npm:
# findings/cacheable-hides-that-a-load-failed.sh
#
# A value is not in the cache, and the function that is to load it throws: the database is away. Expected: whoever asked gets
# the error, as without the cache, as with cache-manager's `wrap`, and as with a function that is called for nothing but the
# value. Seen: `undefined`, as if there were no such value, and an `error` event. With `throwErrors: true` it throws; its README
# names this option, and not that it is off.
#
# Output: cacheable undefined; throwErrors error; cache-manager error; events 1
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . cacheable@2.5.0 cache-manager@7.2.9 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { createCache } from "cache-manager";
import { Cacheable } from "cacheable";

const fails = async () => {
  throw new Error("the database is away");
};
const seen = async (get) => {
  try {
    return String(await get());
  } catch (error) {
    return error.message === "the database is away" ? "error" : `another error, ${error.message}`;
  }
};
const cache = new Cacheable();
let events = 0;
cache.on("error", () => (events += 1));
const hidden = await seen(() => cache.getOrSet("one", fails));
const said = events;
const thrown = await seen(() => cache.getOrSet("two", fails, { throwErrors: true }));
const wrapped = await seen(() => createCache().wrap("three", fails));
const line = `cacheable ${hidden}; throwErrors ${thrown}; cache-manager ${wrapped}; events ${said}`;
console.log(line);
process.exit(line === "cacheable undefined; throwErrors error; cache-manager error; events 1" ? 0 : 1);
JS
node_modules/.bin/node try.mjs
