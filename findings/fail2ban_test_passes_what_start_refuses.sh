#!/bin/bash
# One expects: `fail2ban-client --test` ("test configuration"), green, means that the server starts; and that a mistake in one jail
# costs that jail.
# Happens: --test reads files and options but hands nothing to a jail. A failregex without <HOST>, or not a regex at all, or
# `findtime = ten`, passes with exit 0. At the start the server takes the whole stream of commands as one, fails at the first
# error and ends with 255: no jail runs, the sshd jail neither. (With a missing log file --test does fail: see its own message.)
# Seen: fail2ban 1.0.2 (Debian 12).
# Why it matters: a new jail for a front door, checked and deployed, leaves the host without any ban from the next restart on,
# which on a rebuilt host is at once.
# Source: fail2ban-client(1) on -t; none on what it does not look at.

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

debs fail2ban=1.0.2-2
python=/usr/bin/python3
"$python" -c 'import asyncore' 2>/dev/null || { echo "needs Debian 12's python3 (asyncore went in Python 3.12)"; exit 1; }
export PYTHONPATH=$T/x/usr/lib/python3/dist-packages PYTHONWARNINGS=ignore
etc=$T/x/etc/fail2ban
f2b() { timeout 20 "$python" "$T/x/usr/bin/fail2ban-$1" -c "$etc" -s "$T/sock" -p "$T/pid" --logtarget "$T/log" "${@:2}"; }
printf '[Definition]\ndbfile = None\n' >"$etc/fail2ban.local"
touch auth.log
jail() { printf '[%s]\nenabled = true\nbackend = polling\nlogpath = %s\nfilter =\nfailregex = %s\naction =\n' "$1" "$T/auth.log" "$2"; }
results=
try() {   # what, the jails -> exit status of --test, jails that run
    printf '%s\n' "$2" >"$etc/jail.d/defaults-debian.conf"
    test=0; f2b client --test >out 2>&1 || test=$?
    rm -f "$T/log"; f2b server -xf start >out 2>&1 & pids=$!
    jails=none
    for _ in $(seq 15); do
        kill -0 "$pids" 2>/dev/null || break
        if [ -S sock ] && f2b client status >jails 2>/dev/null; then
            jails=$(sed -n 's/.*Jail list:[[:space:]]*//p' jails)
            [ -z "$jails" ] || break
        fi
        sleep 0.2
    done
    f2b client stop >/dev/null 2>&1 || :
    end=0; wait "$pids" || end=$?; pids=
    printf '  %-30s --test: %s  jails running: %-12s server ended with %s\n' "$1" "$test" "$jails" "$end"; results="$results $test/${jails:-none}/$end"
}
echo "version:  $(f2b client --version)"
echo "expected: --test not 0 for the second, or jail 'good' running there too"
echo "seen:"
try 'one good jail' "$(jail good '^refused <HOST>$')"
try 'and one without <HOST>' "$(jail good '^refused <HOST>$'; jail new '^refused a client$')"
sed -n 's/.*ERROR *\(NOK.*\)/  \1/p' log
verdict "$results" " 0/good/0 0/none/255"
