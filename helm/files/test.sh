# What `helm test` does: the service is ready, its cache works (or is off), and Redis refuses clients without a password.
fail() { echo "FAILED: $*"; exit 1; }

# The connection stays open until the answer is there: half a connection is a client that has gone.
request() {
    { printf '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "$2" "$SERVICE"; sleep 2; } |
        nc -w 5 "$SERVICE" "$PORT"
}
x_cache() { request GET /api/products/100 | tr -d '\r' | sed -n 's/^[Xx]-[Cc]ache: //p'; }

request GET /health/ready | grep -q '"ready"' || fail "the service is not ready"
echo "ok: the service is ready"

if [ "$SHARED" = true ]; then
    health=$(request GET /health | tail -n 1)
    case $health in
        *'"redis":{"connected":true'*) echo "ok: the service is connected to Redis" ;;
        *) fail "the service is not connected to Redis: $health" ;;
    esac
fi
# The chart's own: yours is yours to lock.
if [ -n "${REDIS:-}" ]; then
    answer=$({ printf 'GET x\r\n'; sleep 1; } | nc -w 3 "$REDIS" 6379 || true)
    case $answer in
        *NOAUTH* | '') echo "ok: Redis refuses clients without a password" ;;
        *) fail "Redis answered without a password: $answer" ;;
    esac
fi

if [ "$CACHED" = false ]; then
    [ -z "$(x_cache)" ] || fail "the cache is off, but a response comes with X-Cache"
    echo "ok: the cache is off"
    exit 0
fi

# Another client may request the same product at the same time: then the next round decides.
for round in 1 2 3 4 5; do
    request DELETE /api/products/100/cache | head -n 1 | grep -q ' 20[0-9]' || fail "the cache can't be told to forget"
    first=$(x_cache)
    second=$(x_cache)
    request DELETE /api/products/100/cache >/dev/null
    third=$(x_cache)
    echo "round $round: $first, $second; forgotten: $third"
    if [ "$first $second $third" = "MISS HIT MISS" ]; then
        echo "ok: a miss, a hit, and after an invalidation a miss"
        exit 0
    fi
done
fail "no round went MISS, HIT, MISS"
