#!/usr/bin/env bash
# ocache, which caches for Nitro 3, says the whole `max-age` of a response however old it is, and says no age.
#
# ocache 0.3.2 (the newest), on Node 24. Run it with Node's npm: findings/ocache-says-new-of-what-is-old.sh
#
# A handler is cached for 2 seconds with `swr: true`. Its response is requested at once, after a second and a half, and after 6
# seconds, when it is stale three times over. Expected: the last two say their age, or what is left of their lifetime (RFC 9111,
# sections 4.2.3 and 5.1; a stale one nothing that makes it fresh). Seen: all three say `max-age=2, s-maxage=2`, and none has an
# `Age` or a `Date`. A cache in front keeps the one that is 6 seconds old for 2 more, as it would if it were a day old:
# after a quiet night the first response of the morning is yesterday's, and fresh.
#
# Output: MISS one max-age=2, s-maxage=2, Age null; HIT one max-age=2, s-maxage=2, Age null; STALE one max-age=2, s-maxage=2, Age null
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . ocache@0.3.2 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { setTimeout } from "node:timers/promises";
import { defineCachedHandler } from "ocache";

let calls = 0;
const handler = defineCachedHandler(async () => new Response(["one", "two", "three"][calls++]), {
  name: "tried",
  maxAge: 2,
  swr: true,
});
const seen = [];
for (const wait of [0, 1500, 4500]) {
  await setTimeout(wait);
  const response = await handler({ req: new Request("http://127.0.0.1/") });
  const [status, lifetime, age, date] = ["x-cache", "cache-control", "age", "date"].map((name) => response.headers.get(name));
  seen.push(`${status} ${await response.text()} ${lifetime}, Age ${age}`);
  if (date !== null) seen.push(`Date ${date}`);
}
console.log(seen.join("; "));
const same = "one max-age=2, s-maxage=2, Age null";
process.exit(seen.join("; ") === `MISS ${same}; HIT ${same}; STALE ${same}` ? 0 : 1);
JS
node_modules/.bin/node try.mjs
