"""Which daemons are asked for their certificates, and what asks them (P15)."""

import json

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from loading import ROOT, load

from civicrm_tools.host import certificate_expiry

sites = load("plugins/filter/sites.py")


def test_the_command_reads_what_the_role_writes(render, tmp_path):
    shown = sites.shown_certificates(["crm.test"], "10.77.0.11", 443)
    shown += sites.shown_certificates(["int.test"], "127.0.0.1", 25, "smtp")
    path = tmp_path / "config.json"
    path.write_text(render("certificates", "etc/certificate-expiry.json", certificates_shown=shown))
    assert certificate_expiry.load(path) == [
        certificate_expiry.Endpoint("crm.test", "10.77.0.11", 443),
        certificate_expiry.Endpoint("int.test", "127.0.0.1", 25, "smtp"),
    ]
    assert json.loads(render("certificates", "etc/certificate-expiry.json"))["shown"] == []


def test_a_bad_certificate_is_no_failed_unit(render):
    """The metric tells; a failed unit would only tell it twice."""
    unit = render("certificates", "etc/systemd/system/certificate-expiry.service")
    assert "SuccessExitStatus=3\n" in unit
    assert "--output /var/lib/prometheus/node-exporter/certificates.prom\n" in unit
    assert "OnCalendar=hourly UTC\n" in render("certificates", "etc/systemd/system/certificate-expiry.timer")


@pytest.mark.parametrize(
    ("profile", "shown"),
    [
        ("civicrm_int", {("crm.test", 443, None), ("int.test", 25, "smtp"), ("localhost", 993, None)}),
        ("civicrm_ext", {("crm.test", 443, None), ("donate.test", 443, None)}),
    ],
)
def test_each_profile_watches_what_it_shows_and_nothing_else(render, profile, shown):
    """A name that goes live is watched without another word in the inventory; a planned one shows nothing."""
    loader = DataLoader()
    role = ROOT / "roles" / profile
    scope = {}
    for source in ("defaults/main.yml", "vars/main.yml"):
        scope |= loader.load_from_file(str(role / source), trusted_as_template=True)
    crm = [{"name": "crm", "server_name": "crm.test"}, {"name": "x", "server_name": "x.test", "state": "planned"}]
    scope |= {
        "civicrm_int_sites": crm,
        "civicrm_int_inner_addresses": ["10.77.0.11", "fd77::11"],
        "civicrm_int_host_name": "int.test",
        "civicrm_ext_front_door_sites": crm,
        "civicrm_ext_api_sites": [{"name": "donate", "server_name": "donate.test"}],
    }
    tasks = loader.load_from_file(str(role / "tasks/main.yml"), trusted_as_template=True)
    (given,) = (t["vars"] for t in tasks if t.get("ansible.builtin.import_role", {}).get("name") == "certificates")
    found = Templar(loader=loader, variables=scope).template(given["certificates_shown"])
    assert {(e["server_name"], e["port"], e.get("starttls")) for e in found} == shown
    assert all(e["address"] in ("127.0.0.1", "10.77.0.11") for e in found)
