#!/bin/bash
# One expects: an append-only file that Redis itself wrote is read back whole, whoever was allowed to do what.
# Happens: with `user default reset` in the ACL file (a common way to close that user) each transaction in the AOF is dropped at the
# start, MULTI and Lua scripts with two writes alike; single writes come back. The server starts all the same, its log has one
# CRITICAL line each, clients see nothing. Replay runs as the default user, whose rights EXEC checks again.
# `user default off ~* &* +@all` is as closed to clients, and replays.
# Seen: Redis 7.0.15 (Debian 12) here, Redis 8 of Debian 13 elsewhere.
# Why it matters: a queue that moves entries in MULTI loses them at the first restart; here these were donations.
# Source: github.com/redis/redis issue 14541, mended by pull request 14545 of November 2025; valkey-io/valkey issue 3983.

set -eu
T=$(mktemp -d)
pids=
clean_up() { for p in $pids; do kill "$p" 2>/dev/null || :; done; wait; rm -rf "$T"; }
trap clean_up EXIT
trap 'exit 3' INT TERM
unset LD_LIBRARY_PATH

apt() { timeout 60 apt-get -qq -o APT::Sandbox::User=root -o Dir::Cache="$T/cache" "$@"; }
debs() {   # NAME=VERSION ...: unpacked into $T/x; if the machine's package lists do not help, with fresh ones of our own
    mkdir -p "$T/debs" "$T/cache/archives/partial" "$T/lists/partial"
    cd "$T/debs"
    if ! apt download "$@" >../apt.log 2>&1 &&
        ! { apt -o Dir::State::Lists="$T/lists" update && apt -o Dir::State::Lists="$T/lists" download "$@"; } >../apt.log 2>&1
    then cat ../apt.log; echo "a pinned version is not served any more: $*"; exit 1; fi
    for f in *.deb; do dpkg-deb -x "$f" "$T/x"; done
    cd "$T"
}
verdict() { if [ "$1" = "$2" ]; then echo "as described"; else echo "CHANGED: expected [$2], got [$1]"; exit 2; fi; }

debs redis-server=5:7.0.15-1~deb12u7 redis-tools=5:7.0.15-1~deb12u7 liblzf1=3.6-3 libjemalloc2=5.3.0-1 libatomic1=12.2.0-14+deb12u1
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
server=$T/x/usr/bin/redis-server cli="timeout 10 $T/x/usr/bin/redis-cli -s $T/s --user app --pass secret --no-auth-warning"

start() {
    timeout 60 "$server" "$T/conf" & pids=$!
    for _ in $(seq 50); do [ -S "$T/s" ] && return; sleep 0.1; done
    echo "Redis does not start"; exit 2
}
stop() { $cli shutdown; wait "$pids" || :; pids=; }
after_restart() {   # the ACL line of the default user -> the keys that came back
    rm -rf "$T/data"; mkdir "$T/data"
    printf '%s\n' "$1" 'user app on >secret ~* &* +@all' >"$T/acl"
    printf '%s\n' "port 0" "unixsocket $T/s" "dir $T/data" "aclfile $T/acl" 'appendonly yes' 'appendfsync always' 'save ""' "logfile $T/log" >"$T/conf"
    start
    {
        $cli set plain 1
        printf 'multi\nset multi1 1\nset multi2 1\nexec\n' | $cli
        $cli eval 'redis.call("set", "lua1", 1) return redis.call("set", "lua2", 1)' 0
    } >/dev/null
    stop; : >"$T/log"; start
    $cli keys '*' | sort | tr '\n' ' '
    stop
}

echo "version:  $("$server" --version | cut -d' ' -f3)"
echo "expected: lua1 lua2 multi1 multi2 plain"
open=$(after_restart 'user default off ~* &* +@all'); echo "seen:     $open (default off, with rights)"
reset=$(after_restart 'user default reset'); echo "seen:     $reset (default reset)"
grep -m1 CRITICAL "$T/log" | cut -c1-150 || :
verdict "$open/$reset" "lua1 lua2 multi1 multi2 plain /plain "
