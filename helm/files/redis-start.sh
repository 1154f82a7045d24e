#!/bin/sh
# Starts Redis or Valkey with one user for the service, which has the permissions that the cache needs and no others.
# The password is in the file REDIS_PASSWORD_FILE; only its hash leaves it.
set -eu
umask 077

# What redis-live.sh compares. First of all, so that a change from now on is noticed.
set -- "$REDIS_PASSWORD_FILE"
if [ "${REDIS_TLS:-}" = true ]; then
    set -- "$@" /run/secrets/redis-tls/tls.crt /run/secrets/redis-tls/tls.key /run/secrets/redis-tls/ca.crt
fi
sha256sum "$@" >/run/redis/secrets.sha256

hash=$(printf %s "$(cat "$REDIS_PASSWORD_FILE")" | sha256sum | cut -c 1-64)
{
    echo "user default off"
    echo "user service on #$hash resetchannels ~$CACHE_PREFIX:* -@all \
+get +mget +set +getrange +setrange +scan +del +unlink +pexpire +pttl \
+evalsha +xadd +xrevrange +script|load +time +client|tracking +client|caching +hello +ping +info +select \
+asking +cluster|slots +cluster|nodes +cluster|info"
    if [ "${REDIS_EXPORTER:-}" = true ]; then
        echo "user exporter on #$hash resetchannels -@all \
+ping +info +config|get +client|setname +latency|latest +latency|histogram +slowlog|get +slowlog|len"
    fi
} >/run/redis/users.acl

set -- /etc/redis/redis.conf --aclfile /run/redis/users.acl
if [ "${REDIS_PERSISTENCE:-}" = true ]; then
    # Anything less would come back without the last invalidations, and with the entries that they had covered.
    set -- "$@" --appendonly yes --appendfsync always
fi
if [ "${REDIS_TLS:-}" = true ]; then
    set -- "$@" --port 0 --tls-port 6379 --tls-auth-clients no \
        --tls-cert-file /run/secrets/redis-tls/tls.crt --tls-key-file /run/secrets/redis-tls/tls.key \
        --tls-ca-cert-file /run/secrets/redis-tls/ca.crt
fi

server=$(command -v valkey-server || command -v redis-server)
exec "$server" "$@"
