"""Scores of the hosts as the tools themselves give them (docs/hardening.md); each floor is what is reached."""

import json
import re
import subprocess

import pytest
from exposure import limit, overall

HOSTS = ["crm_int", "crm_ext"]


@pytest.fixture(params=HOSTS)
def host(request):
    return request.getfixturevalue(request.param)


def test_no_unit_is_more_exposed_than_the_table_allows(host):
    """Those that run, and ours: all that a playbook wrote, whether it runs now or not."""
    units = host.check_output(
        "{ systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1;"
        " find /etc/systemd/system -maxdepth 1 -type f -name '*.service' -printf '%f\\n' | sed 's/@[.]/@x./';"
        " } | sort -u"
    ).split()
    assert len(units) >= 20
    found = overall(host.check_output(f"systemd-analyze security --no-pager {' '.join(units)}"))
    assert set(found) == set(units)
    assert {unit: figure for unit, figure in found.items() if figure > limit(unit)} == {}


def test_ssh_audit_finds_no_weak_algorithm(host):
    """Nothing fails; curve25519 warns, since quantum computers may break it, and stays for older clients."""
    address = host.check_output("ip -4 -o address show scope global dev eth0").split()[3].split("/")[0]
    command = ["ssh-audit", "--json", "--skip-rate-test", address]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    notes = {
        (level, algorithm["algorithm"])
        for kind in ("kex", "key", "enc", "mac")
        for algorithm in found[kind]
        for level in ("fail", "warn")
        if algorithm.get("notes", {}).get(level)
    }
    assert len(found["kex"]) >= 2
    assert notes <= {("warn", "curve25519-sha256"), ("warn", "curve25519-sha256@libssh.org")}


def test_the_kernel_withholds_what_the_file_says(host):
    """Where the host's kernel is its own; a container sees the values of the machine."""
    wanted = re.findall(r"^-?([a-z]\S+) = (.+)$", host.file("/etc/sysctl.d/60-civicrm.conf").content_string, re.M)
    assert len(wanted) >= 30
    if host.run("test -w /proc/sys/net").rc != 0:
        assert host.check_output("systemctl show -P ConditionResult systemd-sysctl") == "no"
        return
    if host.file("/usr/lib/sysctl.d/99-protect-links.conf").exists:
        # Debian 12's, which is read later.
        wanted = [(name, value) for name, value in wanted if name != "fs.protected_fifos"]
    has = {name: host.run(f"sysctl -n {name}") for name, _ in wanted}
    assert {name: run.stdout.strip() for name, run in has.items() if run.rc == 0} | dict(wanted) == dict(wanted)


def test_no_service_may_leave_a_core_dump(host):
    units = host.check_output("systemctl list-units --type=service --state=running --plain --no-legend").splitlines()
    names = " ".join(line.split()[0] for line in units)
    limits = host.check_output(f"systemctl show -P LimitCORE {names}").split()
    assert len(limits) >= 10
    assert set(limits) == {"0"}
