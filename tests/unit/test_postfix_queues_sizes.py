"""postfix-queues-sizes counts what lies in the queues, whatever their layout."""

from __future__ import annotations

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "roles/mail_tools/files/usr/local/sbin/postfix-queues-sizes"
QUEUES = ("active", "bounce", "corrupt", "deferred", "flush", "hold", "incoming", "maildrop")


@pytest.fixture(scope="module")
def tool():
    loader = SourceFileLoader("postfix_queues_sizes", str(TOOL))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    # No __pycache__ among the files that the role installs.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for queue in QUEUES:
        (tmp_path / queue).mkdir()
    return tmp_path


@pytest.fixture
def one_instance(tool, spool, monkeypatch):
    """Postfix's own commands, answering for one instance with this spool."""
    answers = {"postmulti": "-               -               y         /etc/postfix\n", "postconf": f"{spool}\n"}
    monkeypatch.setattr(tool, "output", lambda command, *_: answers[command])
    return spool


def test_the_default_instance_is_called_postfix_as_in_the_log(tool):
    listing = (
        "-               -               y         /etc/postfix\n"
        "postfix-receipts mta            y         /etc/postfix-receipts\n"
    )
    assert list(tool.instances(listing)) == [
        ("postfix", "/etc/postfix"),
        ("postfix-receipts", "/etc/postfix-receipts"),
    ]


def test_hashed_queues_are_counted_through_their_subdirectories(tool, spool):
    for path in ("deferred/A/A1", "deferred/A/A2", "deferred/4/4jW8WD6NjJzDSVp", "deferred/loose"):
        (spool / path).parent.mkdir(exist_ok=True)
        (spool / path).touch()
    assert tool.count(f"{spool}/deferred") == 4


def test_a_queue_that_does_not_exist_is_empty(tool, spool):
    assert tool.count(f"{spool}/nowhere") == 0


def test_every_queue_is_printed_even_at_zero(tool, one_instance, capsys):
    (one_instance / "hold" / "4jW8WD6NjJzDSVp").touch()
    assert tool.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "# HELP postfix_queue_length Messages in a Postfix queue.",
        "# TYPE postfix_queue_length gauge",
    ]
    assert 'postfix_queue_length{postfix_instance="postfix",queue="hold"} 1' in lines
    assert 'postfix_queue_length{postfix_instance="postfix",queue="active"} 0' in lines
    assert len(lines) == 2 + len(QUEUES)


def test_json_says_the_same(tool, one_instance, capsys):
    (one_instance / "maildrop" / "x").touch()
    assert tool.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"postfix": dict.fromkeys(QUEUES, 0) | {"maildrop": 1}}


def test_without_postfix_one_clear_line_and_failure(tool, monkeypatch, capsys):
    def missing(*_):
        raise FileNotFoundError(2, "No such file or directory", "postmulti")

    monkeypatch.setattr(tool, "output", missing)
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "postmulti" in error


def test_an_unreadable_queue_is_an_error_and_not_a_zero(tool, one_instance, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(tool.os, "scandir", refused)
    assert tool.main([]) == 1
    assert "run it as root" in capsys.readouterr().err
