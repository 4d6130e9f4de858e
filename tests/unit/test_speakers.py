"""A message is signed for whom its submitter may speak for; in another's name it is refused (N46)."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from civicrm_tools.mail import speakers as tool
from civicrm_tools.mail.speakers import NOBODY, Submitter

KNOWN = tool.Speakers(
    hostname="int.example.org",
    users={"2001": "crm", "2002": "other", "2003": "staging"},
    domains={
        "crm": ["crm.example.org", "example.net"],
        "other": ["other.example.org"],
        "staging": ["staging.example.org"],
    },
    silent=["staging"],
    relay=["root@ext.example.org", "one-click@ext.example.org"],
)
CRM, OTHER, STAGING = (Submitter("uid", uid) for uid in ("2001", "2002", "2003"))
ROOT, SERVICE, LOGIN = Submitter("uid", "0"), Submitter("uid", "115"), Submitter("login", "crm")
RELAY, HOST, HIDDEN = Submitter("relay"), Submitter("host"), Submitter("hidden")


@pytest.fixture(autouse=True)
def users(monkeypatch):
    names = {2001: "crm", 2002: "other", 115: "abuse-report"}
    monkeypatch.setattr(tool.pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=names[uid]))


@pytest.mark.parametrize(
    ("submitter", "wanted", "signed"),
    [
        (CRM, "news@crm.example.org", True),
        (CRM, "News <news@CRM.example.org>", True),
        (LOGIN, "news@example.net", True),
        (CRM, "crm@int.example.org", True),
        (CRM, "someone@elsewhere.test", False),
        (ROOT, "root@int.example.org", True),
        (ROOT, "news@crm.example.org", True),
        (SERVICE, "postmaster@int.example.org", True),
        (RELAY, "Cron <root@ext.example.org>", True),
        (RELAY, "news@crm.example.org", False),
        (RELAY, "crm@ext.example.org", False),
        (HOST, "Mail Delivery System <MAILER-DAEMON@int.example.org>", True),
        (HOST, "news@crm.example.org", False),
        (HIDDEN, "news@crm.example.org", False),
        (STAGING, "news@crm.example.org", False),
    ],
)
def test_who_is_signed_for(submitter, wanted, signed):
    """Nobody gets the name of another under what it sends; what is merely unsigned is not refused."""
    found = KNOWN.judge(submitter, "", [wanted.encode()])
    assert found.refused == ""
    assert (found.signed_as in (NOBODY, tool.NOBODY_KNOWS)) is not signed
    if signed:
        assert found.signed_as.lower() in wanted.lower()


@pytest.mark.parametrize("submitter", [OTHER, Submitter("login", "other"), SERVICE])
@pytest.mark.parametrize(
    "wanted",
    [
        "news@crm.example.org",
        "x@example.net",
        "(a(b)c) N <news@(c)crm.example.org>",
        "root@ext.example.org",
        "x@staging.example.org",
    ],
)
def test_a_message_in_the_name_of_another_is_refused(submitter, wanted):
    """By From the submitter hears of it; by the envelope another would, who gets the bounce."""
    found = KNOWN.judge(submitter, "", [wanted.encode()])
    assert (found.signed_as, found.silent) == (NOBODY, False)
    assert "may not send as " in found.refused
    plain = wanted.partition("<")[2].rstrip(">").replace("(c)", "") or wanted
    assert KNOWN.judge(submitter, plain, [b"me@elsewhere.test"]).silent


def test_a_site_is_not_another_user_of_the_host():
    assert KNOWN.judge(CRM, "", [b"root@int.example.org"]).refused == "crm may not send as root@int.example.org"
    assert KNOWN.judge(CRM, "root@int.example.org", [b"news@crm.example.org"]).refused
    assert KNOWN.judge(CRM, "civicrm+b.1.2.0123456789abcdef@crm.example.org", [b"news@crm.example.org"]).refused == ""


# Forms of news@crm.example.org that Postfix reads as it, and that are no plain address.
DRESSED = [
    '"news"@crm.example.org',
    '"ne\\ws"@crm.example.org',
    "ne\\ws@crm.example.org",
    "@elsewhere.test:news@crm.example.org",
    "@elsewhere.test,@b.test:news@crm.example.org",
    "news@crm.example.org.",
    "news@(x)crm.example.org",
    'news@"crm."example.org',
    "news @ crm.example.org",
    "news",
    "news%crm.example.org",
    "news@[192.0.2.1]",
    "n\xe9ws@crm.example.org",
    "news@crm.example.org\0",
]


@pytest.mark.parametrize("submitter", [OTHER, Submitter("login", "other"), SERVICE, LOGIN])
@pytest.mark.parametrize("sender", DRESSED)
def test_an_envelope_that_two_could_read_in_two_ways_is_refused(submitter, sender):
    """Milters get the argument of MAIL as it was typed; Postfix takes the envelope from it as the plain address."""
    found = KNOWN.judge(submitter, sender, [b"me@elsewhere.test"])
    assert "may not send as" in found.refused
    assert found.silent


def test_an_empty_envelope_and_whatever_root_types_is_none_in_anothers_name():
    assert KNOWN.judge(OTHER, "", [b"me@other.example.org"]).refused == ""
    for sender in DRESSED:
        assert KNOWN.judge(ROOT, sender, [b'"x"@crm.example.org']).refused == ""
        assert KNOWN.judge(RELAY, sender, [b"me@elsewhere.test"]).refused == ""


@pytest.mark.parametrize("submitter", [OTHER, Submitter("login", "other"), SERVICE])
@pytest.mark.parametrize(
    "value",
    [
        '"news"@crm.example.org',
        'News <"news"@crm.example.org>',
        "<@elsewhere.test:news@crm.example.org>",
        "News <news@CRM.example.org.>",
        "news@crm(x).example(y).org, me@other.example.org",
        'news@"crm".example.org, me@other.example.org',
        "news@crm . example\r\n .org",
        'news@crm.(x)exa"mp\\l"e.org <',
        "x@staging.example.org, me@elsewhere.test",
        '"root"@ext.example.org',
    ],
)
def test_a_from_that_cannot_be_read_and_names_another_is_refused(submitter, value):
    found = KNOWN.judge(submitter, "", [value.encode()])
    assert "may not send as" in found.refused
    assert not found.silent


@pytest.mark.parametrize(
    "value",
    [
        "news@crm.example.org, eve@elsewhere.test",
        "x@mycrm.other.example.org, y@other.example.org.evil.test",
        "a@elsewhere.test, b@elsewhere.test",
    ],
)
def test_an_unreadable_from_that_names_nobody_else_is_merely_unsigned(value):
    """A site's own two authors, and domains that another's is only a part of."""
    assert KNOWN.judge(CRM, "", [value.encode()]) == tool.Judgement()


def test_the_domain_of_two_sites_is_told_from_a_part_of_it():
    """A site below another's domain may write its own From as badly as it likes."""
    domains = {"crm": ["crm.example.org"], "up": ["example.org"]}
    known = tool.Speakers("int.example.org", {"2001": "crm"}, domains, silent=[], relay=[])
    assert known.judge(CRM, "", [b"a@crm.example.org, b@crm.example.org"]) == tool.Judgement()
    assert known.judge(CRM, "", [b"a@crm.example.org, b@example.org"]).refused


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 100_000,
        b"(" * 50_000 + b")" * 50_000 + b" news@crm.example.org\\",
        b'"' + b"\\" * 99_999,
        b"<" * 100_000 + b"@",
        b"a" * 50_000 + b"@" + b"a." * 25_000,
        b"\xff\xfe <\x00@\x80>",
        b"",
    ],
    ids=["open comments", "nested comments", "escapes", "brackets", "long", "noise", "empty"],
)
def test_no_from_takes_long_or_fails(value):
    """A message that a program dies of would wait in maildrop for ever."""
    assert KNOWN.judge(CRM, "", [value]) == tool.Judgement()


@pytest.mark.parametrize(
    "value",
    [
        b"news@crm.example.org, eve@elsewhere.test",
        b"eve@elsewhere.test <news@crm.example.org>",
        b'"news@crm.example.org" eve@elsewhere.test <>',
        b"news@crm.example.org.",
        b"<news@crm.example.org> <x@elsewhere.test>",
        b"group: news@crm.example.org;",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_signed_for_nobody(value):
    assert KNOWN.judge(CRM, "", [value]).signed_as == NOBODY


def test_of_two_from_headers_none_is_signed_for():
    assert KNOWN.judge(CRM, "", [b"news@crm.example.org", b"news@crm.example.org"]).signed_as == NOBODY
    assert KNOWN.judge(OTHER, "", [b"me@other.example.org", b"news@crm.example.org"]).refused
    assert KNOWN.judge(CRM, "", []).signed_as == NOBODY


def test_what_the_role_writes_can_be_read(tmp_path):
    path = tmp_path / "speakers.json"
    path.write_text(json.dumps(vars(KNOWN)))
    assert tool.load(path) == KNOWN
