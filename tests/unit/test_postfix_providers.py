"""Budgets follow the mail servers, and the operator knows before a mailing what it takes (N1, P4)."""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from civicrm_tools.core.command import Failure
from civicrm_tools.mail import hosted, providers
from civicrm_tools.mail.forecast import main
from civicrm_tools.mail.hosted import Domains, Known, LookupFailed
from civicrm_tools.mail.provider_table import Table, load
from civicrm_tools.mail.providers import domain_of

TABLE = {
    "providers": [
        {
            "name": "gmail",
            "domains": ["gmail.test"],
            "mx_suffixes": ["google.test"],
            "budget_per_second": 5,
            "connections": 5,
            "recipients_share": 0.5,
        },
        {"name": "orange", "domains": ["orange.test"], "budget_per_second": 0.2, "connections": 1},
    ],
    "back_off": {"texts": [], "deferrals": 3, "window_seconds": 120, "step_seconds": 60, "recover_seconds": 900},
    "own_domains": ["crm.test"],
    "default_concurrency": 10,
    "queue_lifetime": "5d",
}
SERVERS = {
    "hosted.test": ["aspmx.google.test"],
    "plain.test": ["mx.plain.test"],
    "null.test": [],
    "fake.test": ["notgoogle.test"],
}


@pytest.fixture
def table_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(providers, "paces", lambda: {"gmail": 2.5, "orange": 0.2})
    path = tmp_path / "providers.json"
    path.write_text(
        json.dumps(TABLE | {"mail_log": str(tmp_path / "mail.log"), "textfile_directory": str(tmp_path / "textfiles")})
    )
    return path


@pytest.fixture
def table(table_file: Path) -> Table:
    return load(table_file)


@pytest.fixture
def tool(run, table_file, tmp_path):
    """A function (arguments...) -> (exit status, output, errors)."""
    return lambda *arguments: run(main, "--table", table_file, "--state", tmp_path / "domains.json", *arguments)


def resolve(domain: str) -> list[str]:
    if domain not in SERVERS:
        raise LookupFailed(domain)
    return SERVERS[domain]


# Learning


def test_a_domain_belongs_to_the_provider_whose_server_takes_its_mail(table):
    found = Domains()
    assert hosted.learn(found, [*SERVERS, "gmail.test", "crm.test", ""], table, resolve, 1e6) == (4, 0)
    assert found.hosted(table) == {"hosted.test": "gmail"}
    assert set(found.domains) == set(SERVERS)


def test_an_answer_holds_for_a_day_and_outlives_failed_look_ups(table):
    found, asked = Domains(), []

    def failing(domain: str) -> list[str]:
        asked.append(domain)
        raise LookupFailed(domain)

    hosted.learn(found, ["hosted.test"], table, resolve, 1e6)
    hosted.learn(found, ["hosted.test"], table, failing, 1e6 + 86_399)
    assert asked == []
    assert hosted.learn(found, ["hosted.test"], table, failing, 1e6 + 86_400) == (1, 1)
    assert found.hosted(table) == {"hosted.test": "gmail"}
    # It is asked again soon, but not at each run.
    hosted.learn(found, ["hosted.test"], table, failing, 1e6 + 86_400 + 899)
    assert len(asked) == 1
    hosted.learn(found, ["hosted.test"], table, failing, 1e6 + 86_400 + 900)
    assert len(asked) == 2


def test_a_domain_that_moves_away_leaves_the_budget(table):
    found = Domains()
    hosted.learn(found, ["hosted.test"], table, resolve, 1e6)
    hosted.learn(found, ["hosted.test"], table, lambda _: ["mx.elsewhere.test"], 1e6 + 86_400)
    assert found.hosted(table) == {}


def test_what_is_kept_and_asked_is_bounded(table, monkeypatch):
    monkeypatch.setattr(hosted, "KNOWN", 30)
    monkeypatch.setattr(hosted, "LOOKUPS", 10)
    found = Domains()
    hosted.learn(found, [f"old{n}.test" for n in range(25)], table, lambda _: [], 1e6)
    asked, _ = hosted.learn(found, [f"new{n}.test" for n in range(20)], table, lambda _: ["mx.test"], 2e6)
    assert asked == 10
    assert len(found.domains) == 30
    assert {f"new{n}.test" for n in range(20)} < set(found.domains)


def test_the_log_is_read_once_across_its_rotation(table, tmp_path):
    log, found = tmp_path / "mail.log", Domains()

    def line(domain: str) -> str:
        return f"2026-11-20T08:33:45+00:00 int postfix/smtp[1]: 4jW8WD6NjJzDSVp: to=<a@{domain}>, status=sent (ok)\n"

    assert list(hosted.in_log(log, found)) == []
    log.write_text(line("a.test") + line("a.test") + line("B.Test"))
    assert sorted(hosted.in_log(log, found)) == ["a.test", "b.test"]
    assert list(hosted.in_log(log, found)) == []
    with log.open("a") as file:
        file.write(line("c.test") + line("half.test")[:-10])
    assert list(hosted.in_log(log, found)) == ["c.test"]
    with log.open("a") as file:
        file.write(line("half.test")[-10:])
    log.rename(tmp_path / "mail.log.1")
    log.write_text(line("d.test"))
    assert list(hosted.in_log(log, found)) == ["half.test", "d.test"]
    # A file that was cut short begins anew; one that is compressed has been missed.
    log.write_text("")
    assert list(hosted.in_log(log, found)) == []
    (tmp_path / "mail.log.2.gz").write_bytes(gzip.compress(line("z.test").encode()))
    log.write_text(line("e.test"))
    assert list(hosted.in_log(log, found)) == ["e.test"]


def test_the_state_survives(table, tmp_path):
    found = Domains(inode=7, offset=9)
    hosted.learn(found, SERVERS, table, resolve, 1e6)
    hosted.save(tmp_path / "domains.json", found)
    assert hosted.load(tmp_path / "domains.json") == found
    (tmp_path / "domains.json").write_text("{")
    with pytest.raises(Failure, match="damaged"):
        hosted.load(tmp_path / "domains.json")


def test_learn_tells_postfix_and_the_collector(mta, tool, tmp_path, monkeypatch):
    """Queue, log and a list of the next mailing's domains are looked up; Postfix's table is replaced, not Postfix."""
    etc = mta.root / "etc"
    mta.set(transport_maps=f"texthash:{etc}/transport, pipemap:{{hash:{etc}/hosted_domains,texthash:{etc}/x}}")
    mta.put("Q1", to="a@hosted.test", queue="deferred")
    (tmp_path / "list").write_text("plain.test\nb@fake.test\n")
    (tmp_path / "textfiles").mkdir()
    monkeypatch.setattr(hosted, "dns", lambda: resolve)
    status, out, err = tool("learn", "--file", tmp_path / "list")
    assert (status, out, err) == (0, "1 hosted domains; 3 looked up, 0 without an answer\n", "")
    assert (etc / "hosted_domains").read_text() == "hosted.test gmail\n"
    assert (etc / "hosted_domains.db").read_text() == "hosted.test gmail\n"
    assert not mta.calls("postfix reload")
    text = (tmp_path / "textfiles" / "postfix-providers.prom").read_text()
    assert 'provider_hosted_domains{provider="gmail"} 1\n' in text
    # Nothing new: the table stays as it is, and the command is silent.
    before = (etc / "hosted_domains.db").stat().st_mtime_ns
    assert tool("learn") == (0, "", "")
    assert (etc / "hosted_domains.db").stat().st_mtime_ns == before


def test_a_postfix_without_the_table_is_an_error(mta, tool, monkeypatch):
    monkeypatch.setattr(hosted, "dns", lambda: resolve)
    status, _, err = tool("learn")
    assert status == 1
    assert err == "postfix-providers: postfix: transport_maps names no table called hosted_domains\n"


# Checking


def known(tmp_path: Path) -> None:
    domains = {name: Known(mx=servers, looked_up=1e6, seen=1e6) for name, servers in SERVERS.items()}
    hosted.save(tmp_path / "domains.json", Domains(domains=domains))


@pytest.mark.parametrize(
    ("domain", "says"),
    [
        (
            "gmail.test",
            "gmail.test: gmail (the table names it): 5 a second over 5 connections, shared; now 2.5 a second",
        ),
        ("a@Hosted.Test", "hosted.test: gmail (hosted there: its mail goes to aspmx.google.test): 5 a second"),
        ("orange.test", "orange.test: orange (the table names it): 0.2 a second over 1 connections, shared"),
        ("plain.test", "default (its mail goes to mx.plain.test): no budget, 10 connections"),
        ("null.test", "default (its mail goes to nobody)"),
        ("new.test", "default (not in the table, and its mail servers were never looked up)"),
        ("crm.test", "crm.test: stays here (this host's own)"),
    ],
)
def test_check_says_whose_a_domain_is_and_why(tool, tmp_path, domain, says):
    known(tmp_path)
    status, out, err = tool("check", domain)
    assert (status, err) == (0, "")
    assert says in out


def test_check_speaks_json(tool, tmp_path):
    known(tmp_path)
    entries = json.loads(tool("check", "--json", "hosted.test", "plain.test", "crm.test")[1])
    assert [entry["provider"] for entry in entries] == ["gmail", "default", None]
    assert entries[0]["pace_per_second"] == 2.5


@pytest.mark.parametrize("text", ["", "nonsense", "a b.test", "x" * 300 + ".test", "a-.test", "\u2764.test"])
def test_what_is_no_domain_is_said_so(tool, text):
    status, out, err = tool("check", text)
    assert (status, out) == (1, "")
    assert "is no domain or address" in err


# Time


def test_time_tells_how_long_and_what_does_not_fit(tool):
    status, out, _ = tool("time", "120000", "--provider", "orange")
    assert status == 3
    assert "orange: 120,000 recipients, 7 d 2 h: LONGER than the queue's lifetime of 5 d, the rest would bounce" in out
    status, out, _ = tool("time", "49000", "--domain", "gmail.test")
    assert status == 0
    assert "gmail: 49,000 recipients, 2 h 46 min (5 h 33 min at the pace of now)" in out


def test_a_number_alone_is_spread_as_the_table_says(tool):
    rows = json.loads(tool("time", "1000", "--json")[1])
    assert [(row["provider"], row["recipients"]) for row in rows] == [("gmail", 500), ("default", 500)]
    assert rows[0]["seconds"] == pytest.approx(102, abs=0.1)
    assert rows[1]["seconds"] is None


def test_a_list_is_counted(tool, tmp_path, monkeypatch):
    """Addresses, domains, and what `sort | uniq -c` makes of them."""
    known(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a@gmail.test\n  48 hosted.test\norange.test\n\nx@crm.test\n"))
    rows = json.loads(tool("time", "--json")[1])
    assert {row["provider"]: row["recipients"] for row in rows} == {"gmail": 49, "orange": 1}


def test_a_list_of_any_addresses_is_counted(tool, tmp_path, monkeypatch):
    """Quoted, not ASCII, in another encoding: one of them in a list of 100,000 must not cost the answer."""
    known(tmp_path)
    text = 'jörg@gmail.test\n   3 "ada lovelace"@orange.test\n"a@b"@gmail.test\n2 x@bücher.test\n'.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text + b"j\xf6rg@gmail.test\n"), encoding="utf-8"))
    rows = json.loads(tool("time", "--json")[1])
    assert {row["provider"]: row["recipients"] for row in rows} == {"gmail": 3, "orange": 3, "default": 2}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["time", "many"], 2, "'many' is no number of recipients"),
        (["time", "-5"], 2, "see postfix-providers"),
        (["time", "10", "--provider", "nobody"], 1, "unknown provider 'nobody': there is gmail, orange, default"),
        (["time", "10", "--domain", "no domain"], 1, "is no domain or address"),
        (["nonsense"], 2, "see postfix-providers"),
    ],
)
def test_a_mistake_is_one_line(tool, arguments, status, says):
    found, out, err = tool(*arguments)
    assert (found, out) == (status, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"providers": [1]}'])
def test_a_damaged_table_is_one_line(tool, table_file, text):
    table_file.write_text(text)
    status, _, err = tool("check", "gmail.test")
    assert status == 1
    assert err.count("\n") == 1


# Parsers


@given(st.text(max_size=300))
@example("a@\udcfc.test")
@example("a@b\u2100c.test")
def test_what_is_taken_for_a_domain_can_stand_in_a_table_of_postfix(text):
    """A key with a space or a line break would be another entry."""
    domain = domain_of(text)
    assert domain == "" or (domain.isascii() and domain == domain.lower() and not set(domain) & set(" \t\r\n#@:,{}"))


@given(st.binary(max_size=400))
def test_no_log_stops_the_reader(tmp_path_factory, noise):
    log = tmp_path_factory.mktemp("log") / "mail.log"
    log.write_bytes(noise + b"\n x: to=<a@b.test>, \n")
    assert "b.test" in list(hosted.in_log(log, Domains()))


# DNS


@pytest.fixture
def library(monkeypatch) -> SimpleNamespace:
    """The calls of dnspython that are made here, with answers of the test's own."""
    exceptions, resolver, top = ModuleType("dns.exception"), ModuleType("dns.resolver"), ModuleType("dns")
    exceptions.DNSException = type("DNSException", (Exception,), {})
    for name in ("NXDOMAIN", "NoAnswer", "NoNameservers"):
        setattr(resolver, name, type(name, (exceptions.DNSException,), {}))
    answers: dict[str, object] = {}

    def ask(_self: object, name: str, kind: str) -> object:
        assert kind == "MX"
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return [
            SimpleNamespace(preference=p, exchange=SimpleNamespace(to_text=lambda omit_final_dot, s=s: s))
            for p, s in answer
        ]

    resolver.Resolver = type("Resolver", (), {"resolve": ask})
    top.exception, top.resolver = exceptions, resolver
    for module in (top, exceptions, resolver):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(answers=answers, resolver=resolver)


def test_the_servers_of_the_best_preference_count(library):
    library.answers["a.test."] = [(20, "backup.test"), (10, "MX2.Google.Test"), (10, "mx1.google.test")]
    library.answers["null.test."] = [(0, "")]
    library.answers["none.test."] = library.resolver.NXDOMAIN()
    library.answers["implicit.test."] = library.resolver.NoAnswer()
    library.answers["broken.test."] = library.resolver.NoNameservers()
    ask = hosted.dns()
    assert ask("a.test") == ["mx1.google.test", "mx2.google.test"]
    assert ask("null.test") == ask("none.test") == []
    assert ask("implicit.test") == ["implicit.test"]
    with pytest.raises(LookupFailed):
        ask("broken.test")


def test_without_the_library_the_command_says_what_to_install(tool, mta, monkeypatch):
    monkeypatch.setitem(sys.modules, "dns", None)
    status, _, err = tool("learn")
    assert status == 1
    assert "apt install python3-dnspython" in err


def test_without_the_library_a_domain_that_is_not_ascii_says_what_to_install(tool, monkeypatch):
    """And no other domain needs it."""
    monkeypatch.setitem(sys.modules, "idna", None)
    assert tool("check", "gmail.test")[0] == 0
    assert "apt install python3-idna" in tool("check", "b\u00fccher.test")[2]


def test_paces_come_from_the_service_and_may_be_missing(monkeypatch):
    said = json.dumps({"gmail": {"pace_per_second": 2.5}})
    monkeypatch.setattr(providers, "run", lambda *_, **__: CompletedProcess([], 0, said, ""))
    assert providers.paces() == {"gmail": 2.5}
    monkeypatch.setattr(providers, "run", lambda *_, **__: CompletedProcess([], 0, "nonsense", ""))
    assert providers.paces() == {}


def test_a_hundred_thousand_domains_take_no_more_than_a_moment(table):
    found = Domains()
    begin = time.monotonic()
    hosted.learn(found, [f"d{n}.test" for n in range(100_000)], table, lambda _: ["mx.test"], 1e6)
    assert found.hosted(table) == {}
    assert time.monotonic() - begin < 20
