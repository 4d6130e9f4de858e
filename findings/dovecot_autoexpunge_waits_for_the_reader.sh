#!/bin/bash
# One expects: `autoexpunge = 7d` removes each message a week after it was saved, whatever the others are; opening a folder or reading
# mail does not change when it was saved.
# Happens: with Maildir both fail together. The time of saving is the file's ctime unless Dovecot has noted it, and a file is renamed when
# its folder is opened for the first time (new to cur) and with each new flag: it counts as saved now. And autoexpunge stops at the
# first message that is too young, so that one keeps all behind it. Opening a folder keeps all that is in it for the whole time
# again, reading a message keeps it and all later ones (only the very oldest has its time noted, by autoexpunge itself).
# `mail_always_cache_fields = date.save` notes it for each at delivery, and all go.
# Seen: Dovecot 2.3.19.1 (Debian 12), on filesystems where a rename sets the ctime, as ext4, XFS and Btrfs do.
# Why it matters: bounces and caught mail hold people's addresses and are promised to be gone after some days; looking at one now and
# then keeps them all, until the quota refuses new ones.
# Source: none found, MailboxSettings of Dovecot's documentation has neither; the stop is in src/lib-storage/mail-autoexpunge.c.

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

homes=(unopened opened second last noted sdbox)
for h in "${homes[@]}"; do   # each with its own mail and configuration
    format=maildir; further=
    [ "$h" != sdbox ] || format=sdbox
    [ "$h" != noted ] || further='mail_always_cache_fields = date.save'
    mkdir "$h"; mkdir -m 777 "$h/home"
    cat >"$h/conf" <<P
mail_location = $format:~/Mail
base_dir = $T/run
state_dir = $T/run
libexec_dir = $T/x/usr/lib/dovecot
mail_plugin_dir = $T/x/usr/lib/dovecot/modules
log_path = /dev/stderr
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
$further
namespace inbox {
  inbox = yes
  mailbox Caught {
    autoexpunge = 2s
  }
}
P
done
call() {   # home, doveadm or imap, arguments: for one user, without a running Dovecot
    program=$T/x/usr/lib/dovecot/imap; [ "$2" = imap ] || program=$T/x/usr/bin/$2
    timeout 20 "${as[@]}" env HOME="$T/$1/home" USER=nobody \
        "$T/x/usr/bin/doveconf" -c "$T/$1/conf" -f "service=$2" -m "$2" -e "$program" "${@:3}" 2>>err
}
session() { printf '%s\n' "${@:2}" 'z logout' | call "$1" imap >/dev/null; }

echo "version:  Dovecot $(timeout 10 "$T/x/usr/bin/doveconf" -n -c "$T/opened/conf" 2>/dev/null | sed -n 's/^# \([0-9.]*\) .*/\1/p' | head -1)"
echo "expected: none left in any: three messages of 3 s each, autoexpunge = 2s"
for h in "${homes[@]}"; do
    call "$h" doveadm mailbox create Caught
    for n in 1 2 3; do printf 'From: anna@example.org\nSubject: %s\n\nhi\n' $n | call "$h" doveadm save -m Caught; done
    [ "$h" = unopened ] || [ "$h" = opened ] || session "$h" 'a select Caught'
done
sleep 3
echo "seen:     left after the next IMAP session"
results=
ends() {   # home, what is done there, its commands
    session "$1" "${@:3}"
    session "$1"
    left=$(call "$1" doveadm fetch uid mailbox Caught | sed -n 's/uid: //p' | tr '\n' ' ')
    printf '  %-46s %s\n' "$2:" "${left:-none}"; results="$results|${left:-none}"
}
ends unopened 'Maildir, not opened before'
ends opened 'Maildir, opened' 'a select Caught' 'b unselect'
ends second 'Maildir, opened long ago, the second read' 'a select Caught' 'b store 2 +flags (\Seen)' 'c unselect'
ends last 'Maildir, opened long ago, the last read' 'a select Caught' 'b store 3 +flags (\Seen)' 'c unselect'
ends noted 'Maildir with date.save noted, the second read' 'a select Caught' 'b store 2 +flags (\Seen)' 'c unselect'
ends sdbox 'sdbox, the second read' 'a select Caught' 'b store 2 +flags (\Seen)' 'c unselect'
verdict "$results" '|none|1 2 3 |2 3 |3 |none|none'
