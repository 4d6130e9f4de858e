"""No mailing begins while the spool could fill: CiviMail takes sendmail's failure for a bounce of the recipient."""

from __future__ import annotations

import json
import os
import types
from subprocess import CompletedProcess

import pytest

from civicrm_tools.mail import mailing_state, postfix
from civicrm_tools.mail import spool_reserve as tool


@pytest.mark.parametrize(
    ("free", "inodes", "full", "then"),
    [
        (1000, 100, False, False),
        (999, 100, False, True),
        (1000, 99, False, True),
        (1249, 200, True, True),
        (1250, 124, True, True),
        (1250, 125, True, False),
        (5000, None, True, False),
        (999, None, False, True),
    ],
)
def test_it_is_full_below_the_reserve_and_until_a_quarter_more_is_free(free, inodes, full, then):
    assert tool.decide([tool.Room("postfix", free, inodes)], 1000, 100, full) is then


def test_the_poorest_instance_counts():
    rooms = [tool.Room("postfix", 10**9, 10**6), tool.Room("postfix-receipts", 10, 10**6)]
    assert tool.decide(rooms, 1000, 100, False)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose spool has as much room as `disk` says."""
    disk = types.SimpleNamespace(f_bavail=10, f_frsize=100, f_files=1000, f_favail=500, f_bfree=99)
    answers = {"postmulti": f"-               -               y         {tmp_path}/etc\n", "postconf": f"{tmp_path}\n"}
    monkeypatch.setattr(postfix, "run", lambda name, *_, **__: CompletedProcess([], 0, answers[name], ""))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    monkeypatch.setattr(mailing_state, "DIRECTORY", tmp_path / "state")
    monkeypatch.setattr(tool.command, "need_root", lambda: None)
    return disk


def test_mailings_stop_before_the_disk_is_full_and_go_on_after(host, tmp_path, capsys):
    """What root alone may still use does not count; nothing is said while nothing changes."""
    metrics = tmp_path / "spool.prom"
    run = ["--bytes", "1000", "--inodes", "100", "--output", str(metrics)]
    flag = tmp_path / "state" / "spool-full.json"
    assert tool.main(run) == 0
    assert not flag.exists()
    host.f_bavail = 9
    assert tool.main(run) == 0
    assert flag.exists()
    assert "no mailing begins" in capsys.readouterr().out
    assert tool.main(run) == 0
    assert capsys.readouterr().out == ""
    assert "\npostfix_spool_full 1\n" in metrics.read_text()
    assert 'postfix_spool_free_bytes{postfix_instance="postfix"} 900\n' in metrics.read_text()
    host.f_bavail = 13
    assert tool.main(run) == 0
    assert not flag.exists()


def test_a_file_system_without_an_inode_limit_is_not_full_of_inodes(host, capsys):
    host.f_files = host.f_favail = 0
    assert tool.main(["--bytes", "1", "--inodes", "100", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "postfix_spool_full 0" in out
    assert "postfix_spool_free_inodes{" not in out


def test_what_is_free_as_json_changes_nothing(host, tmp_path, capsys):
    assert tool.main(["--bytes", "1001", "--inodes", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "full": True,
        "reserve": {"bytes": 1001, "inodes": 100},
        "instances": [{"instance": "postfix", "free_bytes": 1000, "free_inodes": 500}],
    }
    assert not (tmp_path / "state").exists()


def test_a_negative_reserve_is_refused(host, capsys):
    assert tool.main(["--bytes", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
