#!/bin/bash
# One expects: `swaks --data @FILE` sends the message in FILE as it is, so that a saved mail can be sent again, to see what a filter or a
# verifier of DKIM makes of it.
# Happens: backslash and n, two characters, become a line break, and words as %DATE%, %FROM_ADDRESS%, %TO_ADDRESS% are replaced, in headers and
# body, of a file with its own line breaks as well. --no-data-fixup keeps them, but then the file must have CRLF, doubled dots and the
# final dot itself: a plain file is never ended, and swaks waits for its reply until the timeout.
# Seen: swaks 20201014.0 (Debian 12).
# Why it matters: a letter template with %DATE%, a path as C:\news or code with "\n" is enough for another body: the verifier says that the
# signature fails, and one looks for the fault in the signer. A sender of a few lines of smtplib's sendmail() has no such rules.
# Source: swaks(1), --data: tokens, and \n in a value on one line; that it holds for files as well is under --no-data-fixup at most.

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

debs swaks=20201014.0-2
cat >sink.py <<'P'
import socketserver


class Sink(socketserver.StreamRequestHandler):
    """A mail server on loopback that keeps what it gets, without the dots of the transport; a mail without an end is kept as it came."""

    timeout = 4

    def handle(self):
        self.wfile.write(b'220 mx\r\n')
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word == b'DATA':
                self.wfile.write(b'354 go\r\n')
                with open('got', 'wb') as file:
                    try:
                        for body in iter(self.rfile.readline, b'.\r\n'):
                            file.write(body[body.startswith(b'.'):].replace(b'\r\n', b'\n'))
                            file.flush()
                    except TimeoutError:
                        return
            self.wfile.write(b'221 bye\r\n' if word == b'QUIT' else b'250 ok\r\n')
            if word == b'QUIT':
                return


server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Sink)
with open('port', 'w') as file:
    file.write(str(server.server_address[1]))
server.serve_forever()
P
cat >mail <<'P'
From: news@example.org
To: anna@example.net
Subject: News

Split the lines at \n, or see C:\news.
Dear %NAME%, as of %DATE% we move.
.hidden is a file.
P
timeout 90 python3 sink.py & pids=$!
for _ in $(seq 50); do [ -s port ] && break; sleep 0.1; done
results=
try() {   # title, file, arguments -> what arrives instead of the file's lines
    rm -f got
    timeout 30 perl "$T/x/usr/bin/swaks" --server "127.0.0.1:$(cat port)" --helo crm.example.org --from news@example.org --to anna@example.net \
        --timeout 3 --data "@$T/$2" "${@:3}" >out 2>&1 || :
    sleep 0.2
    lost=$(grep -cvxFf got mail || :) other=$(grep -vxFf mail got || :)
    echo "  $1 $lost of 7 lines did not arrive${other:+, but:}"; [ -z "$other" ] || printf '%s\n' "$other" | sed 's/^/      /'
    results="$results $lost/$(printf '%s' "$other" | grep -c '' || :)"
}
sed 's/^\./../; s/$/\r/' mail >wire; printf '.\r\n' >>wire
echo "version:  $(timeout 10 perl "$T/x/usr/bin/swaks" --version | sed -n 1p)"
echo "expected: all lines, no others"
echo "seen:"
try '--data @FILE:' mail
try '--data @FILE --no-data-fixup:' mail --no-data-fixup
try 'the same, with CRLF, dots and the end in the file:' wire --no-data-fixup
verdict "$results" ' 2/4 1/2 0/0'
