#!/bin/bash
# One expects: `local-data: "example.org. A 10.0.0.1"` gives the name another address here, and leaves the rest of it to DNS.
# Happens: the other types of that name are answered as if there were none, without an error: MX, the TXT records of SPF and of proofs of
# ownership, AAAA, CAA. Names below it are resolved as before. `local-zone: "example.org." typetransparent` in front of it does what one
# expects.
# Seen: unbound 1.17.1 (Debian 12).
# Why it matters: the private side of a CiviCRM host is reached under its public name, so the resolver behind IPsec gets such a line. If the
# name is a mail domain too, mail to it leaves by the A record, to the web server, and one's own checks of SPF see none.
# Source: unbound.conf(5), local-zone: transparent, which such a line makes by default, and typetransparent.

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

debs unbound=1.17.1-2+deb12u4 libevent-2.1-7=2.1.12-stable-8+deb12u1 libprotobuf-c1=1.4.1-1+b1 libnghttp2-14=1.52.0-1+deb12u3 \
    libpython3.11=3.11.2-6+deb12u9
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
cat >ask.py <<'P'
import socket
import struct
import sys
import time


def ask(port, name, kind):
    """Number of answers of a type, and the response code; None if nobody listens yet."""
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.')) + b'\0'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect(('127.0.0.1', port))
        try:
            client.send(struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels + struct.pack('>2H', kind, 1))
            reply = client.recv(4096)
        except OSError:
            return None
    flags, _, count = struct.unpack('>3H', reply[2:8])
    return count, flags & 15


TYPES = {'A': 1, 'MX': 15, 'TXT': 16, 'AAAA': 28}
port = int(sys.argv[1])
for _ in range(50):
    if ask(port, 'example.org', 1):
        break
    time.sleep(0.1)
words = []
for name in ('example.org', 'www.example.org'):
    for kind, number in TYPES.items():
        count, code = ask(port, name, number) or (0, 'none')
        words.append(f'{kind}:{count}' if code == 0 else f'{kind}:error {code}')
print(' '.join(words))
P
resolver() {   # name; its part of the configuration from standard input -> its port in $port
    port=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    { cat <<P
server:
    username: ""
    chroot: ""
    directory: "$T"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    do-not-query-localhost: no
    module-config: "iterator"
    interface: 127.0.0.1@$port
P
        cat; } >"$1.conf"
    timeout 10 "$T/x/usr/sbin/unbound-checkconf" "$1.conf" >>log 2>&1
    timeout 60 "$T/x/usr/sbin/unbound" -c "$1.conf" >>log 2>&1 & pids="$pids $!"
}
resolver dns <<'P'
    local-zone: "example.org." static
    local-data: "example.org. A 192.0.2.1"
    local-data: "example.org. AAAA 2001:db8::1"
    local-data: "example.org. MX 10 mx.example.org."
    local-data: 'example.org. TXT "v=spf1 mx -all"'
    local-data: "www.example.org. A 192.0.2.1"
    local-data: "www.example.org. MX 10 mx.example.org."
    local-data: "www.example.org. AAAA 2001:db8::1"
    local-data: 'www.example.org. TXT "v=spf1 -all"'
P
dns=$port
results=
try() {   # title; lines of the configuration from standard input
    { cat; printf 'forward-zone:\n    name: "."\n    forward-addr: 127.0.0.1@%s\n' "$dns"; } >part
    n=$((${n:-0} + 1)); resolver "r$n" <part
    said=$(timeout 30 python3 ask.py "$port")
    printf '  %-28s %s\n' "$1" "$said"
    results="$results/$said"
}
echo "version:  unbound $(timeout 10 "$T/x/usr/sbin/unbound" -V 2>&1 | sed -n 's/^Version //p')"
echo "expected: each of the four types for both names"
echo "seen:     answers for example.org, then for www.example.org"
try 'nothing of its own:' </dev/null
try 'local-data:' <<'P'
    local-data: "example.org. A 10.0.0.1"
P
try 'and typetransparent:' <<'P'
    local-zone: "example.org." typetransparent
    local-data: "example.org. A 10.0.0.1"
P
all='A:1 MX:1 TXT:1 AAAA:1'
verdict "$results" "/$all $all/A:1 MX:0 TXT:0 AAAA:0 $all/$all $all"
