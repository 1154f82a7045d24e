#!/usr/bin/env bash
# apicache replaces a route's `Cache-Control: no-store` by a `max-age`, and so tells every cache in front to keep the response.
#
# apicache 1.6.3 (the newest) in express 5.3.0, on Node 24. Run it with Node's npm: findings/apicache-makes-no-store-a-max-age.sh
#
# An application uses apicache's middleware for all routes, with a minute. One route says `Cache-Control: no-store`, one
# `private`, and one fails with 500. Expected: what a route says of its own response stands, as when it is set after any
# other middleware; at least it is no more permissive than the route. Seen: all three leave the application with
# `max-age=60` instead, and are served to the next client from apicache's memory; a 500 becomes cacheable that was not.
#
# Output: no-store: 200 max-age=60, then from memory; private: 200 max-age=60, then from memory; failure: 500 max-age=60, then from memory
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix . apicache@1.6.3 express@5.3.0 node@24.15.0 >/dev/null

cat >try.mjs <<'JS'
import { once } from "node:events";
import apicache from "apicache";
import express from "express";

const app = express();
const calls = {};
const route = (name, answer) =>
  app.get(`/${name}`, (_, response) => {
    calls[name] = (calls[name] ?? 0) + 1;
    answer(response).send(name);
  });
app.use(apicache.middleware("1 minute"));
route("no-store", (response) => response.set("Cache-Control", "no-store"));
route("private", (response) => response.set("Cache-Control", "private, max-age=5"));
route("failure", (response) => response.status(500));
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");

const seen = [];
for (const name of ["no-store", "private", "failure"]) {
  const url = `http://127.0.0.1:${server.address().port}/${name}`;
  const first = await fetch(url);
  await first.text();
  await (await fetch(url)).text();
  const from = calls[name] === 1 ? "from memory" : "from the route";
  seen.push(`${name}: ${first.status} ${first.headers.get("cache-control")}, then ${from}`);
}
console.log(seen.join("; "));
const kept = seen.filter((said) => said.endsWith("max-age=60, then from memory"));
process.exit(kept.length === 3 ? 0 : 1);
JS
node_modules/.bin/node try.mjs
