"""postfix-queues-sizes counts what lies in the queues, whatever their layout."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from civicrm_tools.core.command import Failure
from civicrm_tools.mail import postfix
from civicrm_tools.mail import queue_sizes as tool

QUEUES = ("active", "bounce", "corrupt", "deferred", "flush", "hold", "incoming", "maildrop")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for queue in QUEUES:
        (tmp_path / queue).mkdir()
    return tmp_path


@pytest.fixture
def one_instance(spool, monkeypatch):
    """Postfix's own commands, answering for one instance with this spool."""
    answers = {"postmulti": f"-               -               y         {spool}/etc\n", "postconf": f"{spool}\n"}
    monkeypatch.setattr(postfix, "run", lambda name, *_, **__: CompletedProcess([], 0, answers[name], ""))
    return spool


def test_the_default_instance_is_called_postfix_as_in_the_log():
    listing = (
        "-               -               y         /etc/postfix\n"
        "postfix-receipts mta            y         /etc/postfix-receipts\n"
    )
    assert list(postfix.parse_instances(listing)) == [
        postfix.Instance("postfix", "/etc/postfix"),
        postfix.Instance("postfix-receipts", "/etc/postfix-receipts"),
    ]


def test_hashed_queues_are_counted_through_their_subdirectories(spool):
    for path in ("deferred/A/A1", "deferred/A/A2", "deferred/4/4jW8WD6NjJzDSVp", "deferred/loose"):
        (spool / path).parent.mkdir(exist_ok=True)
        (spool / path).touch()
    assert postfix.count(f"{spool}/deferred") == 4


def test_a_queue_that_does_not_exist_is_empty(spool):
    assert postfix.count(f"{spool}/nowhere") == 0


def test_every_queue_is_printed_even_at_zero(one_instance, capsys):
    (one_instance / "hold" / "4jW8WD6NjJzDSVp").touch()
    assert tool.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "# HELP postfix_queue_length Messages in a Postfix queue.",
        "# TYPE postfix_queue_length gauge",
    ]
    assert 'postfix_queue_length{postfix_instance="postfix",queue="hold"} 1' in lines
    assert 'postfix_queue_length{postfix_instance="postfix",queue="active"} 0' in lines
    assert len(lines) == 2 + len(QUEUES) + 3


def test_json_says_the_same(one_instance, capsys):
    (one_instance / "maildrop" / "x").touch()
    assert tool.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"postfix": dict.fromkeys(QUEUES, 0) | {"maildrop": 1}}


def test_without_postfix_one_clear_line_and_failure(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "postmulti" in error


def test_an_unreadable_queue_is_an_error_and_not_a_zero(one_instance, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(postfix.os, "scandir", refused)
    assert tool.main([]) == 1
    assert "run it as root" in capsys.readouterr().err


def test_the_timer_replaces_the_file_as_a_whole(one_instance, tmp_path, capsys):
    """node_exporter may read at any moment."""
    target = tmp_path / "textfile" / "postfix.prom"
    target.parent.mkdir()
    target.write_text("old")
    inode = target.stat().st_ino
    assert tool.main(["--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert target.stat().st_ino != inode
    assert target.read_text().startswith("# HELP postfix_queue_length")
    assert [p.name for p in target.parent.iterdir()] == ["postfix.prom"]


def test_a_failed_count_leaves_the_old_file(one_instance, tmp_path, monkeypatch):
    """A half file or an empty one would read as "nothing is queued"."""
    target = tmp_path / "postfix.prom"
    target.write_text("old")
    monkeypatch.setattr(postfix, "instances", lambda: (_ for _ in ()).throw(Failure("down")))
    assert tool.main(["--output", str(target)]) == 1
    assert target.read_text() == "old"


def test_a_hundred_thousand_files_in_less_than_two_seconds(spool):
    """S20. Processor time, so that a busy machine does not fail it; the bench shows the time on the clock."""
    for letter in range(16):
        directory = f"{spool}/deferred/{letter:X}"
        os.mkdir(directory)  # noqa: PTH102
        for n in range(6250):
            os.close(os.open(f"{directory}/{n}", os.O_CREAT | os.O_WRONLY))
    began = time.process_time()
    assert postfix.count(f"{spool}/deferred") == 100_000
    assert time.process_time() - began < 2


def test_whether_postfix_runs_is_told_without_its_commands(one_instance, capsys, tmp_path):
    """The number that a dead master left may be another program's by now."""
    (one_instance / "pid").mkdir()
    master = tmp_path / "master"
    master.symlink_to("/bin/sleep")
    for argv, is_up in (([str(master), "60"], 1), (["/bin/sleep", "60"], 0)):
        process = subprocess.Popen(argv)
        try:
            (one_instance / "pid" / "master.pid").write_text(f"{process.pid:>14}\n")
            # The kernel names a program a moment after it has started.
            deadline = time.monotonic() + 10
            while Path(f"/proc/{process.pid}/comm").read_text().strip() != Path(argv[0]).name:
                assert time.monotonic() < deadline
            assert tool.main([]) == 0
        finally:
            process.kill()
            process.wait()
        assert f'postfix_up{{postfix_instance="postfix"}} {is_up}\n' in capsys.readouterr().out
    assert tool.main([]) == 0
    assert 'postfix_up{postfix_instance="postfix"} 0' in capsys.readouterr().out
