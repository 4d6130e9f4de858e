#!/bin/bash
# One expects: rsyslog's %programname% is the name in front of the process ID: of `postfix/bulk/smtp[12]:` postfix/bulk/smtp; and that
# app-name, which RFC 5424 brought, is so in either format.
# Happens: programname ends at the first slash, postfix, whatever the transport; a filter on it for postfix/bulk/smtp never matches, and
# `rsyslogd -N1` has nothing to say to it. app-name of a line in the old format, as syslog(3) writes it, is that too; in the new one it is whole.
# syslogtag has all. `global(parser.permitSlashInProgramName="on")` makes it as one expects.
# Seen: rsyslog 8.2302.0 (Debian 12).
# Why it matters: syslog_name = postfix/bulk is how Postfix marks the transports of a mass mailing, so that their log may go into a file or to a
# counter of its own. The rule that does it by programname leaves that file empty; on a quiet host this looks as if nothing was sent.
# Source: rsyslog's manual, Properties, has it under programname, and nothing on lines in the old format under app-name.

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

debs rsyslog=8.2302.0-1+deb12u2 libestr0=0.1.11-1 libfastjson4=1.2304.0-1
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
modules=$LD_LIBRARY_PATH/rsyslog
results=
try() {   # title, global setting -> the properties of either line, and what a filter by programname catches
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    rm -f all bulk
    cat >conf <<P
global(workDirectory="$T" $2)
module(load="$modules/imptcp")
input(type="imptcp" port="$port" address="127.0.0.1")
template(name="t" type="string" string="programname %programname%, app-name %app-name%, syslogtag %syslogtag%\n")
action(type="omfile" file="$T/all" template="t")
if \$programname == "postfix/bulk/smtp" then action(type="omfile" file="$T/bulk" template="t")
P
    check=0; timeout 20 "$T/x/usr/sbin/rsyslogd" -N1 -f conf -M "$modules" >out 2>&1 || check=$?
    timeout 30 "$T/x/usr/sbin/rsyslogd" -n -f conf -i "$T/pid" -M "$modules" >log 2>&1 & pids=$!
    timeout 20 python3 - "$port" <<'P'
import socket
import sys
import time

for _ in range(100):
    try:
        client = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5)
        break
    except OSError:
        time.sleep(0.1)
client.sendall(b'<22>Nov 29 10:00:00 crm postfix/bulk/smtp[12]: 4A1: status=sent\n'
               b'<22>1 2026-11-29T10:00:00Z crm postfix/bulk/smtp 12 - - 4A2: status=sent\n')
client.close()
P
    for _ in $(seq 100); do [ "$(grep -c '' all 2>/dev/null)" = 2 ] && break; sleep 0.1; done
    kill "$pids"; wait "$pids" || :; pids=
    caught=$(if [ -e bulk ]; then wc -l <bulk; else echo 0; fi)
    echo "  $1 (check: exit $check)"; sed 's/^/    /' all; echo "    caught by the filter: $caught of 2"
    results="$results $check/$caught/$(sed 's/.*app-name \([^,]*\),.*/\1/' all | tr '\n' ' ')"
}
echo "version:  $(timeout 10 "$T/x/usr/sbin/rsyslogd" -v | sed -n '1s/ (.*//p')"
echo "expected: both caught each time"
echo "seen:"
try 'default' ''
try 'slash permitted' 'parser.permitSlashInProgramName="on"'
verdict "$results" ' 0/0/postfix postfix/bulk/smtp  0/2/postfix/bulk/smtp postfix/bulk/smtp '
