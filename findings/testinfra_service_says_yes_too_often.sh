#!/bin/bash
# One expects: testinfra's host.service("dump").exists is true if there is a unit dump.service, and .is_enabled if something starts it.
# Happens: exists is true for any unit whose name begins so: it looks for the name, a regular expression without an end, in the list of unit
# files; dump-old.service or dump.timer is enough. is_enabled is true whenever `systemctl is-enabled` ends with 0, also for "static" and
# "indirect" units, which cannot be enabled or name another one for it: a service whose timer is disabled. For the timer it is right.
# Seen: pytest-testinfra 10.2.2, systemd 252 (Debian 12).
# Why it matters: the acceptance test "the nightly dump is there and enabled" stays green after the unit was renamed, and with a timer that was
# never enabled. Write names with their suffix, ask the timer, or read the word that `systemctl is-enabled` prints.
# Source: systemctl(1), is-enabled, has words and exit statuses; testinfra's page on Service has neither. The code of exists is a grep for
# "^NAME".

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

debs systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2
timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" pytest-testinfra==10.2.2 >pip.log 2>&1 ||
    { cat pip.log; echo "a pinned version is not served any more, or does not suit this Python: pytest-testinfra==10.2.2"; exit 1; }
units=$T/root/usr/lib/systemd/system
mkdir -p "$units" "$T/root/etc/systemd/system" bin
printf '[Service]\nExecStart=/bin/true\n' | tee "$units/dump.service" >"$units/restore-old.service"
printf '[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n' >"$units/dump.timer"
printf '[Service]\nExecStart=/bin/true\n[Install]\nAlso=dump.timer\n' >"$units/report.service"
printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >"$units/web.service"
cat >bin/systemctl <<P
#!/bin/sh
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu/systemd):$(echo "$T"/x/usr/lib/*-linux-gnu) exec $T/x/bin/systemctl --root=$T/root "\$@"
P
chmod 755 bin/systemctl
cat >show.py <<'P'
import sys
from importlib.metadata import version

import testinfra
from testinfra.modules.service import SystemdService

Service = type('Service', (SystemdService,), {'_host': testinfra.get_host('local://')})
print('version:  pytest-testinfra', version('pytest-testinfra'))
print('expected: restore does not exist; nothing is enabled')
print('seen:')
results = [Service('restore').exists, Service('absent').exists]
print(f'  restore, of which only restore-old.service is there: exists {results[0]};  absent: exists {results[1]}')
for name in ('dump.service', 'dump.timer', 'report.service', 'web.service'):
    word = Service('x').run('systemctl is-enabled %s', name).stdout.strip()
    results.append(Service(name).is_enabled)
    print(f'  {name:16} is-enabled says {word:10} is_enabled: {results[-1]}')
print(*results, file=sys.stderr)
P
PATH="$T/bin:$PATH" PYTHONPATH=$T/py timeout 60 python3 show.py 2>got || { cat got; exit 2; }
verdict "$(tail -1 got)" 'True False True False True False'
