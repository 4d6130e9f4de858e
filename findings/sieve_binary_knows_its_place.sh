#!/bin/bash
# One expects: a Sieve script and its compiled .svbin, copied together with their times, are used where they now lie; that is how
# one ships compiled scripts, or checks a new one in a temporary directory and renames both into place.
# Happens: the binary holds the absolute path of the script it was made from. Elsewhere it counts as out of date and the script is
# compiled again: at each delivery, while the user cannot write into the directory. Said at debug level only.
# Seen: Pigeonhole 0.5.19 (Debian 12). By design, so that a binary is never taken for another script's.
# Why it matters: a bounce mailbox takes thousands of messages in a burst; a host whose scripts were
# staged elsewhere and moved into place compiles one for each of them.
# Source: none found; sievec(1) speaks of the output's name only.

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

debs dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6 dovecot-sieve=1:2.3.19.1+dfsg1-2.1+deb12u6 libunwind8=1.6.2-3
LD_LIBRARY_PATH="$T/x/usr/lib/dovecot:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH
bin=$T/x/usr/bin as=()
chmod 755 "$T"
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)   # sieve-test does not run as root

mkdir -m 755 first second; mkdir -m 777 home
printf 'require "fileinto";\nfileinto "Bounces";\n' >first/bounces.sieve
printf 'From: a@example.org\nSubject: x\n\nhi\n' >mail
timeout 20 "$bin/sievec" -O first/bounces.sieve first/bounces.svbin
chmod 644 first/*; cp -p first/* second/

run() {   # how the script of a directory is run: by its binary or compiled
    (cd home && timeout 20 "${as[@]}" env HOME="$T/home" "$bin/sieve-test" -O -D -l "maildir:$T/home/Maildir" "$T/$1/bounces.sieve" "$T/mail") >out 2>&1
    if grep -q 'successfully compiled' out; then echo compiled; elif grep -q 'svbin successfully loaded' out; then echo binary; else cat out; fi
}
echo "version:  Pigeonhole $(run first >/dev/null; sed -n 's/.*Pigeonhole version \([^ ]*\).*/\1/p' out)"
echo "expected: binary binary binary"
got="$(run first) $(run second) $(run second)"
echo "seen:     $got (made here, copied, copied once more)"
grep -o 'reports different location.*' out | sed "s#$T/##g" || :
verdict "$got" "binary compiled compiled"
