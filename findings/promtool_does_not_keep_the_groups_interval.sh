#!/bin/bash
# One expects: `promtool test rules` evaluates each group of rules as Prometheus does: at the group's own interval, else at
# evaluation_interval.
# Happens: all groups are evaluated at the test file's evaluation_interval (1m if not given); the group's `interval` is not looked at. With
# group interval 6s and `for: 1s` the test passes "fires after 2 seconds"; Prometheus fires at the second evaluation, after 6.
# Seen: promtool and Prometheus 2.42.0 (Debian 12).
# Why it matters: costly or slow expressions (queue by provider, bounce rate of a day) are put into a group with a longer interval. Their
# tests say nothing about when the alert comes, nor whether a short peak is seen at all. Give such a group a test file of its own, with
# evaluation_interval as the group has it.
# Source: Prometheus' page on unit testing of rules has evaluation_interval without a word on groups; the code is (*testGroup).test() in
# cmd/promtool/unittest.go. The manual of VictoriaMetrics' vmalert-tool, which copies the format, names it as a limitation.

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

debs prometheus=2.42.0+ds-5+deb12u1
chmod 755 "$T"; mkdir -m 777 data
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
cat >rules.yml <<'P'
groups:
  - name: slow
    interval: 6s
    rules:
      - alert: QueueStuck
        expr: vector(1) > 0
        for: 1s
P
cat >prometheus.yml <<'P'
global:
  evaluation_interval: 1s
rule_files: [rules.yml]
P
fires() {   # evaluation_interval of the test file, time -> yes if the test that it fires then passes
    cat >test.yml <<P
rule_files: [rules.yml]
evaluation_interval: $1
tests:
  - interval: 1s
    input_series: []
    alert_rule_test:
      - eval_time: $2
        alertname: QueueStuck
        exp_alerts: [{exp_labels: {}}]
P
    if timeout 20 "$T/x/usr/bin/promtool" test rules test.yml >out 2>&1; then echo yes; else echo no; fi
}
cat >ask.py <<'P'
import json
import sys
import time
import urllib.request
from datetime import datetime

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
end = time.time() + 40
while time.time() < end:
    time.sleep(0.2)
    try:
        with opener.open(f'http://127.0.0.1:{sys.argv[1]}/api/v1/alerts', timeout=5) as reply:
            alerts = json.load(reply)['data']['alerts']
    except OSError:
        continue
    if alerts and alerts[0]['state'] == 'firing':
        since = datetime.fromisoformat(alerts[0]['activeAt'][:26] + '+00:00').timestamp()
        print(round(time.time() - since))
        break
P
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
timeout 90 "${as[@]}" "$T/x/usr/bin/prometheus" --config.file=prometheus.yml --storage.tsdb.path=data \
    --web.listen-address="127.0.0.1:$port" >log 2>&1 &
pids=$!
seconds=$(timeout 60 python3 ask.py "$port")
soon=$(fires 1s 2s) group=$(fires 6s 2s) group_late=$(fires 6s 6s)
late=no; [ "${seconds:-0}" -lt 5 ] || [ "$seconds" -gt 8 ] || late=yes
echo "version:  $(timeout 10 "$T/x/usr/bin/promtool" --version 2>&1 | sed -n '1s/ (.*//p')"
echo "expected: not fired after 2 seconds in the test either"
echo "seen:"
echo "  Prometheus, evaluation_interval 1s: fires after ${seconds:-more than 40} seconds"
echo "  promtool, evaluation_interval 1s:   fired after 2 seconds: $soon"
echo "  promtool, evaluation_interval 6s:   fired after 2 seconds: $group, after 6: $group_late"
verdict "$late $soon $group $group_late" 'yes yes no yes'
