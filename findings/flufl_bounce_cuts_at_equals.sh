#!/bin/bash
# One expects: flufl.bounce gives the failed recipient of an RFC 3464 report as the report names it.
# Happens: an address with `=` in it is cut there: `SRS0=x7Kq=ZZ=example.com=anna@forward.example` comes back as `srs0`, a VERP
# address as what stands before its first `=`. `=` is allowed in a local part (RFC 5322 atext) and reports do not quote it; the
# library reads Final-Recipient as a list of MIME parameters. No error: the result is a text without @ that looks like a local user.
# Seen: flufl.bounce 6.0.0 and 4.0.
# Why it matters: forwarded lists (SRS), BATV and other lists' return paths hold `=`; such a bounce is booked on nobody, or on
# whoever is called so, and the dead address gets every newsletter.
# Source: none; the code is flufl.bounce's detector for DSNs.

set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
trap 'exit 3' INT TERM

pips() {   # NAME==VERSION ...: into $T/py
    timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" "$@" >"$T/pip.log" 2>&1 ||
        { cat "$T/pip.log"; echo "a pinned version is not served any more, or does not suit this Python: $*"; exit 1; }
    cd "$T"
}
verdict() { if [ "$1" = "$2" ]; then echo "as described"; else echo "CHANGED: expected [$2], got [$1]"; exit 2; fi; }

pips flufl.bounce==6.0.0 atpublic==9.0.0
cat >show.py <<'P'
import email
import sys
from importlib.metadata import version

from flufl.bounce import all_failures

REPORT = """From: MAILER-DAEMON@mx.example.net
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B"

--B
Content-Type: text/plain

It failed.

--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; {}
Action: failed
Status: 5.1.1

--B--
"""
print('version:  flufl.bounce', version('flufl.bounce'))
print('expected: each address as the report names it')
print('seen:')
got = []
for address in ('anna@example.net', 'anna+news@example.net', 'list+anna=example.com@example.net',
                'SRS0=x7Kq=ZZ=example.com=anna@forward.example', 'prvs=1234abcdef=anna@example.net'):
    temporary, permanent = all_failures(email.message_from_string(REPORT.format(address)))
    found = ' '.join(sorted(f.decode() if isinstance(f, bytes) else f for f in permanent))
    print(f'  {address:50} -> {found}')
    got.append(found)
print('|'.join(got), file=sys.stderr)
P
PYTHONPATH=$T/py timeout 60 python3 show.py 2>got
verdict "$(tail -1 got)" 'anna@example.net|anna+news@example.net|list+anna|srs0|prvs'
