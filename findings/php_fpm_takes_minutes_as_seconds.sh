#!/bin/bash
# One expects: php-fpm takes `request_terminate_timeout = 5 minutes` as five minutes, or refuses it as it refuses `5x`.
# Happens: the last letter alone is the unit, and what does not belong to the number before it is skipped: `5 minutes` and `2 hours`
# are five and two seconds, by the s of the plural. No warning, `php-fpm -t` is green; `5 minute` is refused.
# Seen: PHP 8.2.36 (Debian 12).
# Why it matters: a limit meant to spare long imports and mailing jobs, and systemd's habit of writing times, end every request of more than
# five seconds; short requests, all that a test makes, pass. `php-fpm -tt` shows the seconds.
# Source: Debian's www.conf and PHP's manual (FPM, Configuration) have the units s, m, h, d, written as "s(econds)", "m(inutes)".

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
results=
try() {   # value -> what php-fpm makes of it
    printf '%s\n' '[global]' 'error_log = /dev/stderr' '[www]' 'user = nobody' 'group = nogroup' "listen = $T/sock" 'pm = static' \
        'pm.max_children = 1' "request_terminate_timeout = $1" >conf
    rc=0; timeout 20 "$fpm" -n -y conf -t >out 2>&1 || rc=$?
    said=$(timeout 20 "$fpm" -n -y conf -tt 2>&1 | sed -n 's/.*request_terminate_timeout = //p' | head -1)
    printf '  %-12s php-fpm -t: exit %-4s the limit: %s\n' "$1" "$rc" "${said:-none, refused}"
    results="$results $rc/${said:-refused}"
}
echo "version:  $(timeout 10 "$fpm" -n -v | sed -n '1s/ (.*//p')"
echo "expected: 300 seconds or an error for all with 5, 7200 for those with 2"
echo "seen:"
for value in 300 5m '5 m' 5x '5 minute' '5 minutes' 2h '2 hours'; do try "$value"; done
verdict "$results" ' 0/300s 0/300s 0/300s 78/refused 78/refused 0/5s 0/7200s 0/2s'
