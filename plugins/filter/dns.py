"""The DNS records of the whole installation, from the inventory, the keys and the certificates."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

Record = dict[str, str]

DMARC_POLICIES = ("none", "quarantine", "reject")
STRING_BYTES = 255  # of one string in a TXT record (RFC 1035, 3.3)
NEVER_SENDS = "v=spf1 -all"


def dns_records(plan: dict[str, Any]) -> list[Record]:
    """Return every record as {name, type, value, section}; names are full, without the final dot.

    plan: hosts [{name, addresses}], aliases {name: host}, mail_host, mail_domains [{name, sends}], sending_hosts
    [names that send without receiving], dkim_keys {record name: private key PEM}, certificates [PEM, the first in
    use], report_address, dmarc_policy, and optionally mta_sts (bool), private_ca (PEM), caa_issuers [names].
    A plan that contradicts itself raises with one sentence that says what to change.
    """
    hosts = {host["name"]: [ipaddress.ip_address(a) for a in host["addresses"]] for host in plan["hosts"]}
    _check(plan, hosts)
    records = _addresses(hosts, plan["aliases"])
    records += _mail(plan, hosts[plan["mail_host"]])
    records += [_record(name, "TXT", text(dkim_value(pem)), "DKIM") for name, pem in plan["dkim_keys"].items()]
    records += _tls(plan)
    for name in sorted(plan["aliases"]):
        records += [_record(name, "CAA", f'0 issue "{issuer}"', "CAA") for issuer in plan.get("caa_issuers", [])]
    for name, addresses in hosts.items():
        records += [_record(a.reverse_pointer, "PTR", f"{name}.", "PTR") for a in addresses]
    return records


def _check(plan: dict[str, Any], hosts: dict[str, Any]) -> None:
    wanted = {"dns_front_door": set(plan["aliases"].values()), "dns_mail_host": {plan["mail_host"]}}
    for variable, names in wanted.items():
        for name in sorted(names - set(hosts)):
            raise AnsibleFilterError(f"{variable}: dns_hosts has no host {name!r}; add it with its outer addresses")
    if plan["dmarc_policy"] not in DMARC_POLICIES:
        raise AnsibleFilterError(f"dns_dmarc_policy {plan['dmarc_policy']!r} is none of {', '.join(DMARC_POLICIES)}")
    if not re.fullmatch(r"[^@\s,;!\"\\]+@[a-z0-9.-]+", plan["report_address"]):
        raise AnsibleFilterError(f"dns_report_address {plan['report_address']!r} is no mail address")
    if plan.get("mta_sts") and any(_issued_by(pem, plan.get("private_ca", "")) for pem in plan["certificates"]):
        raise AnsibleFilterError(
            "dns_mta_sts_enabled: senders would refuse the mail host's certificate, which the private CA issued; "
            "give the host a public one first, or leave it to DANE"
        )


def _addresses(hosts: dict[str, Any], aliases: dict[str, str]) -> list[Record]:
    names = [(name, addresses) for name, addresses in hosts.items()]
    names += [(alias, hosts[host]) for alias, host in aliases.items() if alias not in hosts]
    return [
        _record(name, "A" if address.version == 4 else "AAAA", str(address), "Addresses")
        for name, addresses in names
        for address in addresses
    ]


def _mail(plan: dict[str, Any], addresses: list[Any]) -> list[Record]:
    senders = " ".join(f"ip{address.version}:{address}" for address in addresses)
    report = plan["report_address"]
    domains = {domain["name"]: domain["sends"] for domain in plan["mail_domains"]}
    # The host itself: HELO, bounces that Postfix writes, and mail to its postmaster.
    receiving = list(dict.fromkeys([*domains, plan["mail_host"]]))
    sending = {**dict.fromkeys([plan["mail_host"], *plan["sending_hosts"]], True), **domains}
    records = [_record(name, "MX", f"10 {plan['mail_host']}.", "Where mail goes") for name in receiving]
    spf = {name: f"v=spf1 {senders} -all" if sends else NEVER_SENDS for name, sends in sending.items()}
    records += [_record(name, "TXT", text(value), "SPF: who sends") for name, value in spf.items()]
    for name, sends in sending.items():
        policy = plan["dmarc_policy"] if sends else "reject"
        value = f"v=DMARC1; p={policy}; sp=reject; adkim=s; aspf=s; rua=mailto:{report}"
        records.append(_record(f"_dmarc.{name}", "TXT", text(value), "DMARC: what becomes of forgeries"))
    here = report.rsplit("@", 1)[1]
    for name in sending:
        if not _related(name, here):
            allowed = _record(f"{name}._report._dmarc.{here}", "TXT", text("v=DMARC1"), "DMARC: reports to strangers")
            records.append(allowed)
    value = f"v=TLSRPTv1; rua=mailto:{report}"
    records += [_record(f"_smtp._tls.{name}", "TXT", text(value), "TLS-RPT") for name in receiving]
    return records


def _tls(plan: dict[str, Any]) -> list[Record]:
    name = f"_25._tcp.{plan['mail_host']}"
    values = dict.fromkeys(tlsa_value(pem) for pem in plan["certificates"])
    records = [_record(name, "TLSA", value, "DANE: the key of port 25") for value in values]
    if plan.get("mta_sts"):
        for domain in [d["name"] for d in plan["mail_domains"]]:
            policy = mta_sts_policy(plan["mail_host"])
            version = hashlib.sha256(policy.encode()).hexdigest()[:16]
            records.append(_record(f"_mta-sts.{domain}", "TXT", text(f"v=STSv1; id={version}"), "MTA-STS"))
    return records


def mta_sts_policy(mail_host: str) -> str:
    """Return the policy for https://mta-sts.<domain>/.well-known/mta-sts.txt (RFC 8461, 3.2)."""
    return f"version: STSv1\r\nmode: enforce\r\nmx: {mail_host}\r\nmax_age: 604800\r\n"


def dkim_value(private_key: str) -> str:
    """Return the public half of an RSA key, PEM, as DKIM's record has it (RFC 6376, 3.6.1)."""
    key = serialization.load_pem_private_key(private_key.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise AnsibleFilterError(
            "vault_dkim_keys holds a key that is not RSA: take it away and run playbooks/secrets.yml"
        )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "v=DKIM1; k=rsa; p=" + "".join(public.decode().splitlines()[1:-1])


def tlsa_value(certificate: str) -> str:
    """Return TLSA 3 1 1 for a certificate, PEM: SHA-256 of its public key (RFC 6698, 2.1)."""
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(info).hexdigest()}"


def text(value: str) -> str:
    """Return a TXT record's data: quoted strings of at most 255 bytes each, for ASCII text."""
    if not value.isascii() or not value.isprintable():
        raise AnsibleFilterError(f"a TXT record holds printable ASCII only: {value!r}")
    parts = [value[i : i + STRING_BYTES] for i in range(0, len(value), STRING_BYTES)]
    return " ".join('"' + re.sub(r'(["\\])', r"\\\1", part) + '"' for part in parts)


def dns_mail_domains(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return [{name, sends}] for live sites (live_sites); a site whose mail is caught or held never sends."""
    return [{"name": s["mail_domain"], "sends": s["mail_policy"] == "deliver"} for s in sites]


def delivering_domains(sites: list[dict[str, Any]]) -> list[str]:
    """Return the mail domains of live sites that deliver. A broken entry is left to the preflight."""
    live = [s for s in sites if s.get("state", "live") == "live" and s.get("mail_policy") == "deliver"]
    return [domain for s in live if (domain := s.get("mail_domain", s.get("server_name")))]


def dns_aliases(sites: list[dict[str, Any]], host: str) -> dict[str, str]:
    """Return {server_name: host} for all sites but retired ones: a certificate needs the name before go-live."""
    return {s["server_name"]: host for s in sites if s.get("state") != "retired"}


def dns_zone(records: list[Record], zone: str, zones: Iterable[str] = ()) -> list[str]:
    """Return the lines of a zone's file for the records that belong to it, in sections; SOA, NS and TTL are not ours.

    zones: all zones of which `zone` is one; a name belongs to the longest that holds it.
    """
    every = {*zones, zone}
    return _lines([r for r in records if _zone_of(r["name"], every) == zone])


def dns_text(records: list[Record], zones: list[str]) -> str:
    """Return all records as text: one part for each zone, then as comments those for zones of others."""
    parts = []
    for zone in zones:
        parts += [f"; Zone {zone}", *dns_zone(records, zone, zones), ""]
    others = [r for r in records if not _zone_of(r["name"], zones)]
    if others:
        parts += ["; Zones of others: their owners enter these", *[f"; {line}".rstrip() for line in _lines(others)], ""]
    return "\n".join(parts)


def _lines(records: list[Record]) -> list[str]:
    lines = []
    for section in dict.fromkeys(r["section"] for r in records):
        lines.append(f"; {section}")
        lines += [f"{r['name']}. IN {r['type']} {r['value']}" for r in records if r["section"] == section]
    return lines


def _zone_of(name: str, zones: Iterable[str]) -> str:
    return max((z for z in zones if name == z or name.endswith(f".{z}")), key=len, default="")


def _record(name: str, kind: str, value: str, section: str) -> Record:
    return {"name": name, "type": kind, "value": value, "section": section}


def _related(one: str, other: str) -> bool:
    """Whether two names lie in one domain as far as names tell: equal last two labels, or one holds the other."""
    return one.split(".")[-2:] == other.split(".")[-2:] or one.endswith(f".{other}") or other.endswith(f".{one}")


def _issued_by(certificate: str, authority: str) -> bool:
    if not authority:
        return False
    leaf, ca = (x509.load_pem_x509_certificate(pem.encode()) for pem in (certificate, authority))
    return leaf.issuer == ca.subject or leaf.issuer == leaf.subject


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "dns_records": dns_records,
            "dns_mail_domains": dns_mail_domains,
            "delivering_domains": delivering_domains,
            "dns_aliases": dns_aliases,
            "dns_text": dns_text,
            "dns_zone": dns_zone,
        }
