#!/bin/bash
# One expects: two textfiles that `promtool check metrics` passes, one metric with its own label in each, are both served by the node
# exporter; or node_textfile_scrape_error, which one has an alert on, is 1.
# Happens: if the two HELP texts differ, or one file has a TYPE and the other none, the samples of the file that is read second are
# dropped. The answer is 200, node_textfile_scrape_error 0, node_textfile_mtime_seconds fresh for both. One line in the log tells, and
# promhttp_metric_handler_errors_total, which such exporters do not often have an alert on.
# Seen: prometheus-node-exporter 1.5.0 (Debian 12) here. 1.9.0 of Debian 13 drops them too, but sets node_textfile_scrape_error.
# Why it matters: programs that each write a file (queues, backups, a site each) share names by design. A better wording of HELP in a new
# release of one, still to reach the other, makes the other's metric disappear, and an alert on a threshold never fires again.
# Source: github.com/prometheus/node_exporter issues 1885 and 2317, pull request 2962.

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

debs prometheus-node-exporter=1.5.0-1+b6 prometheus=2.42.0+ds-5+deb12u1
exporter=$T/x/usr/bin/prometheus-node-exporter
mkdir text
cat >get.py <<'P'
import sys
import urllib.request

with urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/metrics', timeout=5) as answer:
    open('metrics', 'wb').write(answer.read())
    print(answer.status)
P
results=
try() {   # what, head of the first file, head of the second -> passed by promtool, HTTP status, samples served, files with an error
    printf '%s\nmail_queue_messages{site="one"} 1\n' "$2" >text/one.prom
    printf '%s\nmail_queue_messages{site="two"} 2\n' "$3" >text/two.prom
    passed=0
    for f in one two; do if timeout 20 "$T/x/usr/bin/promtool" check metrics <text/$f.prom >out 2>&1; then passed=$((passed + 1)); fi; done
    timeout 30 "$exporter" --collector.disable-defaults --collector.textfile --collector.textfile.directory="$T/text" \
        --web.listen-address="127.0.0.1:$port" >log 2>&1 & pids=$!
    status=none
    for _ in $(seq 50); do
        status=$(timeout 10 python3 get.py "$port" 2>/dev/null) && break
        sleep 0.1
    done
    kill "$pids"; wait "$pids" || :; pids=
    served=$(sed -n 's/^mail_queue_messages{site="\(.*\)"} .*/\1/p' metrics | paste -sd+)
    fresh=$(grep -c ^node_textfile_mtime_seconds metrics) error=$(sed -n 's/^node_textfile_scrape_error //p' metrics)
    printf '  %-22s promtool passes %s, HTTP %s, served: %-8s scrape_error: %s, fresh files: %s\n' "$1" "$passed" "$status" "$served" "$error" "$fresh"
    sed -n 's/.*\(has help .*\|should be a .*\)/      log: \1/p' log
    results="$results $passed/$status/$served/$error/$fresh"
}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
help='# HELP mail_queue_messages Messages in the queue.'
type='# TYPE mail_queue_messages gauge'
echo "version:  $("$exporter" --version 2>&1 | sed -n 's/^\(node_exporter, version [^ ]*\).*/\1/p')"
echo "expected: both sites served, or scrape_error 1"
echo "seen:"
try 'the same HELP and TYPE' "$help
$type" "$help
$type"
try 'another HELP' "$help
$type" "# HELP mail_queue_messages Messages that wait in the queue.
$type"
try 'no TYPE in the second' "$help
$type" "$help"
verdict "$results" ' 2/200/one+two/0/2 2/200/one/0/2 2/200/one/0/2'
