#!/bin/bash
# One expects: `opendkim -n` ("parse the configuration file ... and then exit"), run before a restart, looks at that file alone, and so
# may be run before the tables are there; or it looks at them too, and finds what keeps mail from being signed.
# Happens: neither. It opens the tables: a KeyTable, SigningTable or InternalHosts not there yet makes a right configuration fail
# with 78. But it reads no keys and follows no references: a private key that does not exist, a SigningTable entry whose key
# the KeyTable lacks, and a KeyTable line without a key pass with 0, and the daemon starts with them. The first message tells.
# Seen: OpenDKIM 2.11.0-beta2 (Debian 12).
# Why it matters: a deployment that checks the configuration before it writes the tables is refused for nothing, and one that
# trusts the check learns from the newsletter itself that a domain has no key.
# Source: opendkim(8), -n: 0 "if the filter would start up without complaint", which is all that it tells.

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

debs opendkim=2.11.0~beta2-8+deb12u1 libopendkim11=2.11.0~beta2-8+deb12u1 libvbr2=2.11.0~beta2-8+deb12u1 \
    librbl1=2.11.0~beta2-8+deb12u1 libmilter1.0.1=8.17.1.9-2+deb12u2 libopendbx1=1.4.6-16+b1 libmemcached11=1.1.4-1 \
    libhashkit2=1.1.4-1 liblua5.3-0=5.3.6-2 libbsd0=0.11.7-2 libevent-2.1-7=2.1.12-stable-8 libunbound8=1.17.1-2+deb12u4 \
    libldap-2.5-0=2.5.13+dfsg-5 libsasl2-2=2.1.28+dfsg-10
LD_LIBRARY_PATH="$(echo "$T"/x/usr/lib/*-linux-gnu):$T/x/usr/lib"
export LD_LIBRARY_PATH
dkim=$T/x/usr/sbin/opendkim

fresh() {
    openssl genrsa -out key.pem 2048 2>/dev/null; chmod 600 key.pem
    echo "k example.org:s:$T/key.pem" >keys; echo '*@example.org k' >signing; echo 127.0.0.1 >hosts
    printf '%s\n' "Socket local:$T/sock" "KeyTable file:$T/keys" "SigningTable refile:$T/signing" "InternalHosts refile:$T/hosts" \
        "Mode s" "Syslog no" >conf
}
results=
try() {   # what, command that makes it so -> exit status of the check, and whether the daemon stays up for 2 s
    fresh; eval "$2"
    check=0; timeout 20 "$dkim" -n -x conf >out 2>&1 || check=$?
    start=0; timeout 2 "$dkim" -f -x conf >>out 2>&1 || start=$?
    [ "$start" = 124 ] && start=up || start=down
    printf '  %-46s -n: %-2s  daemon: %s\n' "$1" "$check" "$start"; results="$results $check/$start"
}
echo "version:  $(timeout 10 "$dkim" -V | head -1)"
echo "expected: 0 for the first line; 78 for the last three, or for none of the six"
echo "seen:"
try 'all is right' :
try 'KeyTable not there' 'rm keys'
try 'SigningTable not there' 'rm signing'
try 'InternalHosts not there' 'rm hosts'
try 'private key not there' 'rm key.pem'
try 'SigningTable names a key the KeyTable lacks' 'echo "*@example.org other" >signing'
try 'KeyTable line without selector and key' 'echo "k example.org" >keys'
verdict "$results" " 0/up 78/down 78/down 78/down 0/up 0/up 0/up"
