#!/bin/bash
# One expects: a signer that signs List-Unsubscribe by default, since RFC 6376 recommends it, signs List-Unsubscribe-Post with it: RFC
# 8058 asks for a DKIM signature over both, or there is no one-click unsubscription.
# Happens: neither OpenDKIM nor dkimpy does. Both take the list of 2011 (RFC 6376, 5.4.1), which is older than that header (2017). The
# message passes every check of DKIM, SPF and DMARC.
# Seen: OpenDKIM 2.11.0-beta2 (Debian 12), dkimpy 1.1.8 (PyPI).
# Why it matters: the big providers ask bulk senders for one-click, and need not show the button, or may count the sender as one
# without, if its header is not signed; all tests of the signer are green. OpenDKIM: SignHeaders *,+List-Unsubscribe-Post.
# Source: opendkim.conf(5), SignHeaders, refers to RFC 6376; RFC 8058, 4.

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
timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" dkimpy==1.1.8 dnspython==2.9.2 >pip.log 2>&1 ||
    { cat pip.log; echo "a pinned version is not served any more: dkimpy==1.1.8"; exit 1; }
libraries="$(echo "$T"/x/usr/lib/*-linux-gnu):$T/x/usr/lib"
opendkim=$T/x/usr/sbin/opendkim

openssl genrsa -out key.pem 2048 2>/dev/null; chmod 600 key.pem
echo "k example.org:s:$T/key.pem" >keys; echo '*@example.org k' >signing; echo 127.0.0.1 >hosts
configure() {   # further line -> a signer of nothing but defaults and that
    printf '%s\n' "Socket local:$T/sock" "KeyTable file:$T/keys" "SigningTable refile:$T/signing" "InternalHosts refile:$T/hosts" \
        "Mode s" "Syslog no" "RequireSafeKeys no" "$1" >conf   # the temporary directory lies in one that all can write
}
cat >sign.py <<'P'
"""Let a signer sign a newsletter; print the headers that its signature covers."""
import re
import socket
import struct
import sys

HEADERS = {'From': 'news@example.org', 'To': 'anna@example.com', 'Subject': 'News', 'Date': 'Mon, 2 Mar 2026 10:00:00 +0000',
           'Message-ID': '<1@example.org>', 'List-Id': '<news.example.org>', 'List-Unsubscribe': '<https://example.org/u?1>',
           'List-Unsubscribe-Post': 'List-Unsubscribe=One-Click', 'MIME-Version': '1.0', 'Content-Type': 'text/plain'}


def by_milter(path):
    """As an MTA speaks to it: each command is answered; the signature is inserted at the end."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(path)
        stream = peer.makefile('rb')

        def say(command, *words, answered=True, raw=b''):
            data = command + raw + b''.join(w.encode() + b'\0' for w in words)
            peer.sendall(struct.pack('!I', len(data)) + data)
            return answer() if answered else b''

        def answer():
            return stream.read(struct.unpack('!I', stream.read(4))[0])

        say(b'O', raw=struct.pack('!III', 6, 0x1ff, 0))
        say(b'C', raw=b'localhost\0' + b'4' + struct.pack('!H', 25) + b'127.0.0.1\0')
        say(b'D', 'i', 'queueid', raw=b'M', answered=False)
        say(b'M', '<news@example.org>')
        say(b'R', '<anna@example.com>')
        for name, value in HEADERS.items():
            say(b'L', name, value)
        say(b'N')
        say(b'B', raw=b'hi\r\n')
        reply = say(b'E')
        while reply[:1] not in b'actr':
            if b'DKIM-Signature\0' in reply:
                return reply.decode()
            reply = answer()
        return ''


def by_dkimpy(path):
    import dkim
    mail = ''.join(f'{n}: {v}\r\n' for n, v in HEADERS.items()) + '\r\nhi\r\n'
    return dkim.sign(mail.encode(), b's', b'example.org', open(path, 'rb').read()).decode()


names = re.search(r'\bh=([^;]*);', {'milter': by_milter, 'dkimpy': by_dkimpy}[sys.argv[1]](sys.argv[2])).group(1)
signed = {n.strip().lower() for n in names.split(':')}
for name in HEADERS:
    if name.startswith('List-'):
        print(f'{name}: {"signed" if name.lower() in signed else "not signed"}')
P
results=
sign() {   # what, how, socket or key
    timeout 30 python3 sign.py "$2" "$3" >out 2>err || { cat err; exit 2; }
    printf '  %-34s %s\n' "$1" "$(paste -sd, out | sed 's/,/, /g')"; results="$results $(sed -n 's/^List-Unsubscribe.*: //p' out | paste -sd/)"
}
with_milter() {   # what, further line of the configuration
    configure "$2"; rm -f sock
    LD_LIBRARY_PATH=$libraries timeout 30 "$opendkim" -f -x conf & pids=$!
    for _ in $(seq 50); do [ -S sock ] && break; sleep 0.1; done
    sign "$1" milter sock
    kill "$pids"; wait "$pids" || :; pids=
}
echo "version:  $(LD_LIBRARY_PATH=$libraries timeout 10 "$opendkim" -V | head -1), dkimpy $(PYTHONPATH=$T/py python3 -c \
    'from importlib.metadata import version; print(version("dkimpy"))')"
echo "expected: List-Unsubscribe and List-Unsubscribe-Post alike"
echo "seen:"
with_milter 'OpenDKIM' ''
PYTHONPATH=$T/py sign dkimpy dkimpy key.pem
with_milter "OpenDKIM, *,+List-Unsubscribe-Post" 'SignHeaders *,+List-Unsubscribe-Post'
verdict "$results" ' signed/not signed signed/not signed signed/signed'
