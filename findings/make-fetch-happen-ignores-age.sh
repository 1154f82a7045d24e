#!/usr/bin/env bash
# make-fetch-happen, npm's HTTP client, takes every response for new: it counts neither `Age` nor `Date`.
#
# make-fetch-happen 16.0.1 (the newest), on Node 24. Run it with Node's npm: findings/make-fetch-happen-ignores-age.sh
#
# A response comes from another cache with `Cache-Control: max-age=60`, `Age: 58` and a `Date` of 58 seconds ago. Expected
# (RFC 9111, section 4.2): it is fresh for 2 seconds more, and the request after 4 seconds goes to the server. Seen: it is
# answered from the cache, without a question.
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . make-fetch-happen@16.0.1 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";
import fetch from "make-fetch-happen";

let asked = 0;
const server = createServer((_, answer) => {
  asked += 1;
  const date = new Date(Date.now() - 58_000).toUTCString();
  answer.writeHead(200, { "cache-control": "max-age=60", age: "58", date, "content-type": "text/plain" });
  answer.end("one");
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const get = async () => {
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/`, { cachePath: "./cache" });
  await answer.text();
  return answer.headers.get("x-local-cache-status");
};
const first = await get();
await setTimeout(4000);
const second = await get();
console.log(`first: ${first}; after 4 s: ${second}; the server was asked ${asked} time(s)`);
server.close();
process.exit(second === "hit" && asked === 1 ? 0 : 1);
JS
node_modules/.bin/node try.mjs
