#!/bin/sh
# Whether Redis answers. While it loads its data it doesn't, which is no reason to restart it.
set -eu
password=$(cat "$REDIS_PASSWORD_FILE")
# In the environment and not among the arguments, which everybody on the machine can read.
export REDISCLI_AUTH="$password" VALKEYCLI_AUTH="$password"
set -- --user service --no-auth-warning
if [ "${REDIS_TLS:-}" = true ]; then
    set -- "$@" --tls --cacert /run/secrets/redis-tls/ca.crt
fi
cli=$(command -v valkey-cli || command -v redis-cli)
[ "$("$cli" "$@" ping)" = PONG ]
