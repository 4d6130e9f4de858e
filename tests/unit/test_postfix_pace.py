"""Budgets are kept to the message, shared and lowered when a provider says so (S14, P5)."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from civicrm_tools.mail import pace
from civicrm_tools.mail.provider_table import LOWEST, BackOff
from civicrm_tools.mail.throttle import Throttle

ANGRY = "host mx.gmail.test[192.0.2.23] said: 421 4.7.28 Our system has detected an unusual rate (in reply to RCPT TO)"


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    return pace


@pytest.fixture
def write(tmp_path: Path):
    """A function (**changes) -> path of a table with the providers gmail and orange."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "mail.log").touch()

    def _write(budget: float = 5, **changes) -> Path:
        table = {
            "providers": [
                {"name": "gmail", "domains": ["gmail.test"], "budget_per_second": budget, "connections": 5},
                {
                    "name": "orange",
                    "domains": ["orange.test"],
                    "budget_per_second": 0.2,
                    "connections": 1,
                    "back_off": ["OFR_"],
                },
            ],
            "back_off": {
                "texts": [r"\b421 4\.7\.28\b"],
                "deferrals": 3,
                "window_seconds": 120,
                "step_seconds": 60,
                "recover_seconds": 900,
            },
            "own_domains": [],
            "default_concurrency": 10,
            "queue_lifetime": "5d",
            "mail_log": str(tmp_path / "mail.log"),
            "textfile_directory": str(tmp_path / "metrics"),
        } | changes
        path = tmp_path / "providers.json"
        path.write_text(json.dumps(table))
        return path

    return _write


@pytest.fixture
def server(tool, write, tmp_path):
    return tool.Server(write(), tmp_path / "state.json")


def log_line(reply: str, provider: str = "gmail", status: str = "deferred") -> str:
    return (
        f"2026-11-20T08:33:45.123456+00:00 int postfix-{provider}/smtp[123]: 4jW8WD6NjJzDSVp: to=<a@{provider}.test>, "
        f"relay=mx[192.0.2.23]:25, delay=1, delays=0/0/0/1, dsn=4.7.28, status={status} ({reply})"
    )


# Pace


class Clock:
    """The time of an event loop in which nothing else happens."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(tool, monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tool.time, "monotonic", made.monotonic)
    monkeypatch.setattr(tool.asyncio, "sleep", made.sleep)
    return made


def starts(tool, clock, rates: list[float]) -> list[float]:
    """When deliveries begin that all wait from the start; one rate for each."""
    pace, found = tool.Pace(due=clock.now), []

    async def run() -> None:
        for rate in rates:
            await pace.wait(lambda rate=rate: rate)
            found.append(clock.now)

    asyncio.run(run())
    return found


@pytest.mark.parametrize("budget", [0.05, 0.2, 1, 3.7, 20, 200])
def test_no_window_holds_more_than_the_budget_and_one(tool, clock, budget):
    found = starts(tool, clock, [budget] * max(30, int(30 * budget)))
    most = max(sum(1 for later in found if begin <= later < begin + 10) for begin in found)
    assert most <= 10 * budget + 1
    assert (len(found) - 1) / (found[-1] - found[0]) >= 0.95 * budget


def test_after_a_rest_nothing_is_made_up_for(tool, clock):
    pace = tool.Pace(due=clock.now)
    clock.now += 3600
    found = []

    async def run() -> None:
        for _ in range(20):
            await pace.wait(lambda: 1.0)
            found.append(clock.now)

    asyncio.run(run())
    assert found[9] - found[0] >= 8.9


def test_a_lowered_budget_holds_for_those_who_wait_already(tool, clock):
    pace, rates = tool.Pace(due=clock.now), iter([0.1] + [10.0] * 50)
    rate = lambda: next(rates)  # noqa: E731 one that rises while the first waits

    async def run() -> None:
        await pace.wait(rate)

    asyncio.run(run())
    assert clock.now - 1000 < 2


def ask(tool, server, *keys: bytes) -> bytes:
    """What a client gets that sends these bytes and hangs up."""

    async def run() -> bytes:
        path = server.state.parent / "s"
        listening = await asyncio.start_unix_server(server.client, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"".join(keys))
        writer.write_eof()
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        listening.close()
        return said

    return asyncio.run(run())


def test_each_question_gets_one_answer_in_postfixs_form(tool, server):
    """socketmap_table(5): netstrings both ways."""
    assert ask(tool, server, b"16:gmail gmail.test,") == b"8:OK paced,"
    assert ask(tool, server, b"10:gone a.com,10:gone a.com,") == b"8:OK paced,8:OK paced,"
    assert server.paces["gmail"].begun == 1


@pytest.mark.parametrize("noise", [b"", b"x", b"-1:a,", b"999999999:a,", b"5:gmai", b":" * 10, b"\xff" * 200_000])
def test_noise_on_the_socket_ends_that_connection_only(tool, server, noise):
    assert ask(tool, server, noise) == b""
    assert ask(tool, server, b"16:gmail gmail.test,") == b"8:OK paced,"


# Back-off


def test_deferrals_for_our_pace_halve_the_budget_and_time_gives_it_back(tool, server, capsys):
    """The whole way down and up with a clock of our own; every step is one line (P5)."""
    for second in range(3):
        assert server.rate("gmail") == 5
        server.line(log_line(ANGRY), 1000 + second)
    assert server.rate("gmail") == 2.5
    assert "gmail: 5/s -> 2.5/s: host mx.gmail.test" in capsys.readouterr().err
    # They go on: not before a minute has passed, then at once.
    for second in range(3, 62):
        server.line(log_line(ANGRY), 1000 + second)
        assert server.rate("gmail") == 2.5, second
    server.line(log_line(ANGRY), 1062)
    assert server.rate("gmail") == 1.25
    assert server.rate("orange") == 0.2
    server.tick(1062 + 899)
    assert server.rate("gmail") == 1.25
    server.tick(1062 + 900)
    assert server.rate("gmail") == 2.5
    server.tick(1062 + 901)
    assert server.rate("gmail") == 2.5
    server.tick(1062 + 1800)
    assert server.rate("gmail") == 5
    assert capsys.readouterr().err.count("no complaint about our pace") == 2
    assert server.throttles["gmail"].lowered == server.throttles["gmail"].raised == 2


def test_a_provider_that_goes_on_gets_nothing_back(server):
    for second in range(3):
        server.line(log_line(ANGRY), second)
    for second in range(10, 5000, 800):
        server.line(log_line(ANGRY), second)
        server.tick(second + 799)
    assert server.rate("gmail") == 2.5


@pytest.mark.parametrize(
    "line",
    [
        log_line("host said: 450 4.2.1 mailbox busy"),
        log_line(ANGRY, status="sent"),
        log_line(ANGRY, provider="other"),
        log_line("450 OFR_506"),
        "2026-11-20T08:33:45+00:00 int postfix/smtp[1]: X: to=<a@b>, status=deferred (421 4.7.28 slow)",
        "421 4.7.28",
        "",
    ],
)
def test_what_is_not_about_this_providers_pace_changes_nothing(server, line):
    for second in range(10):
        server.line(line, second)
    assert server.rate("gmail") == 5


@pytest.mark.parametrize(
    "reply",
    [
        "421 4.7.0 Too many connections, slow down. OFR004_104 [104]",
        "421 4.7.0 Try again later, closing connection.",
        "421 IPTS04",
        "421 4.16.50 later",
        "421 too many concurrent SMTP connections",
        "421 max message per connection reached",
        "421 HCM1",
        "421-4.7.0 unusual amount of unsolicited mail",
        "451 4.7.1 suspicious due to the very low reputation of the sending IP",
    ],
)
def test_what_asks_for_less_is_known_without_a_text_in_the_table(server, reply):
    for second in range(3):
        server.line(log_line(f"host mx.gmail.test[192.0.2.23] said: {reply} (in reply to RCPT TO command)"), second)
    assert server.rate("gmail") == 2.5


@pytest.mark.parametrize(
    "reply",
    [
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        "452 4.2.2 mailbox full",
        "450 4.2.0 Greylisted, come back",
        "451 4.3.0 temporary failure",
        "451 4.7.1 DMARC check failed",
    ],
)
def test_one_mailbox_or_a_trouble_of_theirs_is_no_complaint_about_our_pace(server, reply):
    for second in range(10):
        server.line(log_line(f"host mx.gmail.test[192.0.2.23] said: {reply} (in reply to RCPT TO command)"), second)
    assert server.rate("gmail") == 5


def test_a_provider_has_texts_of_its_own(server):
    for second in range(3):
        server.line(log_line("450 OFR_506 slow", provider="orange"), second)
    assert server.rate("orange") == 0.1


def test_single_complaints_far_apart_change_nothing(server):
    for hour in range(10):
        server.line(log_line(ANGRY), hour * 3600)
    assert server.rate("gmail") == 5


def test_the_slowest_pace_still_answers_before_postfix_gives_up(tool, server):
    """All connections may wait at once, and a table has 100 s."""
    for provider in server.table.providers.values():
        slowest = provider.rate(LOWEST)
        assert (provider.connections + 1) / slowest <= 80.001
        assert provider.rate(provider.lowest) == slowest


def test_state_survives_a_restart_and_a_converge(tool, server, write, tmp_path):
    for second in range(3):
        server.line(log_line(ANGRY), second)
    again = tool.Server(write(budget=8), tmp_path / "state.json")
    assert again.rate("gmail") == 4
    again.path = write(budget=2)
    again.reload()
    assert again.rate("gmail") == 1
    assert again.throttles["gmail"].reason.startswith("host mx.gmail.test")


def test_a_clock_set_back_does_not_keep_a_budget_low_for_ever(server):
    for second in range(3):
        server.line(log_line(ANGRY), 10**9 + second)
    server.tick(1000)
    server.tick(1900)
    assert server.rate("gmail") == 5


def test_a_broken_table_changes_nothing(server, write, capsys):
    write(providers=[{"name": "gmail", "budget_per_second": 0, "connections": 1}])
    server.reload()
    assert server.rate("gmail") == 5
    assert "kept the old table" in capsys.readouterr().err


def test_metrics_name_each_provider(server, tmp_path):
    for second in range(3):
        server.line(log_line(ANGRY), second)
    text = (tmp_path / "metrics" / "postfix-pace.prom").read_text()
    assert 'provider_budget_per_second{provider="gmail"} 5\n' in text
    assert 'provider_pace_per_second{provider="gmail"} 2.5\n' in text
    assert 'provider_back_off_level{provider="orange"} 0\n' in text
    assert 'provider_back_off_lowered_total{provider="gmail"} 1\n' in text


def test_status_says_what_is_in_force_and_why(tool, server, write, tmp_path, capsys):
    for second in range(3):
        server.line(log_line(ANGRY), 1_790_000_000 + second)
    capsys.readouterr()
    where = ["--table", str(write()), "--state", str(tmp_path / "state.json")]
    assert tool.main([*where, "status"]) == 0
    assert "gmail: 2.5/s of 5/s since 2026-09-21 14:13:22Z: host mx.gmail.test" in capsys.readouterr().out
    assert tool.main([*where, "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["orange"]["pace_per_second"] == 0.2
    assert tool.main([*where, "restore", "nobody"]) == 2
    assert "there is gmail, orange" in capsys.readouterr().err


def test_restore_gives_the_budget_back_at_once(tool, server, write, tmp_path, monkeypatch):
    for second in range(3):
        server.line(log_line(ANGRY), second)
    monkeypatch.setattr(tool.systemd, "systemctl", lambda *_, **__: server.restore())
    assert tool.main(["--table", str(write()), "--state", str(tmp_path / "state.json"), "restore", "gmail"]) == 0
    assert server.rate("gmail") == 5


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gmail": 1}', '{"gmail": {"level": "x"}}', "\x00"])
def test_a_damaged_state_is_as_good_as_none(tool, write, tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert tool.Server(write(), tmp_path / "state.json").rate("gmail") == 5


@given(line=st.one_of(st.text(max_size=300), st.text(max_size=100).map(log_line)))
def test_no_line_of_the_log_stops_the_reader(tool, line):
    provider, reply = tool.deferral(line)
    assert provider.isascii()
    assert len(reply) <= 1000


@given(
    moves=st.lists(st.tuples(st.booleans(), st.floats(0, 400)), max_size=200),
    lowest=st.integers(0, 6),
)
def test_the_level_never_leaves_its_bounds(tool, moves, lowest):
    """Any sequence of complaints and looks at the clock; steps down are never closer than a minute."""
    throttle, limits, now, down = Throttle(), BackOff(), 1000.0, []
    for complaint, wait in moves:
        now += wait
        if complaint:
            if throttle.deferred(now, "x", limits, lowest):
                down.append(now)
        else:
            throttle.quiet(now, limits)
        assert 0 <= throttle.level <= lowest
    assert all(later - earlier >= limits.step for earlier, later in itertools.pairwise(down))
