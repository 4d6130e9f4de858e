#!/bin/bash
# One expects: `mtail --compile_only --progs FILE` compiles FILE and fails if it is no program, whatever its name.
# Happens: a file whose name begins with a dot, or does not end in .mtail, is passed over, even if it is named outright: exit 0, no
# word. A file that does not exist fails, and so does the same text under another name.
# Seen: mtail 3.0.0-rc50 (Debian 12).
# Why it matters: programs that replace files check a temporary one first, and call it `.source` (Ansible's copy with
# validate:) or `x.mtail.tmp`. That check can never fail; mtail then does not start, or counts nothing, and the alert on
# "no delivery in N minutes" is what tells, or fails to.
# Source: mtail's docs/Deploying.md has the suffix ("Programs must have the .mtail suffix"), for a directory; the silence is in none.

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

debs mtail=3.0.0~rc50-1+b6
mtail=$T/x/usr/bin/mtail
results=
try() { rc=0; timeout 20 "$mtail" --compile_only --progs "$1" >out 2>&1 || rc=$?; printf '  %-20s exit %s\n' "$1" "$rc"; results="$results $rc"; }
printf 'counter lines\n/$/ {\n  lines++\n}\n' >good.mtail
printf 'counter lines\n/$/ {\n  lines++\n' >broken.mtail
for name in .broken.mtail .source broken.mtail.tmp; do cp broken.mtail "$name"; done

echo "version:  $("$mtail" --version | cut -d' ' -f1-3)"
echo "expected: exit 1 for all but good.mtail: the others are one broken text, or not there"
echo "seen:"
for name in good.mtail broken.mtail .broken.mtail .source broken.mtail.tmp missing.mtail; do try "$name"; done
verdict "$results" " 0 1 0 0 0 1"
