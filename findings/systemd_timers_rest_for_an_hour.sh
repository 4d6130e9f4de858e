#!/bin/bash
# One expects: `OnCalendar=*:0/5` runs every five minutes, `hourly` every hour, and a nightly run at 02:15 every night. On the nights
# when clocks change, cron runs what the lost hour held just after it, and jobs with wildcards right through the repeated one.
# Happens: when clocks go back, systemd's calendar knows one pass of the repeated hour only: all that should run in the other rests,
# `*:0/5` and `minutely` too. When clocks go forward, what stands in the lost hour is not run at all that night; Persistent=
# does not make up for it, as to systemd nothing was missed.
# Seen: systemd 252 (Debian 12) here, 257 of Debian 13 elsewhere.
# Why it matters: 02:15 is a usual time of backups, and nobody notices the one night in spring. In autumn all small jobs pause at once: mail
# is not fetched, metrics are stale, guards of disk space sleep, and alerts on "no run for 15 minutes" fire at night.
# OnCalendar=... UTC is exact; so are OnUnitActiveSec= and a host in UTC.
# Source: systemd.time(7) is silent; github.com/systemd/systemd issues 8647 (autumn) and 5595 (spring), Debian bug 1033548.

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

debs systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 libapparmor1=3.0.8-3 libip4tc2=1.8.9-2 libkmod2=30+20221128-1 \
    libseccomp2=2.5.4-1+deb12u1
LD_LIBRARY_PATH="$(echo "$T"/x/usr/lib/*-linux-gnu/systemd):$(echo "$T"/x/usr/lib/*-linux-gnu):$(echo "$T"/x/lib/*-linux-gnu)"
export LD_LIBRARY_PATH LC_ALL=C.UTF-8
analyze() { timeout 20 "$T/x/usr/bin/systemd-analyze" "$@"; }
results=
runs() {   # from when on, how many, what -> the times of the runs, and the longest pause in minutes between them
    TZ=CET-1CEST,M3.5.0,M10.5.0/3 analyze calendar --base-time="$1" --iterations="$2" "$3" >out
    pause=$(sed -n 's/.*(in UTC): //p' out | while read -r t; do date -u -d "$t" +%s; done |
        awk 'NR > 1 && $1 - last > most {most = $1 - last} {last = $1} END {print most / 60}')
    printf '  %-18s longest pause %4s minutes: %s\n' "$3" "$pause" \
        "$(sed -n 's/.*\(Next elapse\|Iter\. #[0-9]*\): ... [0-9]*-\([0-9-]*\) \(..:..\):.. \(.*\)/\2 \3 \4/p' out | head -4 | paste -sd, | sed 's/,/, /g')"
    results="$results $pause"
}
echo "version:  $(analyze --version | head -1)"
echo "expected: pauses of 5, 60 and 5 minutes, and at most 25 hours (1500 minutes)"
echo "seen:     clocks go back on 31 October 2027 at 03:00, central Europe"
runs '2027-10-31 00:50 UTC' 20 '*:0/5'
runs '2027-10-30 23:30 UTC' 5 hourly
runs '2027-10-31 00:50 UTC' 20 '*:0/5 UTC'
echo "          clocks go forward on 28 March 2027 at 02:00"
runs '2027-03-27 00:00 UTC' 3 02:15
runs '2027-03-27 00:00 UTC' 3 '02:15 UTC'
verdict "$results" ' 65 120 5 2820 1440'
