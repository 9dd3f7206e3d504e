#!/usr/bin/env bash
# Redis for the tests: Debian's redis-server on loopback, with an append-only file, on a free port and a unix socket.
# The tests that kill servers start their own from the same program. See tools/services.sh for the verbs.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/.services/redis
url=$PWD/.services/redis.url

installed() {
    command -v redis-server >/dev/null && command -v redis-cli >/dev/null
}

install_redis() {
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo"
    if ! command -v apt-get >/dev/null || { [ -n "$sudo" ] && ! command -v sudo >/dev/null; }; then
        echo "no redis-server here and no way to install one (needs apt-get, as root or with sudo)" >&2
        return 1
    fi
    local options=(-y -qq --no-install-recommends -o DPkg::Lock::Timeout=120)
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get install "${options[@]}" redis-server redis-tools || {
        $sudo apt-get update -qq -o DPkg::Lock::Timeout=120
        $sudo apt-get install "${options[@]}" redis-server redis-tools
    }
}

answers() {
    [ -s "$url" ] && [ "$(redis-cli -u "$(cat "$url")" ping 2>/dev/null)" = PONG ]
}

free_port() {
    local port
    for port in $(seq 6390 6489); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    echo "no port from 6390 to 6489 is free" >&2
    return 1
}

case ${1:?usage: redis.sh start|stop|status} in
    start)
        installed || install_redis
        answers && exit 0
        mkdir -p "$folder"
        port=$(free_port)
        # A path of its own: one below this folder may be longer than a socket's may be.
        socket=$(mktemp -u "${TMPDIR:-/tmp}/headrace-redis-XXXXXX.sock")
        redis-server --bind 127.0.0.1 --port "$port" --unixsocket "$socket" --dir "$folder" --daemonize yes \
            --pidfile "$folder/redis.pid" --logfile "$folder/redis.log" --save "" --appendonly yes
        for _ in $(seq 100); do
            if redis-cli -p "$port" ping 2>/dev/null | grep -q PONG; then
                echo "redis://127.0.0.1:$port/0" >"$url"
                echo "unix://$socket" >"$folder/socket.url"
                exit 0
            fi
            sleep 0.1
        done
        tail -5 "$folder/redis.log" >&2
        exit 1
        ;;
    stop)
        if answers; then redis-cli -u "$(cat "$url")" shutdown nosave; fi
        ;;
    status)
        installed && answers
        ;;
esac
