"""Colleagues are told from strangers by the log of logins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from civicrm_tools.site import front_door_known as tool

NOW = datetime.now(UTC)


def line(minutes_ago: float, who: str) -> str:
    return f"{NOW - timedelta(minutes=minutes_ago):%Y-%m-%dT%H:%M:%S%z} {who}\n"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logins.log"


def ask(log, address, *options):
    return tool.main([address, "--log", str(log), *options])


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([(5, "192.0.2.1=alice")], 0),
        ([(70, "192.0.2.1=alice")], 3),
        ([(70, "192.0.2.1=alice"), (5, "192.0.2.2=bob")], 3),
        ([(50, "192.0.2.1=alice"), (5, "192.0.2.2=bob")], 0),
        ([(5, "192.0.2.11=alice")], 3),
        ([(5, "2001:db8::1=alice")], 3),
        ([(5, "192.0.2.2=192.0.2.1=x")], 3),
        ([], 3),
    ],
)
def test_an_address_is_known_where_somebody_logged_in_lately(log, lines, status):
    log.write_text("".join(line(*entry) for entry in lines))
    assert ask(log, "192.0.2.1") == status


def test_ipv6_addresses_are_known_too(log):
    log.write_text(line(1, "2001:db8::1=alice"))
    assert ask(log, "2001:db8::1") == 0


def test_minutes_are_the_given_ones(log):
    log.write_text(line(5, "192.0.2.1=alice"))
    assert ask(log, "192.0.2.1", "--minutes", "3") == 3


def test_a_log_that_was_just_rotated_is_read_on(log):
    """Else every colleague would be a stranger at midnight."""
    log.write_text("")
    log.with_name("logins.log.1").write_text(line(5, "192.0.2.1=alice"))
    assert ask(log, "192.0.2.1") == 0


def test_no_log_means_that_nobody_is_known(log):
    assert ask(log, "192.0.2.1") == 3


def test_a_long_log_is_read_only_as_far_back_as_needed(log, monkeypatch):
    """It is asked while somebody floods the host."""
    monkeypatch.setattr(tool, "BLOCK", 100)
    log.write_text("no line of ours\n" * 1000 + line(90, "192.0.2.9=x") + line(30, "192.0.2.1=alice") * 40)
    assert ask(log, "192.0.2.1") == 0
    read = list(tool.lines_backwards(log))
    assert len(read) == 1042  # each line once, and the empty end
    assert ask(log, "192.0.2.9") == 3
