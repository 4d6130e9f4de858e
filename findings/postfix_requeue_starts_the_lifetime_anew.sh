#!/bin/bash
# One expects: maximal_queue_lifetime counts from the arrival that postqueue shows, also for a message that `postsuper -r` puts into the queue
# anew: it keeps this arrival.
# Happens: it counts from the requeue. postqueue goes on showing the old arrival, and so does the log's delay=, but the message has a whole
# lifetime before it, and at each requeue again.
# Seen: Postfix 3.7.11 (Debian 12).
# Why it matters: a script that requeues the deferred mail, so that new routes or rewriting hold for it, keeps dead addresses from bouncing for
# as long as it runs; and "older than maximal_queue_lifetime" in an alert on the queue is no sign of a fault. On the other hand it is the way to
# release mail after a hold longer than the lifetime, which -H would have returned at its first deferral.
# Source: postsuper(1) hints at it under -H, for mail long on hold; neither there nor under maximal_queue_lifetime in postconf(5) is that
# the arrival shown is not the one that counts. The code is create_time in src/qmgr/qmgr_active.c.
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
default_transport = retry:4.0.0 a block
maximal_queue_lifetime = 6s
minimal_backoff_time = 3000s
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
showq unix n - - showq
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

sendmail() {   # recipient
    printf 'From: news@example.org\nTo: %s\nSubject: News\n\nhi\n' "$1" | timeout 20 "$sbin/sendmail" -C "$T/etc" -f news@example.org "$1"
}
listed() {   # part of the address -> when the message arrived, by postqueue; nothing if it is not in the queue
    timeout 20 "$sbin/postqueue" -j | sed -n "s/.*\"arrival_time\": \([0-9]*\),.*$1@.*/\1/p"
}
wait_for() { for _ in $(seq 100); do [ "$(grep -cE "$1" dat/log || :)" -ge "$2" ] && break; sleep 0.1; done; }
timeout 60 "$daemons/master" -c "$T/etc" -d & pids=$!
for _ in $(seq 50); do [ -S q/public/pickup ] && break; sleep 0.1; done
sendmail left@example.net; sendmail requeued@example.net
wait_for 'to=<(left|requeued)@.* status=deferred' 2
arrival=$(listed requeued)
sleep 8
timeout 20 "$sbin/postqueue" -j | sed -n 's/.*"queue_id": "\([0-9A-F]*\)".*requeued@.*/\1/p' | timeout 20 "$sbin/postsuper" -r - >out 2>&1
timeout 20 "$sbin/postkick" public pickup W
wait_for 'to=<requeued@.* status=deferred' 2
timeout 20 "$sbin/postqueue" -f
wait_for 'to=<left@.* status=deferred' 2; wait_for 'to=<requeued@.* status=deferred' 3; sleep 1

echo "version:  Postfix $("$sbin/postconf" -d -h mail_version)"
echo "expected: both returned as expired, at the first attempt after 6 seconds"
echo "seen:"
now=$(listed requeued) results=''
[ -n "$now" ] && [ "$now" = "$arrival" ] && results=same
for name in left requeued; do
    attempts=$(grep -cE "to=<$name@.* status=deferred" dat/log) fate=kept
    id=$(sed -n "s/.*error\[[0-9]*\]: \([0-9A-F]*\): to=<$name@.*/\1/p" dat/log | tail -1)
    ! grep -q "$id: .*status=expired" dat/log || fate=expired
    echo "  $name: $attempts attempts, then $fate"
    results="$results $name:$fate"
done
delay=$(sed -n 's/.*to=<requeued@.*delay=\([0-9]*\).*/\1/p' dat/log | tail -1)
echo "  the requeued one: arrival by postqueue $((${now:-0} - arrival)) seconds after the first, delay=$delay in the log"
[ "${delay:-0}" -lt 8 ] || results="$results long"
verdict "$results" 'same left:expired requeued:kept long'
