#!/bin/bash
# One expects: of several recipients in one mail those get it whom the server takes, and the caller learns of the refused ones, as with
# Python's smtplib.
# Happens: PEAR's Mail with the driver smtp (Net_SMTP) ends at the first refused recipient, resets the transaction and returns an error:
# nobody gets the mail, those accepted before and those behind included.
# Seen: PEAR Mail 1.4.1, Net_SMTP 1.10.1 (Debian 12).
# Why it matters: CiviCRM mails by it, and To, Cc and Bcc are recipients of one transaction. An office address for copies of receipts that is
# mistyped, or whose domain is gone, costs every donor the receipt as soon as the mail server checks recipients at RCPT; with one
# that takes all and bounces later, or in tests with the driver mail or sendmail, donors get theirs.
# Source: none in PEAR's manual of Mail; the code is Mail_smtp::send(). RFC 5321, 3.3, leaves it to the client.

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

debs php8.2-cli=8.2.36-1~deb12u1 libargon2-1=0~20171227-0.3+deb12u1 libsodium23=1.0.18-1+deb12u1 \
    libxml2=2.9.14+dfsg-1.3~deb12u6 libicu72=72.1-3+deb12u1 \
    php-mail=1.4.1-1.1 php-net-smtp=1.10.1-1 php-net-socket=1.2.2-2 php-auth-sasl=1.1.0-1 php-pear=1:1.10.13+submodules+notgz+2022032202-2
cat >sink.py <<'P'
import socketserver


class Sink(socketserver.StreamRequestHandler):
    """A mail server on loopback that refuses recipients named gone and writes down who gets a mail."""

    def handle(self):
        recipients = []
        self.wfile.write(b'220 mx\r\n')
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word in (b'RSET', b'MAIL'):
                recipients = []
            if word == b'RCPT' and b'<gone@' in line:
                self.wfile.write(b'550 5.1.1 unknown\r\n')
                continue
            if word == b'RCPT':
                recipients.append(line.split(b'<')[1].split(b'@')[0].decode())
            if word == b'DATA':
                self.wfile.write(b'354 go\r\n')
                list(iter(self.rfile.readline, b'.\r\n'))
                with open('got', 'a') as file:
                    file.write(','.join(recipients))
            self.wfile.write(b'221 bye\r\n' if word == b'QUIT' else b'250 ok\r\n')
            if word == b'QUIT':
                return


server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Sink)
with open('port', 'w') as file:
    file.write(str(server.server_address[1]))
server.serve_forever()
P
cat >send.php <<'P'
<?php
error_reporting(E_ALL & ~E_DEPRECATED);
require 'Mail.php';
$mailer = Mail::factory('smtp', ['host' => '127.0.0.1', 'port' => (int) $argv[1], 'localhost' => 'crm.example.org', 'timeout' => 10]);
$sent = $mailer->send(array_slice($argv, 2), ['From' => 'office@example.org', 'Subject' => 'Receipt'], "Thank you\n");
echo $sent === true ? '' : 'error: ' . strtok($sent->getMessage(), '['), "\n";
P
cat >send.py <<'P'
import smtplib
import sys

with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='crm', timeout=10) as client:
    refused = client.sendmail('office@example.org', sys.argv[2:], 'Subject: Receipt\r\n\r\nThank you\r\n')
print('refused: ' + ' '.join(refused) if refused else '')
P
timeout 60 python3 sink.py & pids=$!
for _ in $(seq 50); do [ -s port ] && break; sleep 0.1; done
port=$(cat port) php=$T/x/usr/bin/php8.2
libraries=$(echo "$T"/x/usr/lib/*-linux-gnu)
results=
try() {   # recipients: who gets the mail by either client
    for client in PEAR smtplib; do
        rm -f got
        if [ $client = PEAR ]
        then said=$(LD_LIBRARY_PATH=$libraries timeout 20 "$php" -n -d include_path="$T/x/usr/share/php" send.php "$port" "$@")
        else said=$(timeout 20 python3 send.py "$port" "$@"); fi
        got=$(cat got 2>/dev/null || echo nobody)
        printf '  %-52s %-8s to %-11s %s\n' "$*" "$client" "$got" "$said"
        results="$results $got"
    done
}
echo "version:  PEAR Mail $(dpkg-deb -f debs/php-mail_*.deb Version), Net_SMTP $(dpkg-deb -f debs/php-net-smtp_*.deb Version)"
echo "expected: the mail goes to anna each time"
echo "seen:"
try anna@example.net office@example.org
try anna@example.net gone@example.org
try gone@example.org anna@example.net
verdict "$results" ' anna,office anna,office nobody anna nobody anna'
