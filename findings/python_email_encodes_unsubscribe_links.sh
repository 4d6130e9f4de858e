#!/bin/bash
# One expects: a filter that reads a message with Python's `email` and writes it again leaves the headers that it does not touch as they
# were, at most folded at blanks; List-Unsubscribe above all, which is plain ASCII and has its own syntax.
# Happens: with the modern policies (email.policy.default, SMTP) every such header with a word of more than about 76 characters is
# written as an encoded word, =?utf-8?q?=3Chttps=3A//...?=, which no mail program takes for a link there: List-Unsubscribe, List-Archive,
# Feedback-ID, In-Reply-To, References, Return-Path, and the b= of DKIM-Signature. Only headers of known structure (To, Message-ID) are
# spared. With compat32, the default of message_from_bytes(), or refold_source='none' all stay.
# Seen: Python 3.11.2 (Debian 12) here, 3.13.5 of Debian 13 elsewhere.
# Why it matters: an unsubscribe link with a hash is always that long. A milter, pipe(8) filter or archiver in Python, written as the manual
# advises, takes the button away from all readers and breaks the signature; mails with short links in its tests pass.
# Source: email.policy in Python's manual, refold_source "long", has the folding; the encoding of ASCII is not in it.

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

SIGNATURE = 'MIIBCgKCAQEA' * 28
HEADERS = {
    'Message-ID': '<20260302100000.0123456789abcdef0123456789abcdef0123456789abcdef@news.example.org>',
    'List-Unsubscribe': '<https://news.example.org/civicrm/mailing/unsubscribe?reset=1&jid=12&qid=3456&h=0123456789abcdef>',
    'List-Unsubscribe-Post': 'List-Unsubscribe=One-Click',
    'In-Reply-To': '<20260301100000.0123456789abcdef0123456789abcdef0123456789abcdef@mail.example.com>',
    'Return-Path': '<b.12.3456.0123456789abcdef0123456789abcdef0123456789abcdef@bounces.news.example.org>',
    'DKIM-Signature': f'v=1; a=rsa-sha256; d=example.org; s=s;\r\n h=from; bh=4CAt7Q==; b={SIGNATURE}',
}
MAIL = ''.join(f'{name}: {value}\r\n' for name, value in HEADERS.items()).encode() + b'\r\nhi\r\n'


def same(name, policy):
    """Whether the header has its value again after reading and writing, however folded."""
    written = email.message_from_bytes(MAIL, policy=policy).as_bytes(policy=policy).decode()
    plain = email.message_from_string(written, policy=email.policy.compat32)[name]
    return ''.join(plain.split()) == ''.join(HEADERS[name].split()), ' '.join(plain.split())


policies = {'compat32': email.policy.compat32.clone(linesep='\r\n'), 'SMTP': email.policy.SMTP,
            'SMTP, none': email.policy.SMTP.clone(refold_source='none')}
print('version:  Python', platform.python_version())
print('expected: the same everywhere')
print('seen:     ' + ' ' * 24 + ''.join(f'{p:12}' for p in policies))
rows = []
for name in HEADERS:
    row = ['same' if same(name, p)[0] else 'ENCODED' for p in policies.values()]
    print(f'  {name:32}' + ''.join(f'{r:12}' for r in row))
    rows.append('/'.join(row))
print('  List-Unsubscribe: ' + same('List-Unsubscribe', email.policy.SMTP)[1][:90] + ' ...')
print(' '.join(rows), file=sys.stderr)
P
PYTHONHOME=$T/x/usr timeout 60 "$T/x/usr/bin/python3.11" -s show.py 2>got
verdict "$(tail -1 got)" 'same/same/same same/ENCODED/same same/same/same same/ENCODED/same same/ENCODED/same same/ENCODED/same'
