"""Root opens what lies in folders of lesser users without being led astray (R4)."""

import os
import stat
from pathlib import Path

import pytest

from civicrm_tools.core import metrics, paths
from civicrm_tools.donations import intake_metrics
from civicrm_tools.mail.maildir import Folder
from civicrm_tools.site import fetch_at_once


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that a lesser user can change, with what an attacker puts in the place of files."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "secret").write_text('metric 7\n{"replayed": 7}\n')
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/name").write_text("")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "way").symlink_to(tmp_path / "hidden")
    os.mkfifo(folder / "fifo")
    (folder / "file").write_text("their own")
    return folder


@pytest.mark.parametrize("name", ["link", "way/name", "fifo", "way"])
def test_what_was_planted_is_not_read_and_holds_nobody_up(theirs, name):
    with pytest.raises(OSError):
        paths.read(theirs / name)


def test_the_message_names_the_owner_and_the_rule(theirs):
    with pytest.raises(paths.Planted, match=r"'link' is a symbolic link in a directory of .*: root does not follow it"):
        paths.read(theirs / "link")
    with pytest.raises(paths.Planted, match="'way' is a symbolic link"):
        paths.names(theirs / "way")
    with pytest.raises(paths.Planted, match="no regular file"):
        paths.read(theirs / "fifo")


def test_plain_files_and_roots_own_links_are_read(theirs, tmp_path):
    assert paths.read(theirs / "file") == b"their own"
    assert paths.read(theirs / "file", 5) == b"their"
    (tmp_path / "by-root").symlink_to("theirs")
    assert "file" in paths.names(tmp_path / "by-root")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError):
        paths.names(tmp_path / "a")


def test_no_tool_reads_what_was_planted(theirs, tmp_path):
    """Each place where root looks into a directory of a site, of a mailbox or of the metrics."""
    assert metrics.read(theirs / "link") == {} == metrics.read(theirs / "fifo")
    assert intake_metrics.read_counters(theirs / "link") == {} == intake_metrics.read_counters(theirs / "fifo")
    (theirs / "new").symlink_to(tmp_path / "hidden")
    (theirs / "cur").mkdir()
    assert fetch_at_once.messages(theirs) == set()
    with pytest.raises(OSError):
        Folder(theirs).count()


def test_a_message_is_wrapped_though_a_fifo_lies_in_its_way(tmp_path):
    """bounce-breaker would wait for ever for somebody to read it."""
    folder = Folder(tmp_path / "Maildir")
    folder.make()
    (tmp_path / "Maildir/new/1.x").write_text("body")
    os.mkfifo(tmp_path / "Maildir/tmp/1.x")
    folder.wrap(folder.entries()[0], b"<", b">")
    assert (tmp_path / "Maildir/new/1.x").read_text() == "<body>"
    assert stat.S_ISREG((tmp_path / "Maildir/new/1.x").lstat().st_mode)
