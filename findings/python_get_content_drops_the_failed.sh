#!/bin/bash
# One expects: for a part of a type that it has no handler for, get_content() of Python's EmailMessage gives the part's whole content, as
# it does for application/*; for the message/delivery-status of a bounce, all fields of the report.
# Happens: it gives the first group of fields only, that of the message: Reporting-MTA, no Final-Recipient, Action or Status. No error, and
# what is given is a right beginning. The groups of the recipients are the part's payload from the second on.
# Seen: Python 3.11.2 (Debian 12); 3.13.0 does the same.
# Why it matters: a bounce reader written with the modern interface searches these bytes for Final-Recipient, finds none in any report and
# books nothing; the dead address gets the next newsletter as well. `for group in part.get_payload()[1:]` reads the report.
# Source: raw_data_manager under email.contentmanager in Python's manual promises the payload as bytes for such a type; that it is the
# first group is not in it, the code is get_and_fixup_unknown_message_content().

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

debs python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9
cat >show.py <<'P'
import email
import email.policy
import platform
import sys

REPORT = b"""From: MAILER-DAEMON@mx.example.net
To: b.12.3456.abc@bounces.example.org
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B"

--B
Content-Type: text/plain

It failed.

--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; anna@example.net
Action: failed
Status: 5.1.1

Final-Recipient: rfc822; bob@example.net
Action: failed
Status: 5.2.2

--B
Content-Type: application/octet-stream

Final-Recipient: not one

Final-Recipient: in a part of another type
--B--
"""


def recipients(text):
    return text.decode().count('Final-Recipient:')


message = email.message_from_bytes(REPORT, policy=email.policy.default)
report = next(part for part in message.walk() if part.get_content_type() == 'message/delivery-status')
other = next(part for part in message.walk() if part.get_content_type() == 'application/octet-stream')
counts = (recipients(report.get_content()), sum('Final-Recipient' in group for group in report.get_payload()),
          recipients(report.as_bytes()), recipients(other.get_content()))
print('version:  Python', platform.python_version())
print('expected: 2 recipients by get_content(), as by the other ways')
print('seen:')
print('  get_content() of the report:', repr(report.get_content().decode()))
for way, count in zip(('get_content()', 'get_payload()', 'as_bytes()', 'get_content() of application/octet-stream'), counts, strict=True):
    print(f'  {way:42} {count}')
print(*counts, file=sys.stderr)
P
PYTHONHOME=$T/x/usr timeout 60 "$T/x/usr/bin/python3.11" -s show.py 2>got
verdict "$(tail -1 got)" '0 2 2 2'
