"""The internal host's mail roles on Debian 12 (P21); their promises stand in tests/acceptance."""

import pytest


def test_the_host_is_debian_12_with_its_own_versions(crm_int):
    """Green on Debian 13 once more would say nothing."""
    assert crm_int.system_info.release.split(".")[0] == "12"
    assert crm_int.check_output("dovecot --version").startswith("2.3.")
    assert crm_int.check_output("postconf -h mail_version").startswith("3.7.")
    assert crm_int.check_output("python3 --version").startswith("Python 3.11.")


def test_every_unit_runs(crm_int, eventually):
    """A host with a failed unit is a host somebody must look at."""
    eventually(lambda: crm_int.check_output("systemctl list-units --failed --plain --no-legend") == "", within=60)


@pytest.mark.parametrize("name", ["exim4-daemon-light", "exim4-base"])
def test_no_other_mail_server_came_along(crm_int, name):
    """Debian's cron recommends one, and it would take port 25 before Postfix."""
    assert not crm_int.package(name).is_installed
