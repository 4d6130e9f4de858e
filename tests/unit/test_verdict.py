"""Each refusal that the world's mail servers are known to make is read as what it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from civicrm_tools.mail import verdict
from civicrm_tools.mail.verdict import KINDS, judge, of_reply
from civicrm_tools.mail.verdict_address import ADDRESS
from civicrm_tools.mail.verdict_codes import ENHANCED, OWN, RANGES
from civicrm_tools.mail.verdict_us import OTHERS, US

# What servers and providers say, and what it is about; the file says how a line reads.
REFUSALS = Path(__file__).with_name("refusals.txt").read_text().splitlines()
FORMS_SEEN = [tuple(part.strip() for part in line.split("|", 2)) for line in REFUSALS if not line.startswith("#")]


@pytest.mark.parametrize(("expected", "host", "text"), FORMS_SEEN)
def test_a_known_form_is_read_as_what_it_is_about(expected, host, text):
    assert str(judge(text, host=host)) == expected


def test_the_table_of_forms_is_large_enough_to_trust():
    """At least 150 different ones, and each kind of a refusal among them."""
    assert len({text for _, _, text in FORMS_SEEN}) >= 150
    refusals = {f"{subject}/{kind}" for subject, kinds in KINDS.items() if subject != "nobody" for kind in kinds}
    assert {expected for expected, _, _ in FORMS_SEEN} == refusals


@pytest.mark.parametrize("table", [ADDRESS, US, OTHERS, ENHANCED, RANGES, OWN])
def test_each_line_of_the_tables_has_a_verdict_that_exists_a_source_and_a_year(table):
    for line in filter(None, table.splitlines()):
        _form, said, source, year = line.split(" | ")
        subject, _, kind = said.removeprefix("! ").partition(" ")
        assert said == "?" or kind in KINDS[subject], line
        assert source, line
        assert 2000 <= int(year) <= 2026, line


@pytest.mark.parametrize("text", ["store 10.5.7.12", "10.5.7.1", "5.7.12.1", "version 4.5.7.1", "25.5.1"])
def test_an_address_or_a_version_is_no_code(text):
    assert verdict.STATUS.findall(text) == []


@pytest.mark.parametrize(
    ("status", "text", "subject"),
    [
        # What a relay writes into Status against what the server said.
        ("5.1.1", "550 5.7.1 IP address blacklisted by recipient", "us"),
        ("5.1.3", "553 http://www.spamhaus.org/query/bl?ip=192.0.2.9", "us"),
        ("5.7.1", "550 5.1.1 user unknown", "address"),
        ("5.0.0", "550 5.1.1 user unknown", "address"),
        ("5.1.1", "", "address"),
        ("5.7.1", "", "us"),
        ("5.7.1", "550-Relay is not permitted from your server. 550-mx.example.org [192.0.2.9] is 550 blocked.", "us"),
    ],
)
def test_the_reply_comes_before_the_status_of_a_report(status, text, subject):
    assert judge(text, status=status).subject == subject


def test_words_in_an_address_say_nothing():
    """Somebody may be called blocked@spam.example."""
    assert judge("550 5.1.1 <blocked.spam@blacklist.example>: user unknown").subject == "address"
    assert judge("550 <spamhaus@blacklist.example> unavailable mailbox").subject == "address"


def test_a_refusal_before_the_recipient_was_named_is_about_us():
    reply = "host mx.provider.example[192.0.2.25] said: 550 mailbox unavailable (in reply to MAIL FROM command)"
    assert of_reply(reply).subject == "us"
    assert of_reply(reply.replace("MAIL FROM", "RCPT TO")).subject == "address"
    assert of_reply("host mx.provider.example[192.0.2.25] refused to talk to me: 550 go away").subject == "us"


def test_a_code_of_one_provider_means_nothing_elsewhere():
    assert judge("554 unavailable (BL)", host="mx00.t-online.de").kind == "reputation"
    assert "BL" not in judge("554 unavailable (BL)", host="mx.provider.example").rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("550 5.2.0 Mail rejected. OFR_506", "OFR_506"),
        ("553 5.1.8 Domain of sender address does not exist", "5.1.8"),
        ("550 5.1.1 user unknown", "user unknown"),
        ("550 blurb", "reply code"),
        ("", "nothing known"),
    ],
)
def test_a_verdict_names_its_rule(text, rule):
    assert rule in judge(text).rule


@given(st.text(max_size=400), st.text("0123456789.x", max_size=9), st.text(max_size=20))
def test_no_text_stops_the_reading(text, status, host):
    found = judge(text, status=status, host=host)
    assert found.kind in KINDS[found.subject]
    assert of_reply(text).kind in KINDS[of_reply(text).subject]
