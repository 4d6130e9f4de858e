"""Postfix's configuration as its operator gets it."""

from __future__ import annotations

import re

import pytest
from contract_addresses import NONE, READ_ONLY, TODAY
from mail_tools import address_contract
from mail_tools.address_contract import Generation, Verb

CRM = {
    "name": "crm",
    "user": "crm",
    "mail_domain": "crm.example.org",
    "localpart": "civicrm+",
    "mail_policy": "deliver",
}
STAGING = CRM | {
    "name": "staging-crm",
    "user": "staging-crm",
    "mail_domain": "staging.crm.example.org",
    "mail_policy": "catch",
}
GMAIL = {
    "name": "gmail",
    "domains": ["gmail.com", "googlemail.com"],
    "concurrency": 5,
    "rate_delay_seconds": 1,
    "tls_security_level": "encrypt",
}
ORANGE = {"name": "orange", "domains": ["orange.fr"], "concurrency": 2}


@pytest.fixture
def postfix(render):
    """Render a template of the role with two sites and two providers."""

    def _render(template: str, **variables):
        return render(
            "postfix_mailing",
            template,
            **{
                "postfix_mailing_hostname": "int.example.org",
                "postfix_mailing_admin_address": "human@example.net",
                "postfix_mailing_tls_certificate_file": "/etc/ssl/mail.crt",
                "postfix_mailing_tls_key_file": "/etc/ssl/mail.key",
                "postfix_mailing_sites": [CRM, STAGING],
                "postfix_mailing_providers": [GMAIL, ORANGE],
            }
            | variables,
        )

    return _render


def parameters(text: str) -> dict[str, str]:
    """main.cf as Postfix reads it: continuation lines belong to the parameter above."""
    logical = re.sub(r"\n[ \t]+", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    pairs = (line.split("=", 1) for line in logical.splitlines() if line.strip())
    return {name.strip(): value.strip() for name, value in pairs}


def test_only_sites_that_deliver_may_submit(postfix):
    assert parameters(postfix("etc/postfix/main.cf"))["authorized_submit_users"].split() == ["root", "crm"]


def test_loopback_may_not_relay(postfix):
    assert parameters(postfix("etc/postfix/main.cf"))["mynetworks"] == "cidr:/etc/postfix/relay_clients.cidr"
    assert "127." not in postfix(
        "etc/postfix/relay_clients.cidr", postfix_mailing_relay_clients=["10.77.0.12", "fd77::12"]
    )


def test_the_local_part_is_never_split(postfix):
    assert parameters(postfix("etc/postfix/main.cf"))["recipient_delimiter"] == ""


def test_a_providers_budget_stands_once_for_all_its_domains(postfix):
    main = parameters(postfix("etc/postfix/main.cf"))
    assert main["gmail_transport_rate_delay"] == "1s"
    assert main["gmail_destination_concurrency_limit"] == "5"
    assert int(main["gmail_destination_concurrency_failed_cohort_limit"]) >= 10
    assert main["orange_transport_rate_delay"] == "0s"
    assert not [name for name in main if name.endswith("destination_rate_delay")]


def test_each_provider_is_a_transport_with_its_own_name_in_the_log(postfix):
    master = postfix("etc/postfix/master.cf")
    services = [line.split() for line in master.splitlines() if re.match(r"[a-z]", line)]
    assert all(len(service) == 8 for service in services)
    gmail = next(service for service in services if service[0] == "gmail")
    assert gmail[6:] == ["5", "smtp"]
    assert master.count("-o syslog_name=postfix-gmail\n    -o smtp_tls_security_level=encrypt\n") == 1
    assert master.count("-o syslog_name=postfix-orange\n") == 1


def test_examined_addresses_get_a_copy_that_cannot_bounce_to_the_reporter(postfix):
    """abuse@ of every domain reaches the human as before and the examiner by BCC; its errors wait (N6)."""
    examined = {"postfix_mailing_examined_recipients": ["abuse", "postmaster"]}
    lines = postfix("etc/postfix/examined", **examined).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"{name}@{domain} abuse-report@int.example.org"
        for domain in ("int.example.org", "crm.example.org", "staging.crm.example.org")
        for name in ("abuse", "postmaster")
    ]
    assert "abuse-report@int.example.org examined:" in postfix("etc/postfix/transport", **examined).splitlines()
    service = postfix("etc/postfix/master.cf", **examined).split("\nexamined ", 1)[1].split("\nlmtp ", 1)[0]
    assert "soft_bounce=yes" in service
    assert "home_mailbox=Maildir/" in service
    assert "abuse-report" not in parameters(postfix("etc/postfix/main.cf", **examined))["local_recipient_maps"]
    assert "abuse@crm.example.org abuse@int.example.org" in postfix("etc/postfix/virtual", **examined)


def test_nobody_is_examined_unless_told(postfix):
    assert [line for line in postfix("etc/postfix/examined").splitlines() if not line.startswith("#")] == []
    assert "examined" not in postfix("etc/postfix/master.cf")
    assert "examined" not in postfix("etc/postfix/transport")


def test_connection_reuse_has_the_service_it_needs(postfix):
    assert re.search(r"^tlsproxy ", postfix("etc/postfix/master.cf"), re.MULTILINE)


def test_domains_find_their_transport(postfix):
    lines = postfix("etc/postfix/transport").splitlines()
    assert "googlemail.com gmail:" in lines
    assert "orange.fr orange:" in lines


def pattern(line: str) -> re.Pattern[str]:
    """A line of the table as PCRE: between slashes, and the flag i switches Postfix's default, ignoring case, off."""
    found = re.fullmatch(r"/(.*)/i lmtp:unix:private/dovecot-lmtp", line)
    assert found, line
    return re.compile(found[1])


@pytest.mark.parametrize("address", [*TODAY, *READ_ONLY, *NONE])
def test_the_contract_accepts_exactly_the_applications_addresses(postfix, address):
    """What Postfix accepts is what the tools take for an address that CiviMail makes, and nothing else (S43-S48)."""
    lines = [line for line in postfix("etc/postfix/contract.pcre").splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    accepted = bool(pattern(lines[0]).search(address))
    assert accepted is (address in TODAY)
    found = address_contract.parse(address, localpart=CRM["localpart"], domains={CRM["mail_domain"]})
    emitted = found is not None and found.generation is Generation.TODAY and found.verb is not Verb.SUBSCRIBE
    assert accepted is emitted
    assert not pattern(lines[1]).search(address)


def test_role_addresses_reach_the_human(postfix):
    assert "postmaster@staging.crm.example.org postmaster@int.example.org" in postfix("etc/postfix/virtual")
    aliases = postfix("etc/aliases").splitlines()
    assert "root: human@example.net" in aliases
    assert {"postmaster: root", "abuse: root", "crm: root"} <= set(aliases)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (
            "Received: by int.example.org (Postfix, from userid 997)\n\tid 4jW8WD6NjJzDSVp; Fri, 20 Nov 2026",
            "submission",
        ),
        ("Received: from crm (localhost [127.0.0.1])\n\tby int.example.org (Postfix) with ESMTPSA", "submission"),
        ("Received: from crm (localhost [IPv6:::1])\n\tby int.example.org (Postfix)", "submission"),
        ("Received: from [127.0.0.1] (unknown [192.0.2.1])\n\tby int.example.org (Postfix)", None),
        ("Received: from mx (mx.example.net [192.0.2.1])\n\tby int.example.org (Postfix)", None),
        ("Precedence: bulk", "mailing"),
        ("precedence:bulk", "mailing"),
        ("Subject: Precedence: bulk", None),
    ],
)
def test_the_switch_tells_submitted_mail_from_what_comes_in(postfix, header, kind):
    """Held are mailings and what leaves; a bounce that comes in still reaches its mailbox (S18, S24)."""
    rules = re.findall(r"^/(.*)/ (\w+)$", postfix("etc/postfix/submitted.pcre"), re.MULTILINE)
    # Postfix' patterns ignore case and let a dot match a line break.
    found = [kind for pattern, kind in rules if re.search(pattern, header, re.IGNORECASE | re.DOTALL)]
    assert found == ([kind] if kind else [])


def test_the_switch_is_the_last_of_the_header_checks(postfix):
    """A table before it may divert a message: held instead, it would be released undiverted."""
    value = parameters(postfix("etc/postfix/main.cf"))["header_checks"]
    assert value.endswith("pipemap:{pcre:/etc/postfix/submitted.pcre,hash:/etc/postfix/mailing_state}")


def test_systemd_sees_that_the_master_was_killed(render):
    """Debian 12's unit forbids systemd to guess the master: it would call Postfix running without it."""
    name = "etc/systemd/system/postfix.service.d/restart.conf"
    assert "\nPIDFile=/var/spool/postfix/pid/master.pid\n" in render("postfix_mailing", name, distribution="Debian-12")
    assert "PIDFile" not in render("postfix_mailing", name)
