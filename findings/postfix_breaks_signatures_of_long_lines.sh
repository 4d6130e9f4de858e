#!/bin/bash
# One expects: an MTA hands on the body of a signed message as it is; a line that is too long is the receiver's to refuse.
# Happens: smtp(8) breaks lines above 998 bytes with CR LF SPACE when it delivers, after every milter and filter has seen (and signed)
# the message. The body hash no longer fits: DKIM fails at the receiver, and nothing in the sender's log says so.
# Seen: Postfix 3.7.11 (Debian 12) here, 3.10 of Debian 13 elsewhere.
# Why it matters: a newsletter as 8bit with one long HTML paragraph is enough. DMARC passes by SPF at the first receiver and hides it;
# whoever forwards, and every list of domains by DKIM (feedback loops), sees an unsigned mail.
# Source: postconf(5), smtp_line_length_limit, 0 switches it off; the effect on signatures is not in it.
# Needs root (master(8) does); one port on 127.0.0.1; the machine's users daemon and group games stand for Postfix' own.

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

[ "$(id -u)" = 0 ] || { echo "needs root"; exit 1; }
debs postfix=3.7.11-0+deb12u1 libicu72=72.1-3+deb12u1 libsasl2-2=2.1.28+dfsg-10
timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" dkimpy==1.1.8 dnspython==2.9.2 >pip.log 2>&1 ||
    { cat pip.log; echo "a pinned version is not served any more: dkimpy==1.1.8"; exit 1; }
LD_LIBRARY_PATH="$T/x/usr/lib/postfix:$(echo "$T"/x/usr/lib/*-linux-gnu)"
export LD_LIBRARY_PATH MAIL_CONFIG=$T/etc PYTHONPATH=$T/py
sbin=$T/x/usr/sbin daemons=$T/x/usr/lib/postfix/sbin
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

chmod 755 "$T"; mkdir etc q dat sink
cat >etc/main.cf <<P
compatibility_level = 3.6
maillog_file = $T/dat/log
maillog_file_prefixes = $T
mail_owner = daemon
setgid_group = games
queue_directory = $T/q
data_directory = $T/dat
command_directory = $sbin
daemon_directory = $daemons
shlib_directory = $T/x/usr/lib/postfix
meta_directory = $T/x/etc/postfix
import_environment = MAIL_CONFIG LD_LIBRARY_PATH
export_environment = MAIL_CONFIG LD_LIBRARY_PATH
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = crm.example.org
mydestination =
alias_maps =
relayhost = [127.0.0.1]:$port
disable_dns_lookups = yes
smtp_connection_cache_on_demand = no
P
while read -r name kind private wake limit command; do echo "$name $kind $private - n $wake $limit $command"; done >etc/master.cf <<'P'
pickup unix n 60 1 pickup
cleanup unix n - 0 cleanup
qmgr unix n 300 1 qmgr
rewrite unix - - - trivial-rewrite
bounce unix - - 0 bounce
defer unix - - 0 bounce
trace unix - - 0 bounce
smtp unix - - - smtp
error unix - - - error
retry unix - - - error
postlog unix-dgram n - 1 postlogd
P
(
    cd q
    mkdir -m 700 active bounce corrupt defer deferred flush hold incoming private saved trace
    mkdir -m 730 maildrop; mkdir -m 710 public; mkdir -m 755 pid
    chown daemon active bounce corrupt defer deferred flush hold incoming private saved trace maildrop public
    chgrp games maildrop public
)
chown daemon dat sink

cat >dk.py <<'P'
import base64
import glob
import subprocess
import sys

import dkim


def sign(size):
    body = b'<p>' + b'word ' * (size // 5) + b'</p>\r\n'
    head = ['From: news@example.org', 'To: anna@example.com', f'Subject: {size}', 'Date: Mon, 2 Mar 2026 10:00:00 +0000',
            f'Message-ID: <{size}@example.org>', 'MIME-Version: 1.0', 'Content-Type: text/html; charset=us-ascii']
    mail = '\r\n'.join(head).encode() + b'\r\n\r\n' + body
    mark = dkim.sign(mail, b's', b'example.org', open('key.pem', 'rb').read(), include_headers=[b'from', b'to', b'subject'],
                     canonicalize=(b'relaxed', b'relaxed'))
    open(f'sent.{size}', 'wb').write((mark + mail).replace(b'\r\n', b'\n'))


def check(name):
    der = subprocess.run(['openssl', 'rsa', '-in', 'key.pem', '-pubout', '-outform', 'DER'], capture_output=True).stdout
    mail = open(name, 'rb').read().replace(b'\r\n', b'\n')
    while mail.startswith(b'X-'):   # smtp-sink's own lines
        mail = mail.partition(b'\n')[2]
    mail = mail.replace(b'\n', b'\r\n')
    size = mail.partition(b'Subject: ')[2].partition(b'\r\n')[0].decode()
    try:
        result = 'pass' if dkim.verify(mail, dnsfunc=lambda *_, **__: b'v=DKIM1; k=rsa; p=' + base64.b64encode(der)) else 'fail'
    except dkim.ValidationError as error:
        result = f'fail ({error})'
    return f'{name.partition(".")[0]} {size}', max(map(len, mail.split(b'\r\n'))), result


if sys.argv[1] == 'sign':
    sign(int(sys.argv[2]))
else:
    rows = sorted((check(n) for n in glob.glob('sent.*') + glob.glob('sink/dump.*')), key=lambda r: (len(r[0]), r[0]))
    for name, longest, result in rows:
        print(f'  {name.replace("sink/dump", "received"):15} longest line {longest:4}  DKIM {result}')
    print(' '.join(r[2][:4] for r in rows), file=sys.stderr)
P
openssl genrsa -out key.pem 2048 2>/dev/null
for size in 300 1500; do timeout 20 python3 dk.py sign $size; done

timeout 60 "$sbin/smtp-sink" -u daemon -d "$T/sink/dump." 127.0.0.1:"$port" 10 & pids=$!
timeout 60 "$daemons/master" -c "$T/etc" -d & pids="$pids $!"
for _ in $(seq 50); do [ -S q/public/pickup ] && break; sleep 0.1; done
for size in 300 1500; do timeout 20 "$sbin/sendmail" -C "$T/etc" -f news@example.org anna@example.com <sent.$size; done
for _ in $(seq 100); do [ "$(grep -c status=sent dat/log 2>/dev/null || :)" = 2 ] && break; sleep 0.2; done

echo "version:  Postfix $("$sbin/postconf" -d -h mail_version)"
echo "expected: DKIM pass four times"
echo "seen:"
timeout 20 python3 dk.py check 2>got
echo "  log: $(grep -o 'dsn=.*status=sent.*' dat/log | sort | uniq -c | sed 's/^ *//' | tr '\n' ';')"
verdict "$(tail -1 got)" 'pass pass pass fail'
