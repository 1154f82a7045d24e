#!/usr/bin/env bash
# got's cache goes on serving a page that the same client has deleted, written or posted to.
#
# got 16.1.0 (the newest) with cacheable-request 13.0.19, on Node 24. Run it with Node's npm: findings/got-serves-what-it-deleted.sh
#
# A client with a `cache` gets a page that is fresh for a minute. It then sends a DELETE (a PUT, a POST, a PATCH) of the same URL,
# with the same cache, and the server says 200. Expected (RFC 9111, section 4.4): the GET behind it goes to the server. Seen:
# it is answered from the cache, so that the client does not see what it has just written itself.
#
# Output: after DELETE from the cache; after PUT from the cache; after POST from the cache; after PATCH from the cache
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . got@16.1.0 cacheable-request@13.0.19 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { once } from "node:events";
import { createServer } from "node:http";
import got from "got";

const asked = [];
const server = createServer((incoming, answer) => {
  asked.push(`${incoming.method} ${incoming.url}`);
  answer.writeHead(200, { "cache-control": "max-age=60", date: new Date().toUTCString() });
  incoming.resume().on("end", () => answer.end("one"));
}).listen(0, "127.0.0.1");
await once(server, "listening");

const client = got.extend({ cache: new Map() });
const seen = [];
for (const method of ["DELETE", "PUT", "POST", "PATCH"]) {
  const url = `http://127.0.0.1:${server.address().port}/${method}`;
  const first = await client(url);
  const again = await client(url);
  const written = await client(url, { method });
  const after = await client(url);
  if (first.isFromCache || !again.isFromCache || written.isFromCache) throw new Error("it does not cache at all");
  const hit = after.isFromCache && asked.join().endsWith(`GET /${method},${method} /${method}`);
  seen.push(`after ${method} ${hit ? "from the cache" : "from the server"}`);
}
console.log(seen.join("; "));
process.exit(seen.every((said) => said.endsWith("from the cache")) ? 0 : 1);
JS
node_modules/.bin/node try.mjs
