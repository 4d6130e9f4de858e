#!/bin/bash
# One expects: smtplib's send_message() sends the bytes that the message's as_bytes() gives, with CRLF; it is what the manual advises.
# Happens: it writes each line of the body that begins with "From " as ">From ", as mbox files need it; whatever the message's policy says,
# EmailMessage with mangle_from_ False included. as_bytes() does not, sendmail(message.as_bytes()) is spared.
# Seen: Python 3.11.2 and dkimpy 1.1.4 (Debian 12); 3.13.0 does the same.
# Why it matters: a program that signs a mail and hands it on, or takes one from a spool and sends it again, breaks DKIM for exactly the mails
# with such a line ("From next month on ..."). Tests pass, some issues of a newsletter fail DMARC everywhere.
# Source: github.com/python/cpython issue 89462, open. In Python's manual mangle_from_ is in email.policy and email.generator; smtplib has
# nothing of it.

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

debs python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9 python3-dkim=1.1.4-1
openssl genrsa -out key.pem 2048 2>/dev/null
openssl rsa -in key.pem -pubout -outform DER -out key.der 2>/dev/null
cat >show.py <<'P'
import base64
import email
import email.policy
import platform
import smtplib
import socketserver
import sys
import threading

import dkim

KEY = b'v=DKIM1; p=' + base64.b64encode(open('key.der', 'rb').read())
got = []


class Sink(socketserver.StreamRequestHandler):
    """A mail server on loopback that keeps what it gets, without the dots of the transport."""

    def handle(self):
        self.wfile.write(b'220 mx\r\n')
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word == b'DATA':
                self.wfile.write(b'354 go\r\n')
                got.append(b''.join(b[b.startswith(b'.'):] for b in iter(self.rfile.readline, b'.\r\n')))
            self.wfile.write(b'221 bye\r\n' if word == b'QUIT' else b'250 ok\r\n')
            if word == b'QUIT':
                return


def signed(text):
    mail = b'From: news@example.org\r\nTo: anna@example.net\r\nSubject: News\r\n\r\nDear Anna,\r\n' + text + b'\r\n'
    return dkim.sign(mail, b's', b'example.org', open('key.pem', 'rb').read()) + mail


def send(mail, policy, with_send_message):
    message = email.message_from_bytes(mail, policy=policy)
    with smtplib.SMTP('127.0.0.1', server.server_address[1], local_hostname='crm', timeout=10) as client:
        if with_send_message:
            client.send_message(message)
        else:
            client.sendmail('news@example.org', 'anna@example.net', message.as_bytes())
    return 'pass' if dkim.verify(got[-1], dnsfunc=lambda *_, **__: KEY) else 'FAIL'


server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Sink)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print('version:  Python', platform.python_version())
print('expected: DKIM passes everywhere')
print('seen:')
results = []
for text in (b'in May we move.', b'From May on we live elsewhere.'):
    mail = signed(text)
    for name, policy in (('compat32', email.policy.compat32), ('SMTP', email.policy.SMTP.clone(refold_source='none'))):
        row = [send(mail, policy, True), send(mail, policy, False)]
        print(f'  {text.decode():32} {name:9} send_message(): {row[0]}   sendmail(as_bytes()): {row[1]}')
        results += row
print(*results, file=sys.stderr)
P
PYTHONHOME=$T/x/usr PYTHONPATH=$T/x/usr/lib/python3/dist-packages timeout 60 "$T/x/usr/bin/python3.11" -s show.py 2>got || { cat got; exit 2; }
verdict "$(tail -1 got)" 'pass pass pass pass FAIL pass FAIL pass'
