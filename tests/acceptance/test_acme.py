"""Apache gets its certificates from an ACME authority by itself, and serves them without a hand (P15)."""

import json

import pytest
from fixtures import quick_strategy

pytestmark = pytest.mark.web

NAMES = ["crm.torproject.test", "donate-api.torproject.test"]
AUTHORITY = "client.outside.test"
DIRECTORY = "/run/acme-authority"
# Debian's pebble: the authority that ACME clients are tested with. It asks for challenges where the names lead.
CONFIGURATION = {
    "pebble": {
        "listenAddress": "ADDRESS:443",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": f"{DIRECTORY}/tls.pem",
        "privateKey": f"{DIRECTORY}/tls.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}


@pytest.fixture
def authority(world):
    """An authority outside; returns the certificate of its own web server, PEM."""
    world.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends pebble")
    address = world.check_output(f"getent ahostsv4 {AUTHORITY}").split()[0]
    names = world.check_output("awk '/^nameserver/ {print $2; exit}' /etc/resolv.conf")
    text = json.dumps(CONFIGURATION).replace("ADDRESS", address)
    world.check_output(
        f"install -d -m 755 {DIRECTORY}; printf %s '{text}' >{DIRECTORY}/pebble.json; "
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={AUTHORITY} "
        f"-addext subjectAltName=DNS:{AUTHORITY} -keyout {DIRECTORY}/tls.key -out {DIRECTORY}/tls.pem 2>/dev/null; "
        "systemd-run --quiet --unit=acme-authority --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 "
        f"pebble -config {DIRECTORY}/pebble.json -dnsserver {names}:53 -strict"
    )
    yield world.check_output(f"cat {DIRECTORY}/tls.pem")
    world.check_output(f"systemctl stop acme-authority.service; rm -r {DIRECTORY}")


@pytest.fixture
def converge(playbook):
    """A function (variables...) -> a run of what decides about ext's certificates, through mitogen."""

    def _converge(**variables: str) -> None:
        options = ["-e", json.dumps(variables)] if variables else []
        tags = "firewall,certificates,apache,sites"
        done = playbook("playbooks/civicrm_ext.yml", "--tags", tags, *options, **quick_strategy())
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr

    yield _converge
    _converge()


def issuer(world, name: str) -> str:
    show = (
        f"openssl s_client -connect {name}:443 -servername {name} </dev/null 2>/dev/null | openssl x509 -noout -issuer"
    )
    return world.run(show).stdout


@pytest.mark.mutates
def test_apache_gets_and_serves_certificates_of_an_acme_authority(world, crm_ext, authority, converge, eventually):
    """From the authority's challenge to the certificate that visitors see; Apache reloads by itself (P15)."""
    crm_ext.check_output(f"printf %s '{authority}' >/run/acme-authority.pem")
    converge(
        civicrm_ext_tls_source="acme",
        apache_acme_contact="hostmaster@torproject.test",
        apache_acme_directory_url=f"https://{AUTHORITY}/dir",
        apache_acme_ca_file="/run/acme-authority.pem",
    )
    for name in NAMES:
        eventually(lambda n=name: "Pebble" in issuer(world, n), within=120, every=2)
