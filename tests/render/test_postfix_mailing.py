"""Postfix's configuration as its operator gets it."""

from __future__ import annotations

import re

import pytest
from contract_addresses import NONE, READ_ONLY, TODAY

from civicrm_tools.mail import addresses, provider_table, providers, speakers
from civicrm_tools.mail.addresses import Generation, Verb

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
    "mx_suffixes": ["google.com"],
    "budget_per_second": 4.5,
    "connections": 5,
    "tls_security_level": "encrypt",
    "messages_per_connection": 20,
}
TEST = STAGING | {
    "name": "test-crm",
    "user": "test-crm",
    "mail_domain": "test.crm.example.org",
    "mail_policy": "hold",
}
ORANGE = {"name": "orange", "domains": ["orange.fr"], "budget_per_second": 0.2, "connections": 2, "back_off": ["OFR_"]}


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


def test_every_site_may_submit(postfix):
    """A site whose mail is caught must not notice: sendmail's refusal would be a bounce in CiviCRM (P12)."""
    assert set(parameters(postfix("etc/postfix/main.cf"))["authorized_submit_users"].split()) == {
        "root",
        "crm",
        "staging-crm",
    }


def rules(text: str) -> list[tuple[re.Pattern[str], str]]:
    """A pcre table as Postfix reads it: case does not count and a dot matches a line break."""
    lines = re.findall(r"^/(.*)/ (.+)$", text, re.MULTILINE)
    return [(re.compile(pattern, re.IGNORECASE | re.DOTALL), action) for pattern, action in lines]


@pytest.mark.parametrize(
    ("header", "diverted"),
    [
        ("Received: by int.example.org (Postfix, from userid 996)\n\tid 4jW; Fri", True),
        ("Received: by int.example.org (Postfix, from userid 995)\n\tid 4jW; Fri", True),
        ("Received: by int.example.org (Postfix, from userid 997)\n\tid 4jW; Fri", False),
        ("Received: by int.example.org (Postfix, from userid 9961)\n\tid 4jW; Fri", False),
        ("Received: from x (localhost [127.0.0.1])\n\t(Authenticated sender: test-crm)\n\tby int", True),
        ("Received: from x (localhost [127.0.0.1])\n\t(Authenticated sender: crm)\n\tby int", False),
        ("From: staging-crm@staging.crm.example.org", False),
    ],
)
def test_mail_is_diverted_by_who_submits_it(postfix, header, diverted):
    """The uid or the login, never an address (P12)."""
    text = postfix("etc/postfix/diverted.pcre", postfix_mailing_sites=[CRM, STAGING, TEST])
    for name, uid in {"crm": 997, "staging-crm": 996, "test-crm": 995}.items():  # as the host puts them in
        text = text.replace(f"@uid({name})@", str(uid))
    table = rules(text)
    found = [action for pattern, action in table if pattern.search(header)]
    assert found == (["FILTER divert:submitted"] if diverted else [])


def test_without_a_site_to_divert_nothing_is(postfix):
    assert rules(postfix("etc/postfix/diverted.pcre", postfix_mailing_sites=[CRM])) == []


@pytest.mark.parametrize(
    ("address", "action"),
    [
        ("catch@staging-crm.caught.invalid", "DUNNO"),
        ("hold@test-crm.caught.invalid", "HOLD mail_policy of test-crm"),
        ("hold@staging-crm.caught.invalid", "REJECT not an address of the diversion"),
        ("catch@crm.caught.invalid", "REJECT not an address of the diversion"),
        ("real@gmail.com", "REJECT not an address of the diversion"),
    ],
)
def test_the_diversion_hands_over_nothing_but_catchers_addresses(postfix, address, action):
    table = rules(postfix("etc/postfix/diverted_recipients.pcre", postfix_mailing_sites=[CRM, STAGING, TEST]))
    assert next(action for pattern, action in table if pattern.search(address)) == action


def test_a_login_is_served_by_the_policy_of_its_site(postfix):
    lines = postfix("etc/postfix/logins", postfix_mailing_sites=[CRM, STAGING, TEST]).splitlines()
    assert {"crm unless_mailing", "staging-crm FILTER divert:submitted", "test-crm FILTER divert:submitted"} <= set(
        lines
    )
    master = postfix("etc/postfix/master.cf")
    assert "inline:{ crm=OK, staging-crm=OK }, reject }" in master
    assert "127.0.0.1:587" not in postfix("etc/postfix/master.cf", postfix_mailing_sites=[])


@pytest.mark.parametrize(
    ("sender", "action"),
    [
        ("civicrm+b.1.2.0123456789abcdef@crm.example.org", "DUNNO"),
        ("info@crm.example.org", "FILTER divert:receipt"),
        ("", None),
        ("civicrm+u.1.2.0123456789abcdef@crm.example.org", "FILTER divert:receipt"),
    ],
)
def test_a_receipt_is_what_does_not_bounce_to_a_mailing(postfix, sender, action):
    """It takes a transport of its own, past what a mailing has queued (N24)."""
    table = rules(postfix("etc/postfix/mailing_senders.pcre"))
    assert next((action for pattern, action in table if pattern.search(sender)), None) == action


@pytest.mark.parametrize(
    ("recipient", "action"),
    [
        ("real@gmail.com", "FILTER receipts:"),
        ("x@other.crm.example.org", "FILTER receipts:"),
        ("root@int.example.org", "DUNNO"),
        ("civicrm+u.1.2.0123456789abcdef@crm.example.org", "DUNNO"),
    ],
)
def test_a_receipt_to_this_host_itself_stays_here(postfix, recipient, action):
    """FILTER overrides aliases and mailboxes: by SMTP it would come back to us in a loop."""
    table = rules(postfix("etc/postfix/receipts.pcre"))
    assert next(action for pattern, action in table if pattern.search(recipient)) == action


def test_no_header_can_send_a_message_past_the_diversion(postfix):
    """Of several FILTER actions the last one wins: any that a message can cause must lead to what decides (P12)."""
    main = postfix("etc/postfix/main.cf")
    by_content = [*re.findall(r"FILTER (\S+?)}", main)]
    for table in ("diverted.pcre", "submitted.pcre", "mailing_senders.pcre", "logins"):
        by_content += re.findall(r"FILTER (\S+)", postfix(f"etc/postfix/{table}"))
    assert by_content
    assert {target.split(":")[0] for target in by_content} == {"divert"}


def test_only_a_messages_own_headers_count(postfix):
    """A bounce that comes in contains what it returns: that must neither hold nor divert it (S24)."""
    main = parameters(postfix("etc/postfix/main.cf"))
    assert main["nested_header_checks"] == main["mime_header_checks"] == ""


def test_what_strangers_get_at_port_25(postfix):
    """No suite without a certificate, AES in CBC mode for servers of old, no success reports, one end of a message."""
    main = parameters(postfix("etc/postfix/main.cf", postfix_mailing_tls_suites=["ECDHE-RSA-AES128-GCM-SHA256"]))
    suites = main["tls_medium_cipherlist"].split(":")
    assert suites[0] == "ECDHE-RSA-AES128-GCM-SHA256"
    assert not [suite for suite in suites if re.search("ADH|AECDH|DES|RC4|CAMELLIA|ARIA|CCM|NULL|MD5", suite)]
    assert {"ECDHE-RSA-AES128-SHA", "AES256-SHA"} <= set(suites)
    assert main["smtpd_discard_ehlo_keywords"] == "silent-discard, dsn"
    assert (main["smtpd_forbid_bare_newline"], main["smtpd_forbid_unauth_pipelining"]) == ("normalize", "yes")


def test_loopback_may_not_relay(postfix):
    assert parameters(postfix("etc/postfix/main.cf"))["mynetworks"] == "cidr:/etc/postfix/relay_clients.cidr"
    assert "127." not in postfix(
        "etc/postfix/relay_clients.cidr", postfix_mailing_relay_clients=["10.77.0.12", "fd77::12"]
    )


def test_the_local_part_is_never_split(postfix):
    assert parameters(postfix("etc/postfix/main.cf"))["recipient_delimiter"] == ""


def test_no_transport_has_a_delay_of_postfix(postfix):
    """A delay would make the pace hang on how fast the provider answers, with one connection at a time (S14)."""
    main = parameters(postfix("etc/postfix/main.cf"))
    assert main["gmail_destination_concurrency_limit"] == "5"
    assert int(main["gmail_destination_concurrency_failed_cohort_limit"]) >= 10
    assert not [name for name in main if name.endswith("rate_delay")]


def test_each_provider_is_a_transport_with_its_own_name_in_the_log(postfix):
    master = postfix("etc/postfix/master.cf")
    services = [line.split() for line in master.splitlines() if re.match(r"[a-z]", line)]
    assert all(len(service) == 8 for service in services)
    gmail = next(service for service in services if service[0] == "gmail")
    assert gmail[6:] == ["5", "smtp"]
    options = master.split("\ngmail ", 1)[1].split("\norange ", 1)
    assert "-o syslog_name=postfix-gmail\n" in options[0]
    assert "-o smtp_tls_security_level=encrypt" in options[0]
    assert "-o smtp_connection_reuse_count_limit=20\n" in options[0]
    assert "-o syslog_name=postfix-orange\n" in options[1]
    assert "smtp_tls_security_level" not in options[1]


def test_each_providers_deliveries_ask_for_their_own_turn(postfix):
    """One table per provider, none for the others; the socket is the one that systemd holds (S14)."""
    master = postfix("etc/postfix/master.cf")
    asked = re.findall(
        r"^([a-z]+) .*smtp\n(?:    -o .*\n)*?    -o smtp_connection_cache_destinations=(\S+)$", master, re.M
    )
    assert asked == [(name, f"socketmap:unix:/run/postfix-pace/socket:{name}") for name in ("gmail", "orange")]
    socket = postfix("etc/systemd/system/postfix-pace.socket")
    assert "ListenStream=/run/postfix-pace/socket\n" in socket
    assert "Requires=postfix-pace.socket\n" in postfix("etc/systemd/system/postfix.service.d/civicrm.conf")


def test_the_budget_is_one_variable(postfix, tmp_path):
    """The table that the pace reads holds the new figure, and nothing of Postfix's own files has changed (S14)."""
    changed = {"postfix_mailing_providers": [GMAIL | {"budget_per_second": 0.25}, ORANGE]}
    for name, budget in (
        (postfix("etc/postfix/providers.json"), 4.5),
        (postfix("etc/postfix/providers.json", **changed), 0.25),
    ):
        (tmp_path / "providers.json").write_text(name)
        table = provider_table.load(tmp_path / "providers.json")
        assert table.providers["gmail"].budget == budget
        assert table.providers["orange"].pattern.search("450 OFR_506 later")
        assert table.providers["gmail"].pattern is None
    for file in ("main.cf", "master.cf", "transport"):
        assert postfix(f"etc/postfix/{file}") == postfix(f"etc/postfix/{file}", **changed)


def test_hosted_domains_go_by_a_table_that_forgets_removed_providers(postfix):
    """A transport that is gone would leave its hosted domains' mail in the queue until it bounces (N1)."""
    assert parameters(postfix("etc/postfix/main.cf"))["transport_maps"].endswith(
        "pipemap:{hash:/etc/postfix/hosted_domains,texthash:/etc/postfix/provider_transports}"
    )
    lines = [line for line in postfix("etc/postfix/provider_transports").splitlines() if not line.startswith("#")]
    assert lines == ["gmail gmail:", "orange orange:"]


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


def test_postfix_knows_a_providers_domains_and_not_what_is_below_them(postfix, tmp_path):
    """The commands answer for Postfix (test_whose_domain.py): its tables must hold whole domains only (N1)."""
    # Where this parameter lists transport_maps, a plain key would match subdomains as well (transport(5)).
    main = parameters(postfix("etc/postfix/main.cf"))
    assert "transport_maps" not in main.get("parent_domain_matches_subdomains", "")
    lines = [line for line in postfix("etc/postfix/transport").splitlines() if line and not line.startswith("#")]
    (tmp_path / "providers.json").write_text(postfix("etc/postfix/providers.json"))
    table = provider_table.load(tmp_path / "providers.json")
    assert dict(line.split() for line in lines) == {domain: f"{name}:" for domain, name in table.by_domain.items()}
    assert all(providers.DOMAIN.fullmatch(domain) for domain in table.by_domain)
    owners = providers.Owners(tmp_path / "providers.json", tmp_path / "none")
    for domain, name in table.by_domain.items():
        assert (owners.of(domain), owners.of(f"sub.{domain}")) == (name, "default")


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
    found = addresses.parse(address, localpart=CRM["localpart"], domains={CRM["mail_domain"]})
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
        ("X-Signed-As: news@crm.example.org", "submission"),
        ("X-Signed-As: nobody@unsigned.invalid", "submission"),
        ("X-Signed-As: nobody@diverted.invalid", None),
        ("Received: by int.example.org (Postfix, from userid 997)\n\tid 4jW8WD6NjJzDSVp; Fri, 20 Nov 2026", None),
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
    switch = "pipemap:{pcre:/etc/postfix/submitted.pcre,hash:/etc/postfix/mailing_state}"
    assert parameters(postfix("etc/postfix/main.cf"))["header_checks"].endswith(switch)
    own = ", ".join(f"pcre:/etc/postfix/{name}.pcre" for name in ("diverted", "mailings", "picked_up"))
    master = postfix("etc/postfix/master.cf")
    assert f"-o {{ header_checks = {own}, {switch} }}\n" in master
    # What receipt-milter says of sendmail's mail: pickup's line can be shown to it or looked up in the switch.
    assert f"-o {{ milter_header_checks = pcre:/etc/postfix/classes.pcre, {switch} }}\n" in master


@pytest.mark.parametrize(
    ("client", "sender", "recipient", "taken"),
    [
        (True, "root@ext.example.org", "human@example.net", True),
        (True, "<>", "human@example.net", True),
        (True, "one-click@ext.example.org", "civicrm+u.1.2.0123456789abcdef@crm.example.org", True),
        (True, "root@ext.example.org", "real@gmail.com", False),
        (True, "one-click@ext.example.org", "human@example.net", False),
        (True, "one-click@ext.example.org", "civicrm+b.1.2.0123456789abcdef@crm.example.org", False),
        (True, "one-click@ext.example.org", "civicrm+u.1.2.0123456789abcdef@crm.example.org.evil.test", False),
        (True, "news@crm.example.org", "human@example.net", False),
        (True, "www-data@ext.example.org", "human@example.net", False),
        (True, "root@ext.example.org.evil.test", "human@example.net", False),
    ],
)
def test_a_relay_client_sends_as_whom_it_may_and_to_whom_it_may(postfix, client, sender, recipient, taken):
    """Whoever is on the exposed host is no newsletter, and reaches nobody by this one (N46)."""
    given = {
        "postfix_mailing_relay_clients": ["10.77.0.12"],
        "postfix_mailing_relay_system_senders": ["root@ext.example.org"],
        "postfix_mailing_relay_unsubscribers": ["one-click@ext.example.org"],
    }
    main = parameters(postfix("etc/postfix/main.cf", **given))
    assert main["smtpd_relay_restrictions"].startswith("check_client_access cidr:/etc/postfix/relay_clients.cidr, ")
    assert "10.77.0.12 relayed" in postfix("etc/postfix/relay_clients.cidr", **given).splitlines()
    table = rules(postfix("etc/postfix/relay_senders.pcre", **given))
    action = next(action for pattern, action in table if pattern.search(sender))
    if action.startswith("relayed_"):
        file = f"etc/postfix/{action.replace('relayed', 'relay')}.pcre"
        assert main[action] == f"check_recipient_access pcre:/{file}, reject"
        lines = re.findall(r"^/(.*)/(i?) (.+)$", postfix(file, **given), re.M)
        # The flag i switches Postfix' default, ignoring case, off.
        action = next(a for p, i, a in lines if re.search(p, recipient, 0 if i else re.IGNORECASE))
    assert (action == "OK") is taken
    assert taken or action.startswith("REJECT ")


def test_who_speaks_for_which_domain_is_told_once(postfix, tmp_path):
    """What receipt-milter reads; nobody else may use the domain of a site that is silent, either (N46)."""
    crm = CRM | {"sender_domains": ["example.net"]}
    given = {
        "postfix_mailing_sites": [crm, STAGING],
        "postfix_mailing_relay_system_senders": ["root@Ext.example.org"],
    }
    text = (
        postfix("etc/postfix/speakers.json", **given).replace("@uid(crm)@", "997").replace("@uid(staging-crm)@", "996")
    )
    (tmp_path / "speakers.json").write_text(text)
    assert speakers.load(tmp_path / "speakers.json") == speakers.Speakers(
        hostname="int.example.org",
        users={"997": "crm", "996": "staging-crm"},
        domains={"crm": ["crm.example.org", "example.net"], "staging-crm": ["staging.crm.example.org"]},
        silent=["staging-crm"],
        relay=["root@ext.example.org"],
    )


@pytest.mark.parametrize(
    ("line", "actions"),
    [
        (
            "Received: by int.example.org (Postfix, from userid 997)\n\tid 4jW8WD6NjJzDSVp; Fri, 20 Nov 2026",
            ["PREPEND X-Submitted-By: ${1}"],
        ),
        ("x-submitted-by : 997", ["IGNORE"]),
        ("X-Before: Received: by x (Postfix, from userid 0)\n\tid x", []),
    ],
)
def test_the_uid_of_pickups_line_is_shown_to_the_milter_and_none_that_a_message_brings(postfix, line, actions):
    """Who submits is what Postfix says, before anything of the message (N46)."""
    assert [
        action for pattern, action in rules(postfix("etc/postfix/picked_up.pcre")) if pattern.search(line)
    ] == actions


MILTER = {"postfix_mailing_milters": ["unix:/run/opendkim/opendkim.sock"]}


def test_milters_see_what_is_handed_in_and_nothing_from_the_world(postfix):
    """A signer that is down must not stop bounces from coming in, nor sign what strangers send (P1)."""
    main = parameters(postfix("etc/postfix/main.cf", **MILTER))
    # What the signer signs, nothing may have to change later.
    assert main["non_smtpd_milters"].split() == [
        "unix:/run/receipt-milter-host.sock",
        *MILTER["postfix_mailing_milters"],
    ]
    assert main["internal_mail_filter_classes"] == "bounce"
    assert main["milter_default_action"] == "tempfail"
    assert "smtpd_milters" not in main
    assert main["smtpd_milter_maps"] == "cidr:/etc/postfix/milters.cidr"
    master = postfix("etc/postfix/master.cf", **MILTER)
    asked = "unix:/run/receipt-milter.sock, unix:/run/opendkim/opendkim.sock"
    submitted = master.split("\nsubmitted ", 1)[1].split("\n#", 1)[0]
    assert f"-o {{ non_smtpd_milters = {asked} }}\n" in submitted
    assert master.count("-o smtpd_milter_maps=\n") == 2, "what the diversion hands over was signed before"
    table = postfix("etc/postfix/milters.cidr", **MILTER, postfix_mailing_relay_clients=["10.77.0.12"])
    asked = "unix:/run/receipt-milter-smtp.sock, unix:/run/opendkim/opendkim.sock"
    assert [line for line in table.splitlines() if not line.startswith("#")] == [
        f"127.0.0.0/8 {asked}",
        f"::1 {asked}",
        f"10.77.0.12 {asked}",
    ]
    assert "smtpd_milter_maps" not in parameters(postfix("etc/postfix/main.cf"))


@pytest.mark.parametrize(
    ("address", "asked", "refused"),
    [
        ("ada@example.net", False, False),
        ("ada@bücher.example", True, True),
        ('"ada b@c"@bücher.example', True, True),
        ("jörg@example.net", False, True),
        ("jörg@bücher.example", True, True),
        ("RCPT TO:<ada@bücher.example> NOTIFY=NEVER", True, True),
        ("@bücher.example", False, True),
    ],
)
def test_a_foreign_domain_is_turned_into_ascii_and_a_foreign_local_part_is_refused(postfix, address, asked, refused):
    """smtputf8_enable stays off: with it one raw 8-bit header would bounce a mailing. Patterns see bytes."""
    key = address.encode().decode("latin-1")
    (pattern, value), *more = rules(postfix("etc/postfix/idn.pcre"))
    assert (bool(pattern.search(key)), value, more) == (asked, "${1}", [])
    (pattern, value), *more = rules(postfix("etc/postfix/unreachable.pcre"))
    assert bool(pattern.search(key)) is refused
    assert value.startswith("error:5.6.7 ")
    table = rules(postfix("etc/postfix/receipts.pcre"))
    assert next(action for pattern, action in table if pattern.search(key)) == (
        "DUNNO" if refused else "FILTER receipts:"
    )
    main = parameters(postfix("etc/postfix/main.cf"))
    assert main["smtputf8_enable"] == "no"
    assert main["transport_maps"].startswith("pcre:/etc/postfix/unreachable.pcre, ")
    master = postfix("etc/postfix/master.cf")
    assert "flags=q " in master
    # smtpd refuses such a domain before it is looked up anywhere.
    assert master.count("-o smtpd_command_filter=$canonical_maps\n") == 1


def headers_of(postfix, *lines: str, **variables) -> list[str]:
    """What Postfix makes of header lines by mailings.pcre: the first matching line of the table acts on each."""
    one_click = CRM | {"unsubscribe_url": "https://crm.example.org/one-click"}
    table = postfix(
        "etc/postfix/mailings.pcre",
        **{"postfix_mailing_sites": [one_click, STAGING], "postfix_mailing_feedback_sender": "example"} | variables,
    )
    rules = [re.fullmatch(r"/(.*)/(i?) (\w+) ?(.*)", line) for line in table.splitlines() if line.startswith("/")]
    made = []
    for line in lines:
        for rule in rules:
            pattern, flag, action, text = rule.groups()
            # Postfix ignores case unless the flag switches that off.
            if found := re.search(pattern, line, re.S | (0 if flag else re.I)):
                text = re.sub(r"\$\{1\}", lambda _, f=found: f[1], text)
                made += {"REPLACE": [text], "PREPEND": [text, line], "IGNORE": []}[action]
                break
        else:
            made.append(line)
    return made


BOUNCE = "X-CiviMail-Bounce: civicrm+b.12.7.{}@crm.example.org"
POST = "List-Unsubscribe-Post: List-Unsubscribe=One-Click"


@pytest.mark.parametrize("hash_", ["26d7b951968ebe4b", "zzzzzzzzzzzzzzz9"])
def test_a_mailing_with_a_mailto_alone_gets_one_click(postfix, hash_):
    """Both generations of the hash, folded or not (N4)."""
    address = f"civicrm+u.12.7.{hash_}@crm.example.org"
    for blank in (" ", "\n "):
        made = headers_of(postfix, f"List-Unsubscribe:{blank}<mailto:{address}>", "job_id: 12", "Precedence: bulk")
        assert made == [
            f"List-Unsubscribe: <https://crm.example.org/one-click/u.12.7.{hash_}>, <mailto:{address}>",
            POST,
            "job_id: 12",
            "Precedence: bulk",
        ]


def test_an_application_that_does_it_itself_is_left_alone(postfix):
    own = "List-Unsubscribe: <https://x.example.org/y>, <mailto:civicrm+u.1.2.26d7b951968ebe4b@crm.example.org>"
    assert headers_of(postfix, own, POST, "job_id: 1") == [own, POST, "job_id: 1"]


@pytest.mark.parametrize(
    "line",
    [
        "List-Unsubscribe: <mailto:civicrm+u.1.2.26d7b951968ebe4b@staging.crm.example.org>",
        "List-Unsubscribe: <mailto:civicrm+b.1.2.26d7b951968ebe4b@crm.example.org>",
        "List-Unsubscribe: <mailto:civicrm+u.1.2.26D7B951968EBE4B@crm.example.org>",
        "List-Unsubscribe: <mailto:civicrm+u.1.2.26d7b951968ebe4b@crmXexample.org>",
        "Subject: List-Unsubscribe: <mailto:civicrm+u.1.2.26d7b951968ebe4b@crm.example.org>",
        "Received: by int.example.org (Postfix, from userid 100)",
        "Precedence: bulk",
    ],
)
def test_every_other_header_stays(postfix, line):
    """The lines that the switch of mailings decides on above all: here one action is all that a line gets."""
    assert headers_of(postfix, line) == [line]


def test_google_is_told_mailing_and_site(postfix):
    line = BOUNCE.format("26d7b951968ebe4b")
    assert headers_of(postfix, line) == ["Feedback-ID: 12:crm:mailing:example", line]
    assert headers_of(postfix, line, postfix_mailing_feedback_sender="") == [line]


def test_systemd_sees_that_the_master_was_killed(render):
    """Debian 12's unit forbids systemd to guess the master: it would call Postfix running without it."""
    name = "etc/systemd/system/postfix.service.d/civicrm.conf"
    assert "\nPIDFile=/var/spool/postfix/pid/master.pid\n" in render("postfix_mailing", name, distribution="Debian-12")
    assert "PIDFile" not in render("postfix_mailing", name)
