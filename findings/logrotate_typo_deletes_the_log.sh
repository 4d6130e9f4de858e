#!/bin/bash
# One expects: a misspelt directive either makes logrotate skip the file's section, as a wrong value does, or costs that directive
# only; in any case an exit status that a timer or a deployment's check sees.
# Happens: the line alone is ignored, with exit 0, in the dry run (-d) as well. If the misspelt word was `rotate`, its default holds:
# keep no old logs. The log is deleted at the first rotation, nothing of it is left.
# A wrong value (`rotate many`) is treated the other way: the section is skipped, and the log grows.
# Seen: logrotate 3.21.0 (Debian 12).
# Why it matters: the mail log is the record of who got a newsletter and which address bounced; after a lost spool it is what tells
# who is still to be served.
# Source: logrotate(8) on rotate: "If count is 0, old versions are removed ... Default is 0"; unknown words are not in it.

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

debs logrotate=3.21.0-1 libpopt0=1.19+dfsg-1
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
logrotate=$T/x/usr/sbin/logrotate
results=
try() {   # directive -> exit status of the dry run, of the run, what is left
    rm -f mail.log* state; seq 100 >mail.log
    printf '%s {\n    size 10\n    %s\n}\n' "$T/mail.log" "$1" >conf; chmod 644 conf
    dry=0; timeout 20 "$logrotate" -d -s state conf >out 2>&1 || dry=$?
    rc=0; timeout 20 "$logrotate" -s state conf >out 2>&1 || rc=$?
    left=$(find . -name 'mail.log*' -printf '%f\n' | sort | tr '\n' ' ')
    printf '  %-13s dry run: %s  run: %s  left: %s\n' "$1" "$dry" "$rc" "${left:-nothing}"; sed 's/^/      /' out
    results="$results $dry/$rc/${left:-nothing}"
}
echo "version:  $(timeout 10 "$logrotate" --version 2>&1 | head -1)"
echo "expected: not 0 for the second, or mail.log.1 left"
echo "seen:"
try 'rotate 14'
try 'rotat 14'
try 'rotate many'
verdict "$results" " 0/0/mail.log.1  0/0/nothing 1/1/mail.log "
