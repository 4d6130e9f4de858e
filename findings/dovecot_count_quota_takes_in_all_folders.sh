#!/bin/bash
# One expects: a delivery opens the folder that it delivers into, and the quota driver that Dovecot advises, count, adds up sums that stand in
# the index of each folder.
# Happens: at each delivery, and at each COPY, count takes in every folder that another program has moved a file into since: it reads the
# directory and writes list of UIDs, index and cache of folders that nobody has opened. The driver maildir (Maildir++) reads and writes one
# file, maildirsize, and knows no more of the other folders than before.
# Seen: Dovecot 2.3.19.1 (Debian 12); the same effect in 2.4.1 (Debian 13).
# Why it matters: where a program sorts mail by rename(2), as Maildir allows, each delivery pays for all that was moved since the last.
# Measured with 2.4.1, eight folders and a program that moves each message once: 12 to 18 ms of CPU a delivery with count, 7 with maildir.
# Source: https://doc.dovecot.org/2.3/configuration_manual/quota_plugin/ advises count for new installations; of this it says nothing.

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

debs dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u7 libunwind8=1.6.2-3
LD_LIBRARY_PATH="$T/x/usr/lib/dovecot:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH
as=()
chmod 755 "$T"; mkdir -m 777 run
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)

configure() {   # quota driver
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
plugin {
  quota = $1:mailbox
  quota_vsizes = yes
  quota_rule = *:storage=1M
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
message() { printf 'From: anna@example.org\nTo: b.1.2.abc@example.net\nSubject: %s\n\nHello\n' "$1"; }
deliver() { message "$1" | call lda "$T/x/usr/lib/dovecot/dovecot-lda" -f mx@example.net; }
results=
try() {   # driver -> whether a delivery into INBOX took in a file of another folder
    configure "$1"; rm -rf home; mkdir -m 777 home
    call doveadm "$T/x/usr/bin/doveadm" mailbox create Other
    deliver first; deliver second
    set -- "$1" home/Mail/new/*
    mv "$2" home/Mail/.Other/new/    # as any program may
    deliver third
    if grep -qs "${2##*/}" home/Mail/.Other/dovecot-uidlist; then took=yes; else took=no; fi
    printf '  quota driver %-8s a delivery into INBOX took in what was moved into Other: %s\n' "$1:" "$took"
    results="$results $took"
}
echo "version:  Dovecot $(configure count; timeout 10 "$T/x/usr/bin/doveconf" -n -c "$T/conf" 2>/dev/null | sed -n 's/^# \([0-9.]*\) .*/\1/p' | head -1)"
echo "expected: no, with either"
echo "seen:"
try count
try maildir
verdict "$results" ' yes no'
