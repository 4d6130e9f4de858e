"""The records that the world sees: complete, consistent with keys and certificates, and loadable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from loading import ROOT, load

dns = load("plugins/filter/dns.py")
secrets = load("plugins/filter/secrets.py")

KEY = "crm1._domainkey.crm.example.org"
INT, EXT = "int.example.org", "ext.example.org"


@pytest.fixture(scope="module")
def vault():
    return secrets.new_secrets(None, [], [], [INT], [], [], [], dkim_names=[KEY])


@pytest.fixture
def plan(vault):
    return {
        "hosts": [
            {"name": INT, "addresses": ["192.0.2.11", "2001:db8::11"]},
            {"name": EXT, "addresses": ["192.0.2.12"]},
        ],
        "aliases": {"crm.example.org": EXT, "staging.example.org": EXT},
        "mail_host": INT,
        "mail_domains": [{"name": "crm.example.org", "sends": True}, {"name": "staging.example.org", "sends": False}],
        "sending_hosts": [EXT],
        "dkim_keys": vault["vault_dkim_keys"],
        "certificates": [vault["vault_int_certificates"][INT]["certificate"]],
        "report_address": "reports@example.org",
        "dmarc_policy": "none",
        "private_ca": vault["vault_private_ca"]["certificate"],
    }


def values(plan, name: str, kind: str) -> list[str]:
    return [r["value"] for r in dns.dns_records(plan) if (r["name"], r["type"]) == (name, kind)]


def test_names_lead_to_hosts_and_addresses_back_to_names(plan):
    assert values(plan, INT, "A") == ["192.0.2.11"]
    assert values(plan, INT, "AAAA") == ["2001:db8::11"]
    assert values(plan, "crm.example.org", "A") == ["192.0.2.12"]
    assert values(plan, "11.2.0.192.in-addr.arpa", "PTR") == [f"{INT}."]
    assert values(plan, dns.ipaddress.ip_address("2001:db8::11").reverse_pointer, "PTR") == [f"{INT}."]


def test_who_sends_names_the_mail_hosts_addresses_and_who_never_sends_says_so(plan):
    senders = '"v=spf1 ip4:192.0.2.11 ip6:2001:db8::11 -all"'
    for name in ("crm.example.org", INT, EXT):
        assert values(plan, name, "TXT") == [senders]
    assert values(plan, "staging.example.org", "TXT") == ['"v=spf1 -all"']
    # What is caught still has bounce addresses that the world may write to.
    assert values(plan, "staging.example.org", "MX") == [f"10 {INT}."]


def test_forgeries_of_who_never_sends_are_rejected_whatever_the_policy_of_the_others(plan):
    assert "; p=none; " in values(plan, "_dmarc.crm.example.org", "TXT")[0]
    assert "; p=reject; " in values(plan, "_dmarc.staging.example.org", "TXT")[0]
    for record in dns.dns_records(plan):
        assert record["type"] != "CNAME"


def test_a_key_is_split_into_strings_that_fit_and_is_the_public_half(plan, vault):
    (value,) = values(plan, KEY, "TXT")
    strings = re.findall(r'"([^"]*)"', value)
    assert len(strings) > 1
    assert max(map(len, strings)) <= 255
    public = base64.b64decode("".join(strings).removeprefix("v=DKIM1; k=rsa; p="))
    done = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER"],
        input=vault["vault_dkim_keys"][KEY].encode(),
        capture_output=True,
        check=True,
    )
    assert public == done.stdout


def test_tlsa_is_the_hash_of_the_certificates_public_key(plan):
    """As openssl computes it; a next certificate stands beside the one in use, an equal key only once."""
    pem = plan["certificates"][0]
    key = subprocess.run(["openssl", "x509", "-noout", "-pubkey"], input=pem.encode(), capture_output=True, check=True)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.stdout, capture_output=True, check=True
    )
    assert values(plan, f"_25._tcp.{INT}", "TLSA") == [f"3 1 1 {hashlib.sha256(der.stdout).hexdigest()}"]
    other = secrets.new_secrets(None, [], [], [INT], [], [], [])["vault_int_certificates"][INT]["certificate"]
    assert len(values(plan | {"certificates": [pem, other, pem]}, f"_25._tcp.{INT}", "TLSA")) == 2


def test_strangers_must_allow_our_reports(plan):
    """Without this record receivers send no reports to another domain (RFC 7489, 7.1)."""
    away = dns.dns_text(dns.dns_records(plan | {"report_address": "x@reports.example.net"}), ["example.org"])
    assert '\n; crm.example.org._report._dmarc.reports.example.net. IN TXT "v=DMARC1"' in away
    assert "_report" not in dns.dns_text(dns.dns_records(plan), ["example.org"])


def test_a_record_stands_in_the_longest_zone_that_holds_it_and_in_no_other(plan):
    records = dns.dns_records(plan)
    zones = ["example.org", "crm.example.org", "2.0.192.in-addr.arpa"]
    lines = [line for zone in zones for line in dns.dns_zone(records, zone, zones) if not line.startswith(";")]
    assert len(lines) == len(records) - 1  # the PTR of the IPv6 address is for the owner of that zone
    assert "8.b.d.0.1.0.0.2.ip6.arpa. IN PTR" in dns.dns_text(records, zones).split("; Zones of others")[1]
    assert all("crm.example.org. IN " in line for line in dns.dns_zone(records, "crm.example.org", zones)[1::20])
    assert not any(line.startswith("crm.example.org.") for line in dns.dns_zone(records, "example.org", zones))


def test_mta_sts_is_for_a_public_certificate_only(plan, vault):
    assert values(plan, "_mta-sts.crm.example.org", "TXT") == []
    with pytest.raises(AnsibleFilterError, match=r"dns_mta_sts_enabled: .* private CA"):
        dns.dns_records(plan | {"mta_sts": True})
    stranger = vault["vault_ipsec_ca"]["certificate"]
    (value,) = values(plan | {"mta_sts": True, "private_ca": stranger}, "_mta-sts.crm.example.org", "TXT")
    assert re.fullmatch(r'"v=STSv1; id=[0-9a-f]{16}"', value)


def test_authorities_are_named_only_if_told(plan):
    assert values(plan, "crm.example.org", "CAA") == []
    assert values(plan | {"caa_issuers": ["ca.example"]}, "crm.example.org", "CAA") == ['0 issue "ca.example"']


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mail_host": "other.example.org"}, "dns_mail_host: dns_hosts has no host 'other.example.org'"),
        ({"aliases": {"crm.example.org": "x.example.org"}}, "dns_front_door: dns_hosts has no host"),
        ({"dmarc_policy": "nothing"}, "dns_dmarc_policy 'nothing' is none of"),
        ({"report_address": "a@b.org, mailto:c@d.org"}, "is no mail address"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(plan, change, words):
    with pytest.raises(AnsibleFilterError, match=re.escape(words)):
        dns.dns_records(plan | change)


def test_a_text_cannot_leave_its_quotes():
    assert dns.text('a"b\\c') == r'"a\"b\\c"'
    with pytest.raises(AnsibleFilterError, match="printable"):
        dns.text("a\nb")


def test_sites_become_domains_and_names():
    sites = [
        {"name": "a", "server_name": "a.example.org", "mail_domain": "m.example.org", "mail_policy": "deliver"},
        {"name": "b", "server_name": "b.example.org", "mail_domain": "b.example.org", "mail_policy": "hold"},
    ]
    assert dns.dns_mail_domains(sites) == [
        {"name": "m.example.org", "sends": True},
        {"name": "b.example.org", "sends": False},
    ]
    gone = {"server_name": "c.example.org", "state": "retired"}
    assert dns.dns_aliases([*sites, gone], EXT) == {"a.example.org": EXT, "b.example.org": EXT}


def test_only_sites_that_deliver_are_signed_for_and_a_broken_entry_is_left_to_the_preflight():
    sites = [
        {"server_name": "a.example.org", "mail_policy": "deliver"},
        {"server_name": "b.example.org", "mail_policy": "deliver", "mail_domain": "m.example.org"},
        {"server_name": "c.example.org", "mail_policy": "catch"},
        {"server_name": "d.example.org", "mail_policy": "deliver", "state": "planned"},
        {"server_name": "e.example.org", "mail_polcy": "deliver"},
    ]
    assert dns.delivering_domains(sites) == ["a.example.org", "m.example.org"]


def test_records_are_printed_as_a_zone_file_wants_them(tmp_path):
    """A line that begins with a space belongs to the name above it: pasted, such a zone was wrong."""
    text = 'crm 300 IN A 192.0.2.1\n; a comment with a "quote"\nwww 300 IN CNAME crm'
    play = [{"hosts": "all", "gather_facts": False, "connection": "local", "tasks": [{"print_text": {"text": text}}]}]
    (tmp_path / "play.json").write_text(json.dumps(play))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"\n{text}\n" in done.stdout


def test_the_playbook_prints_them_so():
    (play,) = yaml.safe_load((ROOT / "playbooks/dns.yml").read_text())
    assert [task for task in play["tasks"] if "print_text" in task]
