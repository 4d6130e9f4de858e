#!/bin/bash
# One expects: the Received line that `postsuper -r` adds to a message says when it was requeued, or keeps the time of its arrival.
# Happens: of a message that was deferred it says when its next attempt would have been, up to maximal_backoff_time (4000 s) in the future:
# the file's time, in which the queue manager notes that attempt. Only from two hours on pickup(8) takes the present instead.
# Seen: Postfix 3.7.11 (Debian 12).
# Why it matters: after a provider's block one requeues the deferred rest of a newsletter. The next hop seems to have got each mail an hour before
# it was sent: delays by Received lines are negative there, and who compares them with the log looks for a wrong clock.
# Source: none; the code is pickup_copy() in src/pickup/pickup.c. postsuper(1) has what else a requeued message loses or keeps.
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
minimal_backoff_time = 3000s
header_checks = regexp:$T/etc/header_checks
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
echo '/^To: held/ HOLD' >etc/header_checks

sendmail() {   # recipient
    printf 'From: news@example.org\nTo: %s\nSubject: News\n\nhi\n' "$1" | timeout 20 "$sbin/sendmail" -C "$T/etc" -f news@example.org "$1"
}
queued() { find q/deferred q/hold -type f; }
wait_for() { for _ in $(seq 100); do [ "$(queued | grep -c "$1")" = "$2" ] && break; sleep 0.1; done; }
timeout 60 "$daemons/master" -c "$T/etc" -d & pids=$!
for _ in $(seq 50); do [ -S q/public/pickup ] && break; sleep 0.1; done
sendmail deferred@example.net; sendmail held@example.com
wait_for deferred/ 1; wait_for hold/ 1
before=$(date +%s)
timeout 20 "$sbin/postsuper" -r ALL >out 2>&1
timeout 20 "$sbin/postkick" public pickup W
for _ in $(seq 100); do [ "$(grep -c orig_id= dat/log || :)" = 2 ] && break; sleep 0.1; done
wait_for . 2

echo "version:  Postfix $("$sbin/postconf" -d -h mail_version)"
echo "expected: 0 minutes, or less"
echo "seen:"
top() {   # path of a message -> minutes from now to the time of its first Received line
    timeout 20 "$sbin/postcat" -h "$1" >message.head
    python3 - "$before" <<'P'
import email
import sys
from email.utils import parsedate_to_datetime

with open('message.head', 'rb') as file:
    received = email.message_from_binary_file(file).get_all('Received')
times = [parsedate_to_datetime(line.rsplit(';', 1)[1]).timestamp() for line in received]
print(len(received), *(round((time - int(sys.argv[1])) / 60) for time in times))
P
}
results=
for recipient in deferred held; do
    said=$(top "$(grep -rl "$recipient@" q/deferred q/hold)")
    echo "  $recipient: Received lines, and minutes from the requeue to their times, the newest first: $said"
    results="$results $said/"
done
verdict "$results" ' 2 50 0/ 2 0 0/'
