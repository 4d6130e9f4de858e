"""The signer's configuration as its operator gets it (P1)."""

from __future__ import annotations

from pathlib import Path

import pytest

SETTINGS = {
    "dkim_domains": ["crm.example.org", "int.example.org"],
    "dkim_selector": "crm1",
    "dkim_private_keys": {"crm1._domainkey.crm.example.org": "canary", "crm1._domainkey.int.example.org": "canary"},
    "dkim_internal_hosts": ["10.77.0.12", "fd77::/64"],
}


@pytest.fixture
def lines(render):
    """The lines of a rendered template that are no comments."""

    def _lines(template: str, **variables) -> list[str]:
        text = render("dkim", template, **SETTINGS | variables)
        assert "canary" not in text
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    return _lines


def test_each_domain_signs_for_itself_and_for_nothing_else(lines):
    """Strict alignment: d= is the domain of From, letter for letter."""
    assert lines("etc/opendkim/signing") == [
        "*@crm.example.org crm.example.org",
        "*@int.example.org int.example.org",
    ]
    assert lines("etc/opendkim/keys")[0] == (
        "crm.example.org crm.example.org:crm1:/etc/dkimkeys/crm1._domainkey.crm.example.org.pem"
    )


def test_only_this_host_and_the_listed_clients_are_signed_for(lines):
    assert lines("etc/opendkim/internal-hosts") == ["127.0.0.0/8", "::1", "localhost", "10.77.0.12", "fd77::/64"]


def test_whom_a_message_is_signed_for_an_earlier_milter_says(lines):
    """From is whatever the submitter likes (N46), and counts only until the milter is there."""
    assert "SenderHeaders X-Signed-As,From" in lines("etc/opendkim.conf", dkim_sender_header="X-Signed-As")
    assert not [line for line in lines("etc/opendkim.conf") if line.startswith("SenderHeaders")]


def test_what_cannot_be_signed_waits_and_a_second_from_is_no_way_in(lines):
    settings = dict(line.split(maxsplit=1) for line in lines("etc/opendkim.conf"))
    assert settings["Mode"] == "s"
    assert settings["OversignHeaders"] == "From"
    assert settings["SignHeaders"] == "*,+List-Unsubscribe,+List-Unsubscribe-Post,+Feedback-ID"
    assert settings["On-InternalError"] == settings["On-SignatureError"] == "tempfail"
    # No user of a site may ask for signatures: the socket is for the group alone.
    assert (settings["Socket"], settings["UMask"]) == ("local:/run/opendkim/opendkim.sock", "007")


def test_the_signer_may_write_where_its_socket_and_its_pid_file_are(lines):
    """Debian's unit names no directory of its own; a container without mount namespaces passes over the sandbox."""
    settings = dict(line.split(maxsplit=1) for line in lines("etc/opendkim.conf"))
    unit = dict(
        line.split("=", 1) for line in lines("etc/systemd/system/opendkim.service.d/civicrm.conf") if "=" in line
    )
    written = {str(Path(path).parent) for path in (settings["Socket"].removeprefix("local:"), settings["PidFile"])}
    assert unit["ProtectSystem"] == "strict"
    assert written == {unit["ReadWritePaths"]}


def test_the_signer_is_started_again_however_it_ends(lines):
    unit = lines("etc/systemd/system/opendkim.service.d/civicrm.conf")
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(unit)
