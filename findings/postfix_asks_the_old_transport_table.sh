#!/bin/bash
# One expects: once `postmap` has replaced a transport table and `postmap -q` gives the new entry, new mail goes by it: Postfix
# detects changed tables by itself, and cleanup(8) does so at each message.
# Happens: trivial-rewrite(8), which the queue manager asks for the transport, looks for changed tables every ten seconds only. On
# top of that the queue manager remembers the last answer for 30 seconds: mail to the same address again goes by the old transport
# even after trivial-rewrite has restarted, unless mail to another address came in between. `postfix reload` ends both at once.
# Seen: Postfix 3.7.11 (Debian 12).
# Why it matters: "take this provider off the road, then release the queue" in one script sends ten seconds of the queue, thousands of
# messages, down the road that was just closed. And whoever tests a new route with one address, again and again, sees the old
# one for half a minute and mends what is right.
# Source: none that names a time; the code is check_table_stats() in src/trivial-rewrite/trivial-rewrite.c and last_expire in
# src/global/resolve_clnt.c.
# Needs root (master(8) does); no port at all; the machine's users daemon and group games stand for Postfix' own.

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

[ "$(id -u)" = 0 ] || { echo "needs root"; exit 1; }
debs postfix=3.7.11-0+deb12u1 libicu72=72.1-3+deb12u1 libsasl2-2=2.1.28+dfsg-10
LD_LIBRARY_PATH="$T/x/usr/lib/postfix:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH MAIL_CONFIG=$T/etc
sbin=$T/x/usr/sbin daemons=$T/x/usr/lib/postfix/sbin

chmod 755 "$T"; mkdir etc q dat
cat >etc/main.cf <<P
compatibility_level = 3.6
maillog_file = $T/dat/log
maillog_file_prefixes = $T
mail_owner = daemon
setgid_group = games
queue_directory = $T/q
data_directory = $T/dat
command_directory = $sbin
daemon_directory = $daemons
shlib_directory = $T/x/usr/lib/postfix
meta_directory = $T/x/etc/postfix
import_environment = MAIL_CONFIG LD_LIBRARY_PATH
export_environment = MAIL_CONFIG LD_LIBRARY_PATH
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = crm.example.org
mydestination =
alias_maps =
transport_maps = hash:$T/etc/transport
P
while read -r name kind private wake limit command; do echo "$name $kind $private - n $wake $limit $command"; done >etc/master.cf <<'P'
pickup unix n 60 1 pickup
cleanup unix n - 0 cleanup
qmgr unix n 300 1 qmgr
rewrite unix - - - trivial-rewrite
bounce unix - - 0 bounce
defer unix - - 0 bounce
trace unix - - 0 bounce
error unix - - - error
retry unix - - - error
discard unix - - - discard
postlog unix-dgram n - 1 postlogd
P
(
    cd q
    mkdir -m 700 active bounce corrupt defer deferred flush hold incoming private saved trace
    mkdir -m 730 maildrop; mkdir -m 710 public; mkdir -m 755 pid
    chown daemon active bounce corrupt defer deferred flush hold incoming private saved trace maildrop public
    chgrp games maildrop public
)
chown daemon dat

table() {   # word: all of example.net goes to discard(8), which logs the word
    echo "example.net discard:$1" >etc/transport; timeout 10 "$sbin/postmap" "hash:$T/etc/transport"
}
send() {   # local part: one message -> the word by which it went
    n=$((${n:-0} + 1))
    printf 'From: news@example.org\nTo: %s@example.net\nSubject: %s\n\nhi\n' "$1" "$n" |
        timeout 20 "$sbin/sendmail" -C "$T/etc" -f news@example.org "$1@example.net"
    for _ in $(seq 100); do [ "$(grep -c status=sent dat/log 2>/dev/null || :)" = "$n" ] && break; sleep 0.1; done
    by=$(sed -n 's/.*to=<\([a-z]*\)@.*status=sent (\(.*\))/\1:\2/p' dat/log | tail -1)
    printf '  %-28s %s goes by the %s table\n' "$2" "${by%:*}" "${by#*:}"; results="$results $by"
}
results=
table old
timeout 60 "$daemons/master" -c "$T/etc" -d & pids=$!
for _ in $(seq 50); do [ -S q/public/pickup ] && break; sleep 0.1; done

echo "version:  Postfix $("$sbin/postconf" -d -h mail_version)"
echo "expected: the new table for all mail after the change"
echo "seen:"
send anna 'before:'
sleep 1.1   # Postfix compares whole seconds of the file's time
table new
asked=$(timeout 10 "$sbin/postmap" -q example.net "hash:$T/etc/transport"); echo "  postmap -q:                  $asked"
send bob 'at once after the change:'
send anna ''
sleep 12
echo "  log: $(grep -o 'rewrite.* has changed.*' dat/log | sed "s#\[[0-9]*\]##; s#$T/##")"
send anna '12 seconds later:'
send bob ''
send anna ''
verdict "$asked$results" 'discard:new anna:old bob:old anna:old anna:old bob:new anna:new'
