"""Every daemon of both hosts comes back after SIGKILL, however often it is killed (N33)."""

import pytest

# systemd's default limit is five starts in ten seconds.
ROUNDS = 7
INT = [
    "apache2", "bounce-breaker", "cron", "dovecot", "mariadb", "mtail", "opendkim", "php-fpm-crm", "php7.4-fpm",
    "postfix", "postfix-pace", "prometheus-node-exporter", "redis-server@queue", "rsyslog", "ssh", "strongswan",
    "unbound",
]  # fmt: skip
EXT = [
    "apache2", "cron", "fail2ban", "php-fpm-donate-api", "php8.4-fpm", "postfix", "prometheus-node-exporter", "rsyslog",
    "ssh", "strongswan", "unbound",
]  # fmt: skip

# Kills every unit's main process, and waits until each has another one, for so many rounds. Prints who stays dead.
KILL = r"""
import os, signal, subprocess, sys, time
rounds, units = int(sys.argv[1]), [unit + ".service" for unit in sys.argv[2:]]
def pids():
    shown = subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", *units], capture_output=True, text=True)
    return dict(zip(units, map(int, shown.stdout.split()), strict=True))
for number in range(rounds):
    before = pids()
    for pid in before.values():
        if pid:
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while dead := [unit for unit, pid in pids().items() if pid in (0, before[unit])]:
        if time.monotonic() > deadline:
            sys.exit(f"round {number + 1}: not back: {' '.join(dead)}")
        time.sleep(0.2)
"""


def failed_daemons(host) -> list[str]:
    """A job that a timer began while MariaDB was dead stays failed until the timer's next time."""
    failed = host.check_output("systemctl list-units --failed --no-legend --plain | cut -d' ' -f1").split()
    return [unit for unit in failed if host.check_output(f"systemctl show -p Type --value {unit}") != "oneshot"]


@pytest.mark.mutates
@pytest.mark.parametrize("name", ["crm_int", "crm_ext"])
def test_a_killed_daemon_comes_back_again_and_again(name, request, eventually):
    """On Debian Dovecot, PHP-FPM and Postfix stay dead, and Apache and Unbound after the sixth time."""
    host, units = request.getfixturevalue(name), INT if name == "crm_int" else EXT
    done = host.run("python3 -c %s " + f"{ROUNDS} {' '.join(units)}", KILL)
    assert done.rc == 0, done.stderr
    assert eventually(lambda: failed_daemons(host) == [], within=60)
    assert eventually(lambda: host.run("systemctl is-active " + " ".join(units)).rc == 0, within=30)
