#!/bin/bash
# One expects: a mail with UTF-8 in its Subject, not encoded, but with ASCII addresses only, goes through Postfix as it always did; and by sendmail(1)
# as it does by SMTP.
# Happens: by sendmail(1) it is marked as mail that needs SMTPUTF8, and returned to its sender, for good, wherever the next hop does not
# offer that. By SMTP the same mail is sent. An encoded Subject, or UTF-8 in the body, does no harm.
# Seen: Postfix 3.7.11 (Debian 12).
# Why it matters: cron's and monitoring mails, and PHP's mail(), which takes a Subject as it is, come by sendmail(1): a translated subject, a name in
# From, and the mail is lost at every provider without SMTPUTF8, while tests within one's own Postfix pass. Where nobody has
# such addresses, smtputf8_autodetect_classes = verify brings it back.
# Source: Postfix' SMTPUTF8_README, "SMTPUTF8 autodetection"; smtputf8_autodetect_classes in postconf(5).
# Needs root (master(8) does); loopback only; the machine's users daemon and group games stand for Postfix' own.

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
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free) own=$(free)

chmod 755 "$T"; mkdir etc q dat sink
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
relayhost = [127.0.0.1]:$port
disable_dns_lookups = yes
smtpd_peername_lookup = no
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_connection_cache_on_demand = no
P
while read -r name kind private wake limit command; do echo "$name $kind $private - n $wake $limit $command"; done >etc/master.cf <<'P'
pickup unix n 60 1 pickup
cleanup unix n - 0 cleanup
qmgr unix n 300 1 qmgr
rewrite unix - - - trivial-rewrite
bounce unix - - 0 bounce
defer unix - - 0 bounce
trace unix - - 0 bounce
smtp unix - - - smtp
error unix - - - error
retry unix - - - error
postlog unix-dgram n - 1 postlogd
P
echo "anvil unix - - n - 1 anvil" >>etc/master.cf
echo "127.0.0.1:$own inet n - n - - smtpd" >>etc/master.cf
(
    cd q
    mkdir -m 700 active bounce corrupt defer deferred flush hold incoming private saved trace
    mkdir -m 730 maildrop; mkdir -m 710 public; mkdir -m 755 pid
    chown daemon active bounce corrupt defer deferred flush hold incoming private saved trace maildrop public
    chgrp games maildrop public
)
chown daemon dat sink

start() {
    rm -f q/public/pickup
    timeout 60 "$daemons/master" -c "$T/etc" -d & master=$!
    pids="$sink $master"
    for _ in $(seq 50); do [ -S q/public/pickup ] && break; sleep 0.1; done
}
timeout 60 "$sbin/smtp-sink" -u daemon 127.0.0.1:"$port" 10 & sink=$!
start
mail() {   # local part of the recipient, subject
    printf 'From: news@example.org\nTo: %s@example.net\nSubject: %s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nGr\303\274\303\237e\n' "$1" "$2"
}
by_sendmail() { timeout 20 "$sbin/sendmail" -C "$T/etc" -f news@example.org "$1@example.net"; }
by_smtp() {
    timeout 20 python3 -c '
import smtplib
import sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), local_hostname="crm", timeout=10) as client:
    client.sendmail("news@example.org", sys.argv[2] + "@example.net", sys.stdin.buffer.read())' "$own" "$1"
}
results=
try() {   # title, local part of the recipient, subject, way -> status in the log
    mail "$2" "$3" | "$4" "$2"
    for _ in $(seq 100); do grep -q "to=<$2@.* status=" dat/log && break; sleep 0.1; done
    said=$(sed -n "s/.*to=<$2@.* dsn=\([0-9.]*\), status=\([a-z]* (.*\)/\1 \2/p" dat/log | head -1)
    printf '  %-48s %s\n' "$1" "$said"
    results="$results ${said%% (*}"
}
encoded='=?utf-8?Q?F=C3=BCr_Sie?=' plain=$(printf 'F\303\274r Sie')
echo "version:  Postfix $("$sbin/postconf" -d -h mail_version)"
echo "expected: sent each time"
echo "seen:"
try 'encoded Subject, sendmail(1):' anna "$encoded" by_sendmail
try 'UTF-8 in Subject, sendmail(1):' bob "$plain" by_sendmail
try 'UTF-8 in Subject, SMTP:' cyd "$plain" by_smtp
echo 'smtputf8_autodetect_classes = verify' >>etc/main.cf
kill "$master"; wait "$master" || :; start
try '... with smtputf8_autodetect_classes = verify:' dan "$plain" by_sendmail
verdict "$results" ' 2.0.0 sent 5.6.7 bounced 2.0.0 sent 2.0.0 sent'
