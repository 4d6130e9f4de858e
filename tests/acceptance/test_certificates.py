"""The certificates that the daemons really show are watched (P15)."""

import datetime
import re

import pytest
from cryptography import x509

SHOWN = {
    "crm-int-01": {("crm-int-01.torproject.test", "25"), ("crm.torproject.test", "443"), ("localhost", "993")},
    "crm-ext-01": {("crm.torproject.test", "443"), ("donate-api.torproject.test", "443")},
}


@pytest.mark.mutates
@pytest.mark.parametrize(
    ("host", "secret"), [("crm-int-01", "vault_int_certificates"), ("crm-ext-01", "vault_ext_certificates")]
)
def test_the_days_left_of_what_each_daemon_shows_are_a_metric(request, vault, host, secret):
    """Prometheus reads how long each name's certificate runs, as shown on its port and trusted by a client."""
    machine = request.getfixturevalue(host.removesuffix("-01").replace("-", "_"))
    machine.check_output("systemctl start certificate-expiry.service")
    text = machine.check_output("curl -s localhost:9100/metrics")
    days = dict(re.findall(r'^certificate_expiry_days\{name="([^"]+)",port="\d+"\} (\S+)$', text, re.MULTILINE))
    assert (
        set(re.findall(r'^certificate_expiry_days\{name="([^"]+)",port="(\d+)"\}', text, re.MULTILINE)) >= SHOWN[host]
    )
    assert re.findall(r"^certificate_(?:shown|trusted)\{.*\} 0$", text, re.MULTILINE) == []
    for name, shown in days.items():
        given = x509.load_pem_x509_certificate(vault[secret][name]["certificate"].encode()).not_valid_after_utc
        left = (given - datetime.datetime.now(datetime.UTC)).total_seconds() / 86400
        assert abs(float(shown) - left) < 0.1, name


def test_the_command_says_the_same_to_a_human(crm_int, crm_ext):
    """Without metrics it changes nothing: a line for each daemon, and status 0 when all is well."""
    for machine in (crm_int, crm_ext):
        done = machine.run("certificate-expiry")
        assert done.rc == 0, done.stdout + done.stderr
        assert re.search(r"^crm\.torproject\.test:443: \d+ days left$", done.stdout, re.MULTILINE)
