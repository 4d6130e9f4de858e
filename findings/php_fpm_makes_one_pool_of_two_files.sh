#!/bin/bash
# One expects: of two pool files with the same `[name]` php-fpm refuses one, or runs two pools; a copied file with the name left in is
# found by `php-fpm -t` at the latest, as one with the same `listen` is.
# Happens: both make one pool, without a word. Of each setting the last file, by name, counts; what only one of them sets holds for both,
# environment and php_admin_value included. The other socket is not there.
# Seen: PHP 8.2.36 (Debian 12).
# Why it matters: Debian's www.conf comes after crm.conf or donate.conf. A pool whose header was copied with it loses its user, its socket and
# its limits to www, which gets the pool's timeouts and environment; the web server answers 503, and the check was green.
# Source: none in PHP's manual (FPM, Configuration); images of PHP for containers build on it (zz-docker.conf adds to www.conf).

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

debs php8.2-fpm=8.2.36-1~deb12u1 libapparmor1=3.0.8-3 libargon2-1=0~20171227-0.3+deb12u1 \
    libsodium23=1.0.18-1+deb12u1 libxml2=2.9.14+dfsg-1.3~deb12u6 libicu72=72.1-3+deb12u1
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
fpm=$T/x/usr/sbin/php-fpm8.2
mkdir pool.d
printf '[global]\nerror_log = /dev/stderr\ninclude = %s/pool.d/*.conf\n' "$T" >conf
cat >pool.d/www.conf <<P
[www]
user = www-data
group = www-data
listen = $T/www.sock
pm = static
pm.max_children = 5
P
pool() {   # name: a second file
    cat >pool.d/donate.conf <<P
[$1]
user = nobody
group = nogroup
listen = $T/donate.sock
pm = static
pm.max_children = 2
request_terminate_timeout = 30s
env[SITE] = donate
P
}
try() {   # name of the second pool -> exit status of the check, and the pools with some of their settings
    pool "$1"; rc=0
    timeout 20 "$fpm" -n -y conf -t >out 2>&1 || rc=$?
    echo "  [www] and [$1]: php-fpm -t: exit $rc, $(grep -c WARNING out || :) warnings"
    timeout 20 "$fpm" -n -y conf -tt >out 2>&1 || :
    pools=$(sed "s/.*NOTICE: *//; s/^[[:space:]]*//; s#$T/##" out | uniq | awk '
        /^\[/ { pool = $0 }
        pool != "[global]" && /^(user|listen|pm.max_children|request_terminate_timeout|env\[.*\]) = / { line[pool] = line[pool] " " $NF }
        END { for (pool in line) print pool line[pool] }' | sort)
    printf '%s\n' "$pools" | sed 's/^/    /'
    results="$results$rc:$(echo "$pools" | tr '\n' ' ') "
}
results=
echo "version:  $(timeout 10 "$fpm" -n -v | sed -n '1s/ (.*//p')"
echo "expected: an error or two pools"
echo "seen:"
try donate
try www
verdict "$results" '0:[donate] nobody donate.sock 2 30s donate [www] www-data www.sock 5 0s  0:[www] www-data www.sock 5 30s donate  '
