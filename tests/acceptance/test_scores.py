"""Scores of the hosts as the tools themselves give them (docs/hardening.md); each floor is what is reached."""

import json
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
