#!/usr/bin/env bash
# PostgreSQL on loopback, from Debian's package (installed where it is missing). See ../services.sh for the verbs.
#
# .services/postgres.url: postgresql://headrace:PASSWORD@127.0.0.1:PORT/headrace; that user may make databases. The server
# refuses to run as root, so root runs it as the user that Debian made for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$PWD/.services/postgres
data=$home/data
password=headrace-secret

bin() {
    find /usr/lib/postgresql -maxdepth 3 -path '*/bin/initdb' 2>/dev/null | sort -V | tail -1 | xargs -r dirname
}

as_owner() { # run a command as whoever owns the data
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

port() {
    [ -f .services/postgres.url ] && sed -E 's/.*:([0-9]+)\/.*/\1/' .services/postgres.url
}

running() {
    local found
    found=$(port) && [ -n "$(bin)" ] && "$(bin)/pg_isready" -q -h 127.0.0.1 -p "$found"
}

install_server() {
    [ -n "$(bin)" ] && return
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq -o DPkg::Lock::Timeout=120
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 \
        postgresql >/dev/null
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
    running && return
    install_server
    mkdir -p "$home"
    local place=$home
    if [ "$(id -u)" -eq 0 ]; then
        # The checkout may lie where only root may look.
        if ! as_owner test -x "$home"; then
            place=/var/lib/postgresql/headrace-$(pwd | cksum | cut -d' ' -f1)
            mkdir -p "$place"
        fi
        chown postgres: "$place"
    fi
    data=$place/data
    if [ ! -f "$data/PG_VERSION" ]; then
        echo "$password" >"$place/password"
        chmod 644 "$place/password"
        as_owner "$(bin)/initdb" -D "$data" -U headrace --pwfile="$place/password" --auth=scram-sha-256 \
            --encoding=UTF8 --locale=C.UTF-8
    fi
    rm -f "$home/place" && echo "$place" >"$home/place"
    local at
    at=$(free_port)
    as_owner "$(bin)/pg_ctl" -D "$data" -l "$place/server.log" -w -t 60 \
        -o "-c listen_addresses=127.0.0.1 -p $at -c unix_socket_directories= -c fsync=off -c max_connections=200" start \
        >/dev/null
    if [ "$(PGPASSWORD=$password "$(bin)/psql" -h 127.0.0.1 -p "$at" -U headrace -d postgres -Atc \
        "SELECT count(*) FROM pg_database WHERE datname = 'headrace'")" = 0 ]; then
        PGPASSWORD=$password "$(bin)/createdb" -h 127.0.0.1 -p "$at" -U headrace headrace
    fi
    echo "postgresql://headrace:$password@127.0.0.1:$at/headrace" >.services/postgres.url
}

stop() {
    [ -f "$home/place" ] || return 0
    as_owner "$(bin)/pg_ctl" -D "$(cat "$home/place")/data" -m fast stop >/dev/null 2>&1 || true
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) running ;;
    *) echo "usage: $0 start|stop|status" >&2 && exit 2 ;;
esac
