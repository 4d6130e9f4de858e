#!/bin/bash
# One expects: `u vmail 480` in sysusers.d means that vmail has UID 480 afterwards, or that systemd-sysusers fails.
# Happens: the number is a suggestion. If another account has it, the next free one is taken, exit 0 and one line of text. If vmail
# exists with another UID, home or shell, nothing is said or done at all, exit 0.
# Seen: systemd 252 (Debian 12).
# Why it matters: the usual reason for a fixed UID is data that comes back with numbers: mailboxes, spools and backups restored on a
# rebuilt host then belong to somebody else, and the check "sysusers ran green" does not tell.
# Source: sysusers.d(5), Idempotence, on existing users; that a taken number is replaced is not in it.

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

debs systemd-standalone-sysusers=252.39-1~deb12u2
sysusers=$T/x/bin/systemd-sysusers
mkdir -p root/etc
printf 'root:x:0:0:root:/root:/bin/sh\nother:x:481:481::/:/usr/sbin/nologin\nvmail:x:5000:5000::/home/vmail:/bin/sh\n' >root/etc/passwd
printf 'root:x:0:\nother:x:481:\nvmail:x:5000:\n' >root/etc/group
printf '%s\n' 'u bounces 481 "number taken" /srv/bounces' 'u vmail 480 "exists with 5000" /srv/mail' >mail.conf
rc=0; timeout 20 "$sysusers" --root="$T/root" "$T/mail.conf" >out 2>&1 || rc=$?

echo "version:  $("$sysusers" --version | head -1)"
echo "expected: bounces:481 vmail:480:/srv/mail, or an exit status that is not 0"
ids=$(awk -F: '$1 == "bounces" {print $1 ":" ($3 == 481 ? "481" : "another")} $1 == "vmail" {print $1 ":" $3 ":" $6}' root/etc/passwd | sort | tr '\n' ' ')
echo "seen:     ${ids}exit $rc"
sed 's/^/  /' out
verdict "$rc $ids$(grep -c vmail out || :)" "0 bounces:another vmail:5000:/home/vmail 0"
