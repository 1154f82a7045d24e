#!/usr/bin/env bash
# undici's cache interceptor does not use a response again that a 304 has just confirmed.
#
# undici 8.13.1 (the newest), on Node 24. Run it with Node's npm: findings/undici-forgets-what-a-304-confirmed.sh
#
# A response with an ETag and a second of freshness becomes stale, is validated, and the origin says 304, with the same
# second again. Expected (RFC 9111, section 4.3.4): the stored response is freshened by the 304, so that a request right
# after it is a hit. Seen: the request after the 304 goes to the origin, without a precondition, and has the whole response
# sent again; the answer to the validated request still says `warning: 110` ("response is stale").
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . undici@8.13.1 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";
import { Agent, cacheStores, interceptors, request } from "undici";

const asked = [];
const server = createServer((incoming, answer) => {
  const conditional = incoming.headers["if-none-match"] === '"v1"';
  asked.push(conditional ? "conditional" : "full");
  answer.writeHead(conditional ? 304 : 200, { etag: '"v1"', "cache-control": "max-age=1", date: new Date().toUTCString() });
  answer.end(conditional ? undefined : "one");
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const dispatcher = new Agent().compose(interceptors.cache({ store: new cacheStores.MemoryCacheStore() }));
const get = async () => {
  const { headers, body } = await request(`http://127.0.0.1:${server.address().port}/`, { dispatcher });
  await body.text();
  return headers;
};
// Dates have whole seconds: begin with one, so that all of it is left.
await setTimeout(1000 - (Date.now() % 1000));
await get();
await setTimeout(1500);
const validated = await get();
await get();
console.log(`asked: ${asked.join(", ")}; warning of the validated response: ${validated.warning}`);
server.close();
await dispatcher.close();
process.exit(asked.join() === "full,conditional,full" && String(validated.warning).startsWith("110") ? 0 : 1);
JS
node_modules/.bin/node try.mjs
