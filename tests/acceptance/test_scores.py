"""Scores of the hosts as the tools themselves give them (docs/hardening.md); each floor is what is reached."""

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
