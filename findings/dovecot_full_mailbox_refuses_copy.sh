#!/bin/bash
# One expects: whoever empties a full mailbox may file its mail away into another folder of the same mailbox; or at least that all ways
# to do so are treated alike: COPY, STORE \Deleted and EXPUNGE are what clients did before MOVE, and MOVE is no more than those.
# Happens: in a mailbox at its quota COPY is refused, even of a message of a few bytes into an own folder, while MOVE passes. And quota_grace
# lets deliveries pass the limit, but not COPY: it is the reader who is locked out first.
# Seen: Dovecot 2.3.19.1 (Debian 12).
# Why it matters: programs that read bounces file what they have read by COPY, CiviCRM's fetcher by ezcMail among them, and PHP's old IMAP
# library has no MOVE at all. At the quota such a program books a bounce, cannot file it, and meets it again at the next run, while
# mail still comes in. Leave the folders for read mail out of the quota (quota_rule2 = Done:ignore), or watch well below it.
# Source: Dovecot's pages on the quota plugin have neither; RFC 9208, 4.1.2, leaves both to the server.

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

debs dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u7 dovecot-imapd=1:2.3.19.1+dfsg1-2.1+deb12u7 libunwind8=1.6.2-3
LD_LIBRARY_PATH="$T/x/usr/lib/dovecot:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH
as=()
chmod 755 "$T"; mkdir -m 777 run
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)

configure() {   # further setting of the quota
    cat >conf <<P
mail_location = maildir:~/Mail
base_dir = $T/run
state_dir = $T/run
libexec_dir = $T/x/usr/lib/dovecot
mail_plugin_dir = $T/x/usr/lib/dovecot/modules
log_path = /dev/stderr
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_plugins = quota
protocol imap {
  mail_plugins = quota imap_quota
}
plugin {
  quota = count:mailbox
  quota_vsizes = yes
  quota_rule = *:storage=20K
  quota_grace = 10K
  $1
}
namespace inbox {
  inbox = yes
}
P
}
call() {   # program, its arguments: for one user, without a running Dovecot
    timeout 20 "${as[@]}" env HOME="$T/home" USER=nobody SENDER=mx@example.net \
        "$T/x/usr/bin/doveconf" -c "$T/conf" -f "service=$1" -m "$1" -e "${@:2}" 2>>err
}
message() { printf 'From: anna@example.org\nTo: b.1.2.abc@example.net\nSubject: %s\n\n' "$1"; head -c "$2" /dev/zero | tr '\0' x | fold -w 70; }
results=
try() {   # what, setting -> mail delivered until refused, and what the reader may do then
    configure "$2"; rm -rf home; mkdir -m 777 home
    message small 100 | call doveadm "$T/x/usr/bin/doveadm" save -m INBOX
    delivered=0
    while [ $delivered -lt 20 ] && message big 6000 | call lda "$T/x/usr/lib/dovecot/dovecot-lda" -f mx@example.net; do delivered=$((delivered + 1)); done
    printf '%s\n' 'a create Done' 'b select INBOX' 'copy copy 1 Done' 'move move 1 Done' 'c getquotaroot INBOX' 'd logout' |
        call imap "$T/x/usr/lib/dovecot/imap" >out
    used=$(sed -n 's/.*STORAGE \([0-9]*\) \([0-9]*\).*/\1 of \2 KiB/p' out)
    copy=$(sed -n 's/^copy \([A-Z]*\).*/\1/p' out) move=$(sed -n 's/^move \([A-Z]*\).*/\1/p' out)
    printf '  %-24s %s big messages delivered, then %s used; 100 bytes into Done by COPY: %s, by MOVE: %s\n' "$1" "$delivered" "$used" "$copy" "$move"
    results="$results $delivered/$copy/$move"
}
echo "version:  Dovecot $(configure ''; timeout 10 "$T/x/usr/bin/doveconf" -n -c "$T/conf" 2>/dev/null | sed -n 's/^# \([0-9.]*\) .*/\1/p' | head -1)"
echo "expected: COPY and MOVE alike"
echo "seen:"
try 'one quota for all:' ''
sed -n 's/^copy NO \(.*\) (.*/  \1/p' out
try 'Done left out of it:' 'quota_rule2 = Done:ignore'
verdict "$results" ' 4/NO/OK 4/OK/OK'
