#!/bin/sh
# Whether Redis may go on: it answers anything, be it that it loads its data, and it has started with the password and the
# certificate that are in the files now. It reads them only when it starts, and its clients have the new ones already.
set -eu
sha256sum -c /run/redis/secrets.sha256 >/dev/null 2>&1 || {
    echo "the password or the certificate is another one than at the start"
    exit 1
}
cli=$(command -v valkey-cli || command -v redis-cli)
if [ "${REDIS_TLS:-}" = true ]; then
    set -- --tls --insecure
fi
[ -n "$("$cli" "$@" ping)" ]
