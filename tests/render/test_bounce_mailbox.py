"""Dovecot's configuration as its operator gets it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "bounce_mailbox"
HASH = "{SHA512-CRYPT}$6$salt$hash"


@pytest.fixture
def dovecot(render):
    def _render(template: str, **variables):
        return render(
            "bounce_mailbox",
            template,
            **{
                "bounce_mailbox_accounts": [
                    {"name": "crm", "domains": ["crm.example.org", "old.example.org"], "password_hash": HASH},
                    {"name": "staging-crm", "domains": ["staging.crm.example.org"], "password_hash": HASH},
                ],
                "bounce_mailbox_tls_certificate_file": "/etc/ssl/imap.crt",
                "bounce_mailbox_tls_key_file": "/etc/ssl/imap.key",
            }
            | variables,
        )

    return _render


def entries(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.splitlines() if not line.startswith("#")]


def test_every_account_has_a_user_and_a_directory_of_its_own(dovecot):
    accounts = entries(dovecot("etc/dovecot/accounts.passwd"))
    assert [entry[0] for entry in accounts] == ["crm", "staging-crm"]
    assert len({entry[2] for entry in accounts}) == 2
    assert len({entry[5] for entry in accounts}) == 2
    assert all(len(entry) == 8 and entry[1] == HASH for entry in accounts)
    tmpfiles = dovecot("etc/tmpfiles.d/bounce_mailbox.conf").splitlines()
    assert "d /srv/mail/crm 0700 vmail-crm vmail" in tmpfiles


def test_every_domain_leads_to_one_mailbox_and_to_no_login(dovecot):
    domains = {entry[0]: entry for entry in entries(dovecot("etc/dovecot/domains.passwd"))}
    assert set(domains) == {"crm.example.org", "old.example.org", "staging.crm.example.org"}
    assert domains["old.example.org"][7] == "userdb_user=crm"
    assert domains["old.example.org"][5] == "/srv/mail/crm"
    assert all(entry[1] == "" for entry in domains.values())


# Dovecot's language differs by release; the mailboxes do not.
RELEASES = ["2.3", "2.4"]
CLEARTEXT = {"2.3": "\ndisable_plaintext_auth = yes\n", "2.4": "\nauth_allow_cleartext = no\n"}
QUOTA = {"2.3": "\n  quota_rule = *:storage=500M\n", "2.4": "\n  storage_size = 500M\n"}
# Maildir++'s one file: the other drivers look through every folder at each delivery.
COUNTED = {"2.3": "\n  quota = maildir:mailbox\n", "2.4": "quota mailbox {\n  driver = maildir\n"}
SIEVE = {"2.3": "mail_plugins = $mail_plugins sieve", "2.4": "sieve = yes"}


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


@pytest.fixture
def configuration(dovecot, release):
    return lambda **variables: dovecot(f"etc/dovecot/dovecot-{release}.conf", **variables)


def test_a_domain_opens_no_login(configuration):
    passdb = configuration().split("passdb ", 1)[1].split("}", 1)[0]
    assert "domains.passwd" not in passdb
    assert configuration().count("passdb ") == 1


def test_no_password_can_cross_in_clear(configuration, release):
    assert "\nssl = required\n" in configuration()
    assert CLEARTEXT[release] in configuration()
    imap = configuration().split("inet_listener imap {", 1)[1].split("}", 1)[0]
    assert "port = 0" in imap


def test_wrong_passwords_of_one_site_slow_no_other(configuration):
    """All of them come from loopback."""
    assert re.search(r"unix_listener anvil-auth-penalty {\s+mode = 0\s+}", configuration())


def test_only_loopback_unless_told(configuration):
    assert "\nlisten = 127.0.0.1, ::1\n" in configuration()


def test_each_debian_has_the_language_of_its_dovecot():
    for debian, release in ((12, "2.3"), (13, "2.4")):
        variables = yaml.safe_load((ROLE / f"vars/Debian-{debian}.yml").read_text())
        assert variables["__bounce_mailbox_dovecot_release"] == release


def test_both_languages_take_the_same_variables():
    """What one release lets an operator change the other does, too."""
    texts = [(ROLE / f"templates/etc/dovecot/dovecot-{release}.conf.j2").read_text() for release in RELEASES]
    old, new = (set(re.findall(r"bounce_mailbox_\w+", text)) for text in texts)
    assert old == new


def test_new_mail_goes_where_it_is_told(dovecot):
    """Something may stand before INBOX; without it the application gets its mail at once (N9)."""
    assert 'fileinto :create "INBOX";' in dovecot("etc/dovecot/sieve/delivery.sieve")
    script = dovecot("etc/dovecot/sieve/delivery.sieve", bounce_mailbox_delivery_folder="INBOX.Incoming")
    assert 'fileinto :create "INBOX.Incoming";' in script


def test_every_delivery_runs_that_script(configuration, release):
    lmtp = configuration().split("protocol lmtp {", 1)[1].split("\n}", 1)[0]
    assert SIEVE[release] in lmtp
    assert "/etc/dovecot/sieve/delivery.sieve\n" in configuration()


def test_a_full_mailbox_makes_mail_wait(configuration, release):
    text = configuration(bounce_mailbox_quota="500M")
    assert QUOTA[release] in text
    assert COUNTED[release] in text
    assert "\nquota_full_tempfail = yes\n" in text


def test_what_a_site_tried_to_send_is_kept_apart_from_its_bounces(dovecot):
    """The application empties the folder of new mail, and would take a caught newsletter for bounces (P12)."""
    script = dovecot("etc/dovecot/sieve/delivery.sieve")
    caught, other = script.split("} else {")
    assert 'envelope :domain :matches "to" "*.caught.invalid"' in caught
    assert 'fileinto :create "INBOX.Caught";' in caught
    assert 'fileinto :create "INBOX";' in other


def test_only_postfix_may_ask_for_a_password(dovecot):
    assert "dovecot-sasl" not in dovecot("etc/dovecot/dovecot-2.4.conf")
    text = dovecot("etc/dovecot/dovecot-2.4.conf", bounce_mailbox_sasl_socket="/var/spool/postfix/private/dovecot-sasl")
    service = text.split("unix_listener /var/spool/postfix/private/dovecot-sasl {", 1)[1].split("}", 1)[0]
    assert "user = postfix" in service
    assert "mode = 0600" in service


def test_no_user_of_the_host_delivers_or_asks_dovecot(configuration):
    """Dovecot opens these to everybody unless told; by LMTP a site would count bounces in another's name (N46)."""
    modes = dict(re.findall(r"unix_listener ([a-z-]+) {(?:\s+user = postfix)?\s+mode = (\d+)\s+}", configuration()))
    assert modes == {"anvil-auth-penalty": "0"} | dict.fromkeys(
        ("lmtp", "indexer", "imap-urlauth", "dns-client", "auth-userdb"), "0600"
    )


def test_imaps_has_the_suites_that_it_is_given(configuration):
    given = configuration(bounce_mailbox_tls_suites=["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"])
    assert "\nssl_cipher_list = ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305\n" in given
    assert "ssl_cipher_list" not in configuration()


@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_what_is_filed_for_people_goes_by_itself(dovecot, release):
    """Refused and Notices count towards the quota of the bounces."""
    folders = [{"name": "INBOX.Refused", "keep": "90d"}, {"name": "INBOX.Notices", "keep": "9w"}]
    text = dovecot(f"etc/dovecot/dovecot-{release}.conf", bounce_mailbox_expiring_folders=folders)
    found = dict(re.findall(r"mailbox (\w+) \{\s+autoexpunge = (\w+)\s+\}", text))
    assert found == {"Caught": "30d", "Refused": "90d", "Notices": "9w"}
