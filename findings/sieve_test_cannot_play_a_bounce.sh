#!/bin/bash
# One expects: sieve-test run on a saved bounce does what delivery did with it: `Return-Path: <>` on top is where it takes the envelope sender
# from, or `-f ""` gives it.
# Happens: an empty Return-Path is skipped as if it were not there, and the address in From, MAILER-DAEMON, is the envelope sender; `-f ""` and
# `-f "<>"` are refused as invalid. No call plays a message with the null sender.
# Seen: Pigeonhole 0.5.19 with Dovecot 2.3.19.1 (Debian 12).
# Why it matters: `envelope :is "from" ""` is how a mailbox sorts bounces from replies. Its test with sieve-test files them as replies: one takes
# the script for wrong and changes it to look at From, which is wrong at delivery for bounces of other senders. Try it with dovecot-lda -f "".
# Source: sieve-test(1), -f, says that Return-Path, Sender or From is taken; nothing of the null sender.

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

debs dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u7 dovecot-sieve=1:2.3.19.1+dfsg1-2.1+deb12u7 libunwind8=1.6.2-3
LD_LIBRARY_PATH="$T/x/usr/lib/dovecot:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH
bin=$T/x/usr/bin as=()
chmod 755 "$T"; mkdir -m 777 run home
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)   # neither program runs as root

cat >script.sieve <<'P'
require ["envelope", "fileinto", "mailbox", "variables"];
if envelope :is "from" "" {
    fileinto :create "Bounces";
} elsif envelope :localpart :matches "from" "*" {
    fileinto :create "Replies of ${1}";
}
P
cat >conf <<P
mail_location = maildir:~/Mail
mail_home = $T/home
base_dir = $T/run
state_dir = $T/run
libexec_dir = $T/x/usr/lib/dovecot
mail_plugin_dir = $T/x/usr/lib/dovecot/modules
log_path = /dev/stderr
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
protocol lda {
  mail_plugins = sieve
}
plugin {
  sieve = file:$T/script.sieve;bindir=$T/run
}
P
bounce() {   # first line or nothing
    [ -z "$1" ] || echo "$1"
    printf '%s\n' 'From: MAILER-DAEMON@mx.example.net' 'To: b.12.3456.abc@bounces.example.org' 'Subject: Undelivered' '' 'It failed.'
}
results=
note() { printf '  %-44s %s\n' "$1" "$2"; results="$results/$2"; }
deliver() {   # envelope sender -> folder
    bounce '' | timeout 20 "${as[@]}" env HOME="$T/home" USER=nobody "$bin/doveconf" -c "$T/conf" -f service=lda -m lda \
        -e "$T/x/usr/lib/dovecot/dovecot-lda" -f "$1" >out 2>&1 || :
    note "delivery, sender <$1>:" "$(sed -n "s/.*stored mail into mailbox '\(.*\)'.*/\1/p" out)"
}
try() {   # title, first line of the message, arguments -> folder or error
    bounce "$2" >mail
    (cd home && timeout 20 "${as[@]}" env HOME="$T/home" "$bin/sieve-test" -O -C -l "maildir:$T/home/Test" "${@:3}" "$T/script.sieve" "$T/mail") \
        >out 2>&1 || :
    said=$(sed -n 's/^ \* store message in folder: //p; s/.*Fatal: \(Invalid -f parameter\).*/\1/p' out | head -1)
    note "sieve-test, $1:" "${said:-$(cat out)}"
}
bounce '' >mail
(cd home && timeout 20 "${as[@]}" env HOME="$T/home" "$bin/sieve-test" -O -D -l "maildir:$T/home/Test" "$T/script.sieve" "$T/mail") >out 2>&1 || :
echo "version:  Pigeonhole $(sed -n 's/.*Pigeonhole version \([^ ]*\).*/\1/p' out)"
echo "expected: Bounces but for anna"
echo "seen:"
deliver ''
deliver anna@example.net
try 'Return-Path: <>' 'Return-Path: <>'
try 'no Return-Path' ''
try '-f ""' '' -f ''
try '-f "<>"' '' -f '<>'
try 'Return-Path: <anna@example.net>' 'Return-Path: <anna@example.net>'
verdict "$results" '/Bounces/Replies of anna/Replies of MAILER-DAEMON/Replies of MAILER-DAEMON/Invalid -f parameter/Invalid -f parameter/Replies of anna'
