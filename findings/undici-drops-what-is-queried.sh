#!/usr/bin/env bash
# undici's cache takes a QUERY for a write, and drops what it has of the page.
#
# undici 8.13.1 (the newest), on Node 24. Run it with Node's npm: findings/undici-drops-what-is-queried.sh
#
# QUERY (RFC 10008) is a safe method with a body: a search that changes nothing. A page is in the cache, fresh for a minute; the
# client sends a QUERY of the same URL, and the server says 200. Expected (RFC 9111, section 4.4: only unsafe methods
# invalidate): the page is still a hit, as after HEAD and OPTIONS. Seen: the GET behind the QUERY goes to the server, as after a
# POST. A resource that is both read and searched is so never cached for long.
#
# Output: after HEAD a hit; after OPTIONS a hit; after QUERY requested again; after POST requested again
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . undici@8.13.1 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { once } from "node:events";
import { createServer } from "node:http";
import { Agent, cacheStores, interceptors, request } from "undici";

const asked = [];
const server = createServer((incoming, answer) => {
  asked.push(`${incoming.method} ${incoming.url}`);
  answer.writeHead(200, { "cache-control": incoming.method === "GET" ? "max-age=60" : "no-store" });
  incoming.resume().on("end", () => answer.end(incoming.method === "HEAD" ? undefined : "one"));
}).listen(0, "127.0.0.1");
await once(server, "listening");
const dispatcher = new Agent().compose(interceptors.cache({ store: new cacheStores.MemoryCacheStore() }));

const seen = [];
for (const method of ["HEAD", "OPTIONS", "QUERY", "POST"]) {
  const url = `http://127.0.0.1:${server.address().port}/${method}`;
  const send = async (options) => (await request(url, { dispatcher, ...options })).body.text();
  await send();
  await send();
  if (asked.filter((one) => one === `GET /${method}`).length !== 1) throw new Error("it does not cache at all");
  await send({ method, body: ["QUERY", "POST"].includes(method) ? "what" : undefined });
  await send();
  const times = asked.filter((one) => one === `GET /${method}`).length;
  seen.push(`after ${method} ${times === 1 ? "a hit" : "requested again"}`);
}
server.close();
await dispatcher.close();
console.log(seen.join("; "));
const expected = "after HEAD a hit; after OPTIONS a hit; after QUERY requested again; after POST requested again";
process.exit(seen.join("; ") === expected ? 0 : 1);
JS
node_modules/.bin/node try.mjs
