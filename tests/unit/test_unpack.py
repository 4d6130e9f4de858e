"""What an archive may do where it is unpacked: nothing outside of its directory, and no rights of an owner."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from civicrm_tools.core.command import Failure
from civicrm_tools.host import unpack as tool

FOLDER, LINK, HARD_LINK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **values) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.uid, made.gid = kind, len(content), os.getuid(), os.getgid()
    made.mode = 0o755 if kind == FOLDER else 0o644
    for key, value in values.items():
        setattr(made, key, value)
    return made, content


@pytest.fixture
def unpack(tmp_path):
    """Unpack entries into tmp_path/data. Their names are those below it; one that begins with ! stands as it is."""
    base = tmp_path / "data"
    for directory in (base / "folder", tmp_path / "outside"):
        directory.mkdir(parents=True)

    def name(written: str) -> str:
        return written[1:] if written.startswith("!") else f"{base.relative_to('/')}/{written}"

    def run(*entries: tuple[tarfile.TarInfo, bytes]) -> tool.Report:
        archive = tmp_path / "archive.tar.gz"
        with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as sink:
            for member, content in entries:
                member.name = name(member.name)
                member.linkname = name(member.linkname) if member.islnk() else member.linkname
                sink.addfile(member, io.BytesIO(content))
        return tool.unpack(archive, base)

    run.base, run.outside = base, tmp_path / "outside"
    return run


HOSTILE = {
    "two dots": (lambda: entry("../outside/x", content=b"x"), "it lies outside of"),
    "another directory": (lambda: entry("!outside/x", content=b"x"), "it lies outside of"),
    "an absolute name": (lambda: entry("!/tmp/outside/x", content=b"x"), "it lies outside of"),
    "a hard link to the outside": (lambda: entry("x", HARD_LINK, linkname="!etc/passwd"), "it lies outside of"),
    "a hard link to a directory": (lambda: entry("x", HARD_LINK, linkname="folder"), "which is no file"),
    "a hard link to nothing": (lambda: entry("x", HARD_LINK, linkname="nothing"), "No such file"),
    "a device": (lambda: entry("x", tarfile.CHRTYPE, devmajor=1, devminor=5), "a device or a pipe"),
    "a pipe": (lambda: entry("x", tarfile.FIFOTYPE), "a device or a pipe"),
    "a file where a directory lies": (lambda: entry("folder", content=b"x"), "a directory lies in its place"),
    "a link where a directory lies": (lambda: entry("folder", LINK, linkname="/etc"), "a directory lies in its place"),
    "a file in the place of all": (lambda: entry("", content=b"x"), "it is no directory"),
    "a parent that is a file": (lambda: entry("good/x", content=b"x"), "no directory lies in its way"),
    "an owner beyond all numbers": (
        lambda: entry("x", pax_headers={"uid": str(1 << 70)}),
        "greater than maximum|too large",
    ),
    "a name that commands the terminal": (lambda: entry("a\x1b[2J\nroot", tarfile.FIFOTYPE), r"a\\x1b\[2J\\nroot"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_may_not_come_back_is_named_and_the_rest_does(unpack, name):
    make, reason = HOSTILE[name]
    report = unpack(entry("good", content=b"good"), make(), entry("after", content=b"after"))
    assert report.failed.count == 1
    (line,) = report.failed.lines
    assert re.search(reason, line) and line.isprintable(), line
    assert {p.name for p in unpack.base.iterdir()} == {"good", "after", "folder"}
    assert (unpack.base / "after").read_bytes() == b"after"
    assert list(unpack.outside.iterdir()) == []


def test_a_link_in_the_way_is_replaced_and_never_followed(unpack):
    """One that a site made after the snapshot, and one that the archive itself brings."""
    (unpack.base / "spool").symlink_to(unpack.outside)
    (unpack.base / "file").symlink_to(unpack.outside / "written")
    report = unpack(
        entry("spool", FOLDER),
        entry("spool/x", content=b"x"),
        entry("file", content=b"file"),
        entry("own", LINK, linkname=str(unpack.outside)),
        entry("own/y", content=b"y"),
    )
    assert list(unpack.outside.iterdir()) == []
    assert (unpack.base / "spool" / "x").read_bytes() == b"x" and not (unpack.base / "spool").is_symlink()
    assert (unpack.base / "file").read_bytes() == b"file" and not (unpack.base / "file").is_symlink()
    assert (unpack.base / "own").readlink() == unpack.outside
    assert report.failed.count == 1 and "own/y" in report.failed.lines[0]


def test_a_directory_that_is_exchanged_for_a_link_meanwhile_leads_nowhere(unpack):
    """As a site does whose processes still run."""
    folder, aside, stop = unpack.base / "folder", unpack.base / "aside", threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            try:
                folder.rename(aside)
                folder.symlink_to(unpack.outside)
                folder.unlink()
                aside.rename(folder)
            except OSError:
                pass

    thief = threading.Thread(target=exchange)
    thief.start()
    try:
        for _ in range(5):
            unpack(*(one for n in range(100) for one in (entry(f"folder/{n}", content=b"x"), entry("other", FOLDER))))
    finally:
        stop.set()
        thief.join()
    assert list(unpack.outside.iterdir()) == []


def test_no_rights_of_an_owner_come_back(unpack):
    report = unpack(
        entry("setuid", mode=0o6755),
        entry("shared", FOLDER, mode=0o2775),
        entry("dropbox", FOLDER, mode=0o1777),
        entry("both", FOLDER, mode=0o6755),
    )
    modes = {p.name: p.stat().st_mode & 0o7777 for p in unpack.base.iterdir()}
    assert modes | {"folder": 0} == {"setuid": 0o755, "shared": 0o2775, "dropbox": 0o1777, "both": 0o2755, "folder": 0}
    assert report.failed.count == 0
    assert ["mode 6755 is 755 now" in line for line in report.altered.lines] == [True, False]


def test_an_owner_who_is_not_here_gets_nothing(unpack, monkeypatch):
    """His number may be another's on a rebuilt host."""
    given = []
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    report = unpack(entry("x", uid=4711, gid=4711, uname="gone", gname="gone"), entry("y", uid=4711, uname="daemon"))
    assert given == [(0, 0), (tool.uid_of("daemon"), os.getgid())]
    assert report.altered.count == 1 and "there is no user gone here" in report.altered.lines[0]


def test_what_does_not_fit_on_the_disk_is_named_and_what_does_comes_back(unpack, monkeypatch):
    class Free:
        f_bavail, f_frsize = 2, 1024

    monkeypatch.setattr(os, "fstatvfs", lambda _: Free)
    report = unpack(entry("large", content=b"x" * 2049), entry("small", content=b"x" * 2048))
    assert report.failed.count == 1 and "do not fit on the disk" in report.failed.lines[0]
    assert {p.name for p in unpack.base.iterdir()} == {"folder", "small"}


def test_a_million_refusals_are_counted_and_the_first_are_shown(unpack):
    report = unpack(*(entry(str(n), tarfile.FIFOTYPE) for n in range(100)))
    assert (report.failed.count, len(report.failed.lines)) == (100, 20)


def test_access_lists_and_attributes_come_back(unpack, monkeypatch):
    """By the kernel's own attributes, which not every file system of a test has; those that give rights do not."""
    entry_of = struct.Struct("<HHI")
    # As GNU tar writes it: the last line ends, too, and a comment may say what the mask leaves.
    listed = "user::rw-\nuser:daemon:rw-\t#effective:r--\ngroup::r--\nmask::r--\nother::---\n"
    assert [entry_of.unpack_from(tool.acl(listed), 4 + 8 * n) for n in range(5)] == [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 6, tool.uid_of("daemon")),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    written = {}
    monkeypatch.setattr(os, "setxattr", lambda _, name, value: written.update({name: value}))
    headers = {"SCHILY.acl.access": listed, "SCHILY.xattr.user.note": "\udcff", "SCHILY.xattr.security.capability": "x"}
    report = unpack(entry("x", mode=0o640, pax_headers=headers))
    assert report.failed.count == 0, report.failed.lines
    assert written == {"system.posix_acl_access": tool.acl(listed), "user.note": b"\xff"}


@pytest.mark.parametrize("text", ["user::rwx,evil", "user:1:2", f"user:{1 << 40}:rwx", "group::r-x,user::rwx"])
def test_without_its_access_list_the_group_gets_nothing(unpack, text):
    """The mode's middle is the list's mask then; a directory that has lost its list does not lose what lies in it."""
    report = unpack(entry("d", FOLDER, mode=0o775, pax_headers={"SCHILY.acl.access": text}), entry("d/x", content=b"x"))
    assert (report.failed.count, report.altered.count) == (0, 1), report
    assert (unpack.base / "d").stat().st_mode & 0o777 == 0o705
    assert (unpack.base / "d" / "x").read_bytes() == b"x"


@pytest.mark.parametrize("steps", [["d"] * 105, ["d" * 250] * 20, ["d"] * 1100], ids=["105", "above PATH_MAX", "1100"])
def test_a_tree_deeper_than_any_path_comes_back(tmp_path, steps):
    """As a site makes it with chdir: a hard link at its bottom once stopped the restore of all sites."""
    base, archive = tmp_path / "data", tmp_path / "archive.tar.gz"
    base.mkdir()
    script = "import os, sys\nfor step in sys.argv[1:]:\n    os.mkdir(step)\n    os.chdir(step)\n"
    script += "open('a', 'w').write('deep')\nos.link('a', 'b')\n"
    subprocess.run(["python3", "-c", script, *steps], cwd=base, check=True)
    subprocess.run(["tar", "--create", "--gzip", f"--file={archive}", "--format=posix", "--directory=/",
                    str(base.relative_to("/"))], check=True)  # fmt: skip
    subprocess.run(["rm", "-r", base], check=True)
    report = tool.unpack(archive, base)
    assert report.failed.count == 0, report.failed.lines
    look = "import os, sys\nfor step in sys.argv[1:]:\n    os.chdir(step)\n"
    look += "assert os.stat('a').st_ino == os.stat('b').st_ino\n"
    subprocess.run(["python3", "-c", look, *steps], cwd=base, check=True)
    subprocess.run(["rm", "-r", base], check=True)


def test_the_directory_itself_is_made_but_no_link_leads_to_it(tmp_path, unpack):
    (tmp_path / "elsewhere").symlink_to(unpack.outside)
    with pytest.raises(Failure, match="is a link or no directory: name the directory itself in backup_paths"):
        tool.open_base(tmp_path / "elsewhere" / "data")
    os.close(tool.open_base(tmp_path / "new" / "data"))
    assert (tmp_path / "new" / "data").is_dir()


def test_an_archive_that_is_cut_is_a_failure(tmp_path):
    (tmp_path / "cut").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(Failure, match="the archive cannot be read"):
        tool.unpack(tmp_path / "cut", Path(tmp_path))
