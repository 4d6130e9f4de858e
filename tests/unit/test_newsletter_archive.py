"""What is published of a newsletter is the same for every reader, whatever somebody wrote into it (S37)."""

from __future__ import annotations

import json
import os
import pwd
import random
import re
import stat
import string
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import nh3
import pytest
from contract_addresses import DOMAIN, HASH, READ_ONLY, TODAY
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loading import ROOT

from civicrm_tools.mail import addresses
from civicrm_tools.newsletter import archive as tool
from civicrm_tools.newsletter import markup, personal
from civicrm_tools.newsletter.personal import Refused

TOKENS = {"contact.display_name": "reader", "contact.first_name": ""}
CRM = f"https://{DOMAIN}"
A_LINK = '<a href="https://x.example" rel="nofollow noopener noreferrer">a<table><tr><td>b</td></tr></table>c</a>'


def sanitised(html: str, hosts: tuple[str, ...] = ()) -> str:
    return markup.sanitised(html, TOKENS, list(hosts))


# What is refused


@pytest.mark.parametrize("address", [*TODAY, *READ_ONLY])
@pytest.mark.parametrize("form", ["{}", str.upper, "<b>{}</b>", "&lt;{}&gt;", "mailto:{}?subject=x"], ids=str)
def test_every_address_of_the_contract_is_refused(address, form):
    """An address names one reader, and whoever mails it unsubscribes that reader."""
    text = address.upper() if callable(form) else form.format(address)
    with pytest.raises(Refused):
        sanitised(f"<p>{text}</p>")


@pytest.mark.parametrize("address", [*TODAY, *READ_ONLY])
def test_an_address_that_is_cut_in_pieces_is_refused(address):
    """A soft hyphen, an element or percent signs hide nothing from a reader, or from who looks for addresses."""
    middle = len(address) // 2
    for between in ("<b></b>", "<wbr>", "&shy;", "\u200b", "<!-- -->", "<script>x</script>"):
        with pytest.raises(Refused):
            sanitised(f"<p>{address[:middle]}{between}{address[middle:]}</p>")
    with pytest.raises(Refused):
        sanitised("<p>" + address.replace(".", "%252e").replace("@", "%40") + "</p>")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Dear {contact.last_name}", "token"),
        ("{if $x}", "token"),
        ("{con<b>tact.last</b>_name}", "token"),
        ("&#123;contact.last_name&#125;", "token"),
        ("\uff5bcontact.last_name\uff5d", "token"),
        ("%7Bcontact.last_name%7D", "token"),
        (f"your code is {HASH}", "hash"),
        (f"your code is {HASH.upper()}", "hash"),
        ("your code is a4b9zq71mdx0k2pf", "hash"),
        ("your code is aef6032949515037", "hash"),
        ("your code is xkqvjwzyghbptx20", "hash"),
        ("IBAN GB82WEST12345698765433", "hash"),
        ("d41d8cd98f00b204e9800998ecf8427e_1700000000_168", "hash"),
        (f"{CRM}/civicrm/x?reset=1&amp;h=abcdefghijklmnop", "parameter"),
        ("https://x.example/?cid=3", "parameter"),
        ("<img alt='{contact.last_name}' src=x>", "token"),
        (f"<h1><![CDATA[{HASH}]]></h1>{HASH}", "hash"),
        ("", "no text"),
        ("x" * 1_000_001, "characters"),
    ],
)
def test_what_names_a_reader_is_refused_with_the_reason(text, reason):
    with pytest.raises(Refused, match=reason):
        sanitised(text)


@pytest.mark.parametrize(
    "text",
    [
        "internationalisation of 12345678901234567890 newsletters",
        "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion/",
        "press@example.org, subscribe at example.org, b.1.2",
        "5 < 6 & 7 > 3",
        "IBAN DE89370400440532013000, GB82WEST12345698765432 or NL91ABNA0417164300",
        "#klimakonferenz2026, #schwarzwaldklinik2026 and 20jahrezivilgesellschaft",
        "#MITGLIEDERVERSAMMLUNG2026, ISBN9783161484100",
        "\U0001f3f3\ufe0f\u200d\U0001f308 for all",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u06f1\u06f4\u06f0\u06f5",
        "\u0915\u094d\u200d\u0937 \u0928\u092e\u0938\u094d\u0924\u0947",
        "a set {1, 2, 3} and {}",
    ],
)
def test_ordinary_words_are_published(text):
    """A newsletter that is refused without need is read by a human, each time."""
    assert markup.html.unescape(sanitised(f"<p>{markup.html.escape(text)}</p>")) == f"<p>{text}</p>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"your code is {HASH}.", 'a hash: 26d7... (16 characters) in the text after "your code is"'),
        ("Dear {contact.last_name}", 'a token in braces: {contact.last_name} (19 characters) in the text after "Dear"'),
        (f"<h1>{HASH}</h1>", "a hash: 26d7... (16 characters) in the text"),
        (
            f"see https://x.example/?cid=3 at 9 {TODAY[0]}",
            'an address of CiviMail: b.29... (31 characters) in the text after "see at"; '
            'a parameter that names a reader: ?cid= (5 characters) in the text after "see"',
        ),
    ],
)
def test_the_reason_names_the_word_and_gives_nothing_away(text, reason):
    """A person finds it in the newsletter, and the journal holds no address or hash."""
    with pytest.raises(Refused) as refused:
        sanitised(f"<p>{text}</p>")
    assert str(refused.value) == reason


def test_a_newsletter_full_of_hashes_has_a_reason_that_can_be_read():
    with pytest.raises(Refused) as refused:
        sanitised("".join(f"<p>{number:05}x{HASH}</p>" for number in range(1000)))
    assert len(str(refused.value)) < 1000


def test_few_random_hashes_pass_for_words():
    """Those without a digit, 5 in 1,000, passed before, too."""
    chance = random.Random(1)  # noqa: S311
    for letters, length in (
        (string.digits + string.ascii_lowercase, 16),
        ("0123456789abcdef", 16),
        ("0123456789abcdef", 32),
    ):
        hashes = ["".join(chance.choices(letters, k=length)) for _ in range(5000)]
        passed = [word for word in hashes if not word.isalpha() and not word.isdigit() and not personal.is_hash(word)]
        assert len(passed) <= 10, passed


@pytest.mark.parametrize(
    ("read", "reason"),
    [(lambda *_, **__: 1 / 0, "cannot be read"), (lambda *_, **__: time.sleep(1), "takes too long")],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_markup_that_nh3_gives_up_on_is_refused(monkeypatch, read, reason):
    """Nothing interrupts nh3, so the others do not wait for its end."""
    monkeypatch.setattr(nh3, "clean", read)
    monkeypatch.setattr(markup, "READ_SECONDS", 0.2)
    with pytest.raises(Refused, match=reason):
        sanitised("a")


def test_a_host_without_nh3_refuses_in_one_line(archive, capfd, monkeypatch):
    """Debian 12 has no python3-nh3; nothing is asked or published there."""
    monkeypatch.setitem(sys.modules, "nh3", None)
    assert archive.run(mailing()) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "python3-nh3" in said and "release 13" in said
    assert archive.pages() == set()
    assert archive.call("list") == 0


# What is left out


@pytest.mark.parametrize(
    ("given_html", "wanted"),
    [
        ("<p onclick='x' style='y' class=z>a</p>", "<p>a</p>"),
        ("a<script>alert(1)</script>b<style>p{x}</style>c", "abc"),
        ("a<form action=x><input name=q>Send</form>b", "ab"),
        ("a<form>b", "a"),
        ("<noscript><img src=x></noscript>a<iframe src=x>b</iframe>", "a"),
        ("<svg><script>x</script></svg>a<math>b</math>", "a"),
        ("Dear {contact.display_name}, {contact.first_name}hi", "Dear reader, hi"),
        ("<a href='{action.unsubscribeUrl}'>Unsubscribe</a>", "Unsubscribe"),
        ("<a href='javascript:alert(1)'>a</a>", "a"),
        ("<a href='java\nscript:alert(1)'>a</a>", "a"),
        ("<a href='data:text/html,x'>a</a>", "a"),
        ("<a href='//x.example'>a</a>", "a"),
        ("<a href='https://user:pw@x.example/'>a</a>", "a"),
        ("<a href='https://x.example\\@y.example/'>a</a>", "a"),
        (f"<a href='mailto:{TODAY[1]}'>leave</a>", "leave"),
        (f"<a href='{CRM}/one-click/u.1.2.{HASH}'>leave</a>", "leave"),
        (f"<a href='{CRM}/civicrm/mailing/url?u=1&qid=2'>a</a>", "a"),
        (f"<a href='{CRM}/?q=civicrm/mailing/view&id=2'>a</a>", "a"),
        (f"<a href='{CRM}/?q=%2563ivicrm'>a</a>", "a"),
        ("<a href='https://x.example/?id=1&cs=2_3_4'>a</a>", "a"),
        ("<a href='https://x.example/?CID=1'>a</a>", "a"),
        ("<a href='https://x.example/?%63id[0]=1'>a</a>", "a"),
        (f"<a href='https://x.example/{HASH}'>a</a>", "a"),
        ("<a href='https://x.example/#h=abc'>a</a>", "a"),
        ("<img src='https://crm.example.org/civicrm/mailing/open?qid=1' width=1 height=1>a", "a"),
        ("<img src='https://other.example/a.png' alt='A view'>", "A view"),
        ("<![if !mso]>a<![endif]><!--[if mso]>b<![endif]-->", "a"),
        ("<table><tr><td colspan=2 rowspan=x>a</table>", '<table><tr><td colspan="2">a</td></tr></table>'),
        ("</p></div>a<b>b", "a<b>b</b>"),
        ("<title>x</title><body onload=x>a", "a"),
        ("<head><title>x</title><style>x</style></head>a", "a"),
        ("<a href='vbscript:x'>a</a><a href='mailto:press@x.example'>b</a><a href='/c'>c</a>", "abc"),
        ("<a href='https://x.example'>a<table><tr><td><a href=ftp://x.example>b</table>c</a>", A_LINK),
        ("<template><p>a</template><object>b</object><textarea><b>c</textarea>d", "d"),
        ("<select><option>a</select><button>b</button><audio>c</audio><video>d</video>e", "e"),
        ("<plaintext><script>a", "&lt;script&gt;a"),
        ("<noscript><p title='</noscript><img src=x onerror=y>'>a", "&#x27;&gt;a"),
        ("a<math><mtext><table><mglyph><style><!--</style><img src=x onerror=y>", "a"),
        ("<p>a&lt;script&gt;b</p>", "<p>a&lt;script&gt;b</p>"),
        ("<thead>a</thead><tbody><tr><td>b", "ab"),
        ("<td rowspan=02>a", "a"),
        ("<base href=//x.example><meta http-equiv=refresh><link rel=stylesheet href=x>a", "a"),
        ("<h1>a</h1><hr><ul><li>b<li>c</ul>", "<h1>a</h1><hr><ul><li>b</li><li>c</li></ul>"),
        ("<font color=red>a</font><center>b</center>", "ab"),
    ],
)
def test_only_text_and_plain_markup_is_left(given_html, wanted):
    assert sanitised(given_html) == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://x.example/?p=123", "https://x.example/?p=123"),
        ("https://x.example/?p=1&utm_source=news&utm_campaign=x", "https://x.example/?p=1"),
        ("https://x.example/a?fbclid=abc#part", "https://x.example/a#part"),
        (" http://x.example ", "http://x.example"),
        ("https://x.example/klimakonferenz2026", "https://x.example/klimakonferenz2026"),
        ("https://x.example/\u06a9\u062a\u0627\u0628\u200c\u062e\u0627\u0646\u0647",) * 2,
    ],
)
def test_links_that_are_the_same_for_all_stay(url, wanted):
    rest = 'rel="nofollow noopener noreferrer"'
    assert sanitised(f"<a href='{url}'>a</a>") == f'<a href="{wanted}" {rest}>a</a>'


def test_pictures_of_the_named_hosts_stay():
    picture = '<img src="https://pictures.example/a.png" alt="A &lt;view&gt;">'
    hosts = ("pictures.example",)
    assert sanitised(picture, hosts) == picture
    for other in (
        "https://pictures.example/a.png?qid=1",
        "http://pictures.example/a.png",
        "https://pictures.example:8/a",
    ):
        assert sanitised(f"a<img src='{other}'>", hosts) == "a"


# Whatever somebody writes


class Oracle(HTMLParser):
    """What a browser may find in a published page: an independent list."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "style", "form", "input", "iframe", "img", "svg", "object", "meta", "link", "base")
        for name, value in attrs:
            assert (tag, name) in {("a", "href"), ("a", "rel"), ("td", "colspan"), ("td", "rowspan"), ("th", "colspan")}
            if name == "href":
                parts = urlsplit(value)
                assert parts.scheme in ("http", "https") and "@" not in parts.netloc
                assert "civicrm" not in unquote(unquote(value)).lower()
                assert not {k.lower() for k, _ in parse_qsl(parts.query)} & {"qid", "cs", "h", "jid", "hash", "cid"}
                self.handle_data(unquote(value))

    def handle_data(self, data):
        self.text += data


def check(page: str) -> None:
    oracle = Oracle()
    oracle.feed(page)
    oracle.close()
    text = re.sub("[\u00ad\u200b]", "", oracle.text)
    # A token has a name: braces around signs alone are text.
    assert not any(any(map(str.isalpha, inside)) for inside in re.findall(r"\{([^{}]+)\}", text))
    assert HASH not in text
    # The module's own expression for addresses: what CiviCRM or an old log would accept.
    assert not addresses.pattern("civicrm+", ".").search(text)


PIECES = [
    *(
        "<p>",
        "</p>",
        "<b>",
        "</b>",
        "<br/>",
        "<td colspan=3>",
        "<script>",
        "</script>",
        "<form>",
        "</form>",
        "<!--",
        "-->",
    ),
    *(
        "<style>",
        "</style>",
        "<![if x]>",
        "<![endif]>",
        "<![CDATA[",
        "]]>",
        "<!DOCTYPE",
        "<?php",
        "?>",
        "<svg/onload=x>",
    ),
    *(
        "{",
        "}",
        "{contact.last_name}",
        "{contact.display_name}",
        "&#123;",
        "&amp;",
        "&lt;",
        "&shy;",
        "\u200b",
        "\0",
        "%7B",
    ),
    *(
        "<a href='",
        '<a href="https://x.example/?',
        "'>",
        '">',
        "</a>",
        "qid=1&",
        "cs=",
        "&h=",
        "javascript:",
        "utm_source=x&",
    ),
    *(
        "<img src=x onerror=y>",
        "<img alt='",
        "civicrm/mailing/url",
        "civicrm+",
        "@",
        "unsubscribe.1.2.3.",
        "u.1.2.",
        HASH,
    ),
    *(HASH[:8], HASH[8:], TODAY[0], READ_ONLY[1], f"{CRM}/", "<", ">", "'", '"', "&", " ", "word", "\n"),
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=25).map("".join))
@example("{-->}")
@example("{ 1 }")
def test_nothing_that_names_a_reader_survives_and_nothing_crashes(source):
    try:
        page = sanitised(source)
    except Refused as refusal:
        assert refusal.reasons
    else:
        check(page)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_or_is_refused(source):
    """What was text stays text: no markup is made out of it."""
    try:
        page = sanitised(markup.html.escape(source))
    except Refused:
        return
    assert not re.search(r"<(?!/)", page)


@pytest.mark.parametrize(
    "piece",
    [
        "<b>",
        "<a href=https://x.example>",
        "</i>",
        "<",
        "</",
        "<!",
        "<?",
        "<!--",
        "<![CDATA[",
        "<a b='",
        "&",
        "{",
        "a1",
        f"{HASH} ",
    ],
)
def test_a_large_newsletter_does_not_hold_up_the_others(monkeypatch, piece):
    """What takes longer than its share is refused."""
    monkeypatch.setattr(markup, "READ_SECONDS", 0.5)
    started = time.process_time()
    try:
        sanitised("x " + piece * (900_000 // len(piece)))
    except Refused as refusal:
        assert refusal.reasons
    assert time.process_time() - started < 8


def test_a_brace_before_a_long_text_takes_no_time():
    started = time.process_time()
    assert "{ 1" in sanitised("{ 1 " + "a b " * 200_000)
    assert time.process_time() - started < 3


def test_400_kb_of_broken_links_take_less_than_a_second():
    started = time.process_time()
    assert sanitised("<p>x</p>" + "<a" * 200_000) == "<p>x</p>"
    assert time.process_time() - started < 1


# Runs


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive whose run(*mailings) answers its command with them; the web host is a directory."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    answer, question, sent, commands = (tmp_path / name for name in ("answer", "question", "sent", "bin"))
    (tmp_path / "archive").mkdir()
    (tmp_path / "metrics").mkdir()
    commands.mkdir()
    sent.mkdir()
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ncat > {question}\ncat {answer}\n")
    # The tool passes its environment on to nobody; the file `line` says what is wrong with the line.
    ssh = commands / "ssh"
    line = f"FAKE_REMOTE={sent} FAKE_SSH=$(cat {tmp_path}/line 2>/dev/null)"
    ssh.write_text(f'#!/bin/sh\n{line} exec {ROOT}/tests/unit/fakes/remote/ssh "$@"\n')
    for path in (command, ssh):
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "command": [str(command)],
                "command_user": me,
                "command_environment": {},
                "user": me,
                "title": "News & views",
                "language": "en",
                "directory": str(tmp_path / "archive"),
                "tokens": TOKENS,
                "image_hosts": [],
                "target": {"host": "fd77::12", "user": "newsletter", "port": 22},
                "key": "/k",
                "known_hosts": "/h",
                "metrics_file": str(tmp_path / "metrics" / "newsletter_archive.prom"),
            }
        )
    )

    class Archive:
        path = tmp_path

        def call(self, *arguments: str) -> int:
            return tool.main(["--config", str(config), *arguments])

        def run(self, *mailings: dict) -> int:
            answer.write_text(json.dumps({"mailings": mailings}))
            return self.call("run")

        def pages(self) -> set[str]:
            return {path.name for path in sent.iterdir()}

        def page(self, name: str) -> str:
            return (sent / name).read_text()

        def asked(self) -> dict:
            return json.loads(question.read_text())

        def metrics(self) -> dict[str, int]:
            text = (tmp_path / "metrics" / "newsletter_archive.prom").read_text()
            return {name: int(number) for name, number in re.findall(r"^newsletter_archive_(\w+) (\d+)$", text, re.M)}

    return Archive()


def mailing(number: int = 7, html: str = "<p>Dear {contact.display_name}</p>", **keys: str) -> dict:
    return {"id": number, "date": "2026-01-31", "subject": "January <1>", "html": html} | keys


def test_a_newsletter_becomes_a_page_and_a_line_of_the_index(archive):
    assert archive.run(mailing(), mailing(9, date="2026-02-28")) == 0
    assert archive.pages() == {"index.html", "style.css", "2026-01-31-7.html", "2026-02-28-9.html"}
    assert "<p>Dear reader</p>" in archive.page("2026-01-31-7.html")
    assert "<title>January &lt;1&gt;</title>" in archive.page("2026-01-31-7.html")
    index = archive.page("index.html")
    assert index.index("2026-02-28-9.html") < index.index("2026-01-31-7.html")
    assert "News &amp; views" in index
    assert archive.metrics()["published"] == 2 and archive.metrics()["last_success_timestamp_seconds"] > 1e9


def test_what_became_of_each_newsletter_as_json(archive, capsys):
    archive.run(mailing(), mailing(8, subject=""), mailing(9))
    archive.call("withdraw", "9")
    capsys.readouterr()
    assert archive.call("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["published"] == {"7": {"date": "2026-01-31", "subject": "January <1>", "file": "2026-01-31-7.html"}}
    assert list(found["refused"]) == ["8"] and found["withdrawn"] == ["9"]


def test_what_is_published_is_not_asked_for_again_and_does_not_change(archive):
    """A page that is linked stays what it was."""
    archive.run(mailing())
    assert archive.asked() == {"action": "list", "known": []}
    assert archive.run(mailing(html="<p>other</p>")) == 0
    assert archive.asked() == {"action": "list", "known": [7]}
    assert "Dear reader" in archive.page("2026-01-31-7.html")


def test_a_refused_newsletter_is_kept_named_and_counted(archive, capfd):
    """The others are published; and once the reason is gone so is this one."""
    assert archive.run(mailing(7, f"<p>{TODAY[0]}</p>"), mailing(8)) == 0
    assert archive.pages() == {"index.html", "style.css", "2026-01-31-8.html"}
    assert "newsletter 7 is refused: an address of CiviMail" in capfd.readouterr().err
    kept = archive.path / "archive" / "refused" / "7.html"
    assert TODAY[0] in kept.read_text() and stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert archive.metrics()["refused"] == 1
    archive.run(mailing(7, f"<p>{TODAY[0]}</p>"))
    assert "refused" not in capfd.readouterr().err, "said once, not every quarter of an hour"
    archive.run(mailing(7))
    assert archive.metrics() | {"last_success_timestamp_seconds": 0} == {
        "published": 2,
        "refused": 0,
        "last_success_timestamp_seconds": 0,
    }
    assert not kept.exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"date": "../../x"},
        {"date": ""},
        {"subject": ""},
        {"subject": "a\x1bb"},
        {"subject": "a\u202eb"},
        {"subject": "For {contact.last_name}"},
        {"subject": f"For {HASH}"},
        {"subject": "x" * 301},
    ],
)
def test_name_and_date_are_judged_as_well(archive, keys):
    assert archive.run(mailing(**keys)) == 0
    assert archive.metrics()["refused"] == 1
    assert archive.pages() == {"index.html", "style.css"}


@pytest.mark.parametrize(
    "subject",
    [
        "\U0001f3f3\ufe0f\u200d\U0001f308 Pride",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0930\u093e\u091c\u094d\u200d\u092f",
        "\u200f\u0645\u0631\u062d\u0628\u0627 Tor\u200f",
        "\U0001fae9 a new emoji",
        "#klimakonferenz2026",
    ],
)
def test_a_subject_in_any_script_is_published(archive, subject):
    """Joiners are part of writing, and Python's tables are older than some emoji."""
    assert archive.run(mailing(subject=subject)) == 0
    assert archive.metrics()["refused"] == 0
    assert f"<title>{subject}</title>" in archive.page("2026-01-31-7.html")


@pytest.mark.parametrize(
    "answer", ["", "x", "[]", '{"mailings": 3}', '{"mailings": [{}]}', '{"mailings": [{"id": "../7"}]}']
)
def test_an_answer_that_is_none_ends_the_run(archive, capfd, answer):
    """And what was published stays so; the metric of the last success shows the age."""
    archive.run(mailing())
    before = archive.metrics()
    (archive.path / "answer").write_text(answer)
    assert archive.call("run") == 1
    assert "newsletter-archive: the archive command" in capfd.readouterr().err
    assert archive.metrics() == before


def test_what_could_not_be_sent_is_sent_by_the_next_run(archive, capfd):
    (archive.path / "line").write_text("unreachable")
    assert archive.run(mailing()) == 1
    assert "rsync ended with 255: ssh: connect to host" in capfd.readouterr().err
    assert archive.metrics()["last_success_timestamp_seconds"] == 0
    (archive.path / "line").unlink()
    assert archive.run() == 0
    assert "2026-01-31-7.html" in archive.pages()


def test_where_the_line_breaks_no_index_leads_to_pages_that_are_not_there(archive):
    (archive.path / "line").write_text("fail")
    assert archive.run(mailing(html=f"<p>{'much ' * 10_000}</p>")) == 1
    assert archive.pages() == set()
    (archive.path / "line").unlink()
    assert archive.run() == 0
    assert {"2026-01-31-7.html", "index.html"} <= archive.pages()


def test_rsync_takes_one_host_key_and_one_key(archive):
    """No other host gets the pages, and no agent's key is tried."""
    archive.run(mailing())
    arguments = (archive.path / "sent.ssh").read_text().splitlines()
    command = arguments.index("rsync")
    assert arguments[command - 3 : command] == ["-l", "newsletter", "fd77::12"]
    assert arguments[arguments.index("-i") + 1] == "/k"
    for option in (
        "UserKnownHostsFile=/h",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "GlobalKnownHostsFile=/dev/null",
    ):
        assert f"-o{option}" in arguments


def test_nothing_is_deleted_at_the_web_host(archive):
    """The key could not, and the run would fail."""
    (archive.path / "sent" / "of-old.html").touch()
    archive.run(mailing())
    assert {"of-old.html", "2026-01-31-7.html"} <= archive.pages()


def test_a_withdrawn_newsletter_is_a_note_for_good(archive, capfd):
    """Nothing is deleted at the web host, where links lead: the page says so."""
    archive.run(mailing())
    assert archive.call("withdraw", "7") == 0
    assert "Withdrawn" in archive.page("2026-01-31-7.html") and "Dear" not in archive.page("2026-01-31-7.html")
    assert "2026-01-31-7" not in archive.page("index.html")
    archive.run(mailing())
    assert archive.asked()["known"] == [7]
    assert "Withdrawn" in archive.page("2026-01-31-7.html")
    assert archive.call("withdraw", "8") == 1
    assert "neither published nor refused" in capfd.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])
    assert ended.value.code == 0
    assert "withdraw ID" in capsys.readouterr().out


def test_the_tool_needs_nothing_of_the_mail_tools():
    """Published pages must not change when the mail tools' idea of an address does."""
    for module in Path(tool.__file__).parent.glob("*.py"):
        assert "civicrm_tools.mail" not in module.read_text()
