"""civicrm-backup with rsync, a MariaDB of files and an ssh to a directory: what is a snapshot, refused, kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from civicrm_tools import LAUNCHER
from civicrm_tools.core import mariadb
from civicrm_tools.core.mariadb import DumpInspector
from civicrm_tools.host import backup as tool

FAKES = Path(__file__).parent / "fakes"
CRM = "CREATE TABLE `a` (x);\nINSERT INTO `a` VALUES ('\u00e4');\nCREATE TABLE `b` (y);"
STAGING = "CREATE TABLE `s` (z);"


@pytest.fixture(autouse=True)
def umask():
    """The tool sets its own umask; the tests after these get theirs back."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A host with two databases and a mailbox, and a backup host: all directories."""
    server, remote, mail = (tmp_path / name for name in ("server", "remote", "mail"))
    for directory in (server, remote, mail / "crm" / "new"):
        directory.mkdir(parents=True)
    (server / "crm").write_text(CRM)
    (server / "staging_crm").write_text(STAGING)
    (mail / "crm" / "new" / "1").write_text("From: somebody\n")
    (mail / "crm" / "new" / "1").chmod(0o640)
    settings = {
        "databases": ["crm", "staging_crm"],
        "paths": [str(mail)],
        "keep": 2,
        "directory": str(tmp_path / "state"),
        "target": {"host": "2001:db8::13", "user": "backup", "port": 22, "path": "."},
        "key": "/etc/key",
        "known_hosts": "/etc/known",
        "signing_key": str(tmp_path / "signing-key"),
    }
    (tmp_path / "signing-key").write_text("5a" * 32 + "\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    monkeypatch.setenv("PATH", f"{FAKES / 'backup'}:{FAKES / 'remote'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SERVER", str(server))
    monkeypatch.setenv("FAKE_REMOTE", str(remote))

    def run(*arguments: str) -> int:
        return tool.main(["--config", str(config), *arguments])

    def grow() -> None:
        """More than goes through a line that breaks; it comes after the databases."""
        (mail / "crm" / "new" / "2").write_bytes(os.urandom(100_000))

    def change(**values) -> None:
        config.write_text(json.dumps(settings | values))

    def snapshots(complete: bool = True) -> list[str]:
        return sorted(d.name for d in remote.iterdir() if not complete or (d / "manifest.json").exists())

    def older(day: int, complete: bool = True) -> str:
        name = f"202001{day:02}T020000Z"
        (remote / name).mkdir()
        (remote / name / "database-crm.sql.gz").write_bytes(b"")
        if complete:
            manifest = {"format": 1, "snapshot": name, "host": "x", "databases": [], "paths": [], "absent": []}
            (remote / name / "manifest.json").write_text(json.dumps(manifest))
        return name

    return SimpleNamespace(
        server=server,
        remote=remote,
        mail=mail,
        state=tmp_path / "state",
        config=config,
        run=run,
        grow=grow,
        change=change,
        snapshots=snapshots,
        older=older,
    )


def test_a_snapshot_names_every_file_with_size_checksum_and_count(lab, capsys):
    assert lab.run("run") == 0
    (name,) = lab.snapshots()
    manifest = json.loads((lab.remote / name / "manifest.json").read_text())
    assert [(d["name"], d["tables"], d["collation"]) for d in manifest["databases"]] == [
        ("crm", 2, "utf8mb4_unicode_ci"),
        ("staging_crm", 1, "utf8mb4_unicode_ci"),
    ]
    assert manifest["paths"][0]["entries"] == 4
    for entry in manifest["databases"] + manifest["paths"]:
        assert (lab.remote / name / entry["file"]).stat().st_size == entry["size"]
    assert {f.name for f in (lab.remote / name).iterdir()} == {
        "manifest.json",
        *(entry["file"] for entry in manifest["databases"] + manifest["paths"]),
    }
    assert f"snapshot {name} complete" in capsys.readouterr().out


def test_success_leaves_a_stamp_and_no_staging(lab):
    before = time.time()
    assert lab.run("run") == 0
    stamp = json.loads((lab.state / "last-success.json").read_text())
    assert [stamp["snapshot"]] == lab.snapshots()
    assert before - 1 <= stamp["time"] <= time.time()
    assert {p.name for p in lab.state.iterdir()} == {"last-success.json", "lock"}


def test_what_was_lost_comes_back_equal(lab):
    assert lab.run("run") == 0
    (lab.server / "crm").write_text("")
    (lab.server / "staging_crm").write_text("CREATE TABLE `made_later` (x);")
    (lab.mail / "crm" / "new" / "1").unlink()
    assert lab.run("restore") == 0
    assert (lab.server / "crm").read_text() == CRM
    assert (lab.server / "staging_crm").read_text() == STAGING
    assert (lab.mail / "crm" / "new" / "1").read_text() == "From: somebody\n"
    assert (lab.mail / "crm" / "new" / "1").stat().st_mode & 0o777 == 0o640


def test_a_dump_is_loaded_as_its_databases_account(lab):
    """As root it could grant itself everything, and write to the other sites' databases."""
    assert lab.run("run") == 0
    assert lab.run("restore", "--database", "crm") == 0
    # The fake lets nobody else load, and nobody with limits; afterwards the account is as it was.
    assert (lab.server / ".account").read_text() == (
        f"ALTER USER `crm`@localhost IDENTIFIED VIA mysql_native_password USING '*{'A' * 40}' WITH "
        "MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_USER_CONNECTIONS 40 "
        "MAX_STATEMENT_TIME 0.0"
    )


def test_a_database_that_no_account_has_is_not_emptied(lab, capsys):
    assert lab.run("run") == 0
    (lab.server / "crm").unlink()
    assert lab.run("restore", "--database", "crm") == 1
    assert "database crm was not changed: no account, or more than one, has this database" in capsys.readouterr().err
    assert not (lab.server / "crm").exists()


DEFINED = b"""INSERT INTO `a` VALUES
('x\\nCREATE DEFINER=`root`@`localhost` y');
/*!50003 CREATE*/ /*!50017 DEFINER=`gone`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET NEW.t = 1 */;;
CREATE DEFINER=`r``t`@`localhost` FUNCTION `f`() RETURNS int(11)
/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */
"""


@pytest.mark.parametrize("width", [1, 7, 50, 1000])
@pytest.mark.parametrize("long", [0, 10_000], ids=["short", "after a long line"])
def test_whoever_loads_a_dump_owns_its_views_and_triggers(width, long):
    """The account may name no other, and the one in the dump may be gone."""
    text = b"INSERT " + b"DEFINER=`x`@`y` " * long + b";\n" + DEFINED
    expected = text[: -len(DEFINED)] + DEFINED.replace(b"DEFINER=`gone`@`%`*/", b"*/").replace(
        b"CREATE DEFINER=`r``t`@`localhost` ", b"CREATE "
    ).replace(b"DEFINER=`root`@`localhost` SQL", b"SQL")
    change = mariadb.WithoutDefiners()
    pieces = [change(text[start : start + width]) for start in range(0, len(text), width)]
    assert b"".join(pieces) + change.end() == expected


def test_one_database_is_restored_alone(lab):
    assert lab.run("run") == 0
    for name in ("crm", "staging_crm"):
        (lab.server / name).write_text("changed")
    (lab.mail / "crm" / "new" / "1").unlink()
    assert lab.run("restore", "--database", "crm") == 0
    assert (lab.server / "crm").read_text() == CRM
    assert (lab.server / "staging_crm").read_text() == "changed"
    assert not (lab.mail / "crm" / "new" / "1").exists()


def test_one_directory_is_restored_alone(lab):
    assert lab.run("run") == 0
    (lab.server / "crm").write_text("changed")
    (lab.mail / "crm" / "new" / "1").unlink()
    assert lab.run("restore", "--path", f"{lab.mail}/") == 0
    assert (lab.server / "crm").read_text() == "changed"
    assert (lab.mail / "crm" / "new" / "1").exists()


@pytest.mark.parametrize("corruption", ["flipped", "shortened", "missing"])
def test_a_corrupted_file_is_refused_before_any_change(lab, capsys, corruption):
    assert lab.run("run") == 0
    (lab.server / "crm").write_text("precious")
    (lab.mail / "crm" / "new" / "1").write_text("precious")
    # The last file of all: those before it are sound and must not be used either.
    victim = next((lab.remote / lab.snapshots()[0]).glob("path-*.tar.gz"))
    content = victim.read_bytes()
    if corruption == "missing":
        victim.unlink()
    else:
        victim.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if corruption == "flipped" else b""))
    assert lab.run("restore") == 1
    error = capsys.readouterr().err
    assert victim.name in error and "nothing was changed" in error and error.count("\n") == 1
    assert (lab.server / "crm").read_text() == "precious"
    assert (lab.mail / "crm" / "new" / "1").read_text() == "precious"
    assert lab.run("verify") == 1


def test_verify_finds_a_whole_snapshot_whole(lab, capsys):
    assert lab.run("run") == 0
    assert lab.run("verify") == 0
    assert "is whole and signed by this host: crm (2 tables), staging_crm (1 tables)" in capsys.readouterr().out


def forge(lab, **changes) -> str:
    """Change the only snapshot's manifest as the backup host could, which has no key; the new name."""
    (name,) = lab.snapshots()
    manifest = json.loads((lab.remote / name / "manifest.json").read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (lab.remote / name / "manifest.json").write_text(json.dumps(manifest))
    if manifest["snapshot"] != name:
        (lab.remote / name).rename(lab.remote / manifest["snapshot"])
    return manifest["snapshot"]


FORGED = {
    "no signature": ({"signature": None}, "is not signed", "UNSIGNED"),
    "another signature": ({"signature": "0" * 64}, "has a signature of another key", "FOREIGN"),
    "no text": ({"signature": 1}, "has a signature of another key", "FOREIGN"),
    "other content": ({"absent": ["/srv/other"]}, "has a signature of another key", "FOREIGN"),
    "an older one under a new name": ({"snapshot": "20990101T000000Z"}, "has a signature of another key", "FOREIGN"),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_this_host_has_not_signed_is_restored_on_demand_alone(lab, capsys, name):
    """A checksum that the backup host could write anew says nothing."""
    changes, reason, mark = FORGED[name]
    assert lab.run("run") == 0
    snapshot = forge(lab, **changes)
    (lab.server / "crm").write_text("precious")
    for option in ([], ["--snapshot", snapshot]):
        assert lab.run("restore", *option) == 1
        error = capsys.readouterr().err
        assert f"snapshot {snapshot} {reason}" in error and "Nothing was changed" in error and error.count("\n") == 1
    assert (lab.server / "crm").read_text() == "precious"
    assert lab.run("verify") == 1
    assert f"snapshot {snapshot} is whole, but {reason}" in capsys.readouterr().err
    assert lab.run("list") == 0
    assert mark in capsys.readouterr().out
    assert lab.run("restore", "--unauthenticated") == 0
    assert f"warning: snapshot {snapshot} {reason}" in capsys.readouterr().err
    assert (lab.server / "crm").read_text() == CRM


def test_the_newest_that_is_signed_is_restored(lab):
    assert lab.run("run") == 0
    (lab.remote / "20990101T000000Z").mkdir()
    manifest = {"format": 1, "snapshot": "20990101T000000Z", "databases": [], "paths": [], "absent": []}
    (lab.remote / "20990101T000000Z" / "manifest.json").write_text(json.dumps(manifest))
    (lab.server / "crm").write_text("")
    assert lab.run("restore") == 0
    assert (lab.server / "crm").read_text() == CRM


def test_a_snapshot_that_the_backup_host_hides_is_missed(lab, capsys):
    """A signature does not say that there is no newer one."""
    assert lab.run("run") == 0 and lab.run("run") == 0
    _, second = lab.snapshots()
    (lab.remote / second / "manifest.json").unlink()
    assert lab.run("restore") == 0
    assert f"the last snapshot that this host made is {second}, and the backup host lacks it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [{"databases": [{"file": "x", "sha256": "0" * 64, "size": 1, "name": "\x1b[2J", "tables": 1}]}, {"paths": [1]},
     {"databases": [{"file": "x", "sha256": "0" * 64, "size": 1}]}, {"databases": {}, "paths": None}],
)  # fmt: skip
def test_a_manifest_that_says_nothing_sensible_is_none(lab, capsys, changes):
    """It may hold anything: neither the list nor the next run stumbles over it, and no terminal obeys it."""
    assert lab.run("run") == 0
    name = forge(lab, **changes)
    capsys.readouterr()
    assert lab.run("list") == 0
    assert capsys.readouterr().out == f"{name}  INCOMPLETE\n"
    assert lab.run("run") == 0


def test_snapshots_of_another_key_stay(lab, capsys, tmp_path):
    """A lost vault means a new key; nothing of before may go for that."""
    assert lab.run("run") == 0
    (tmp_path / "signing-key").write_text("00" * 32)
    assert lab.run("run") == 0
    assert len(lab.snapshots()) == 2


@pytest.mark.parametrize("key", [None, "", "zz", "00"])
def test_no_key_no_snapshot(lab, capsys, tmp_path, key):
    (tmp_path / "signing-key").unlink()
    if key is not None:
        (tmp_path / "signing-key").write_text(key)
    assert lab.run("run") == 1
    assert f"{tmp_path}/signing-key: the" in capsys.readouterr().err
    assert lab.snapshots(complete=False) == []


def test_a_row_longer_than_any_default_comes_back_and_the_limit_is_as_before(lab):
    """A BLOB is twice as long in a dump: a snapshot that was verified could not be loaded."""
    row = f"CREATE TABLE `a` (x);\nINSERT INTO `a` VALUES (0x{'ff' * (13 << 20)});"
    (lab.server / "crm").write_text(row)
    (lab.server / ".packet").write_text("67108864")
    assert lab.run("run") == 0
    (lab.server / "crm").write_text("")
    assert lab.run("restore", "--database", "crm") == 0
    assert (lab.server / "crm").read_text() == row
    assert (lab.server / ".packet").read_text() == "67108864"


@pytest.mark.parametrize("broken", ["too long", "cut"])
def test_verify_refuses_a_dump_that_cannot_be_loaded(lab, capsys, monkeypatch, broken):
    """One of an older version: its checksum agrees."""
    assert lab.run("run") == 0
    (name,) = lab.snapshots()
    manifest = json.loads((lab.remote / name / "manifest.json").read_text())
    dump = lab.remote / name / "database-crm.sql.gz"
    if broken == "too long":
        monkeypatch.setattr(mariadb, "LONGEST", 1 << 20)
        dump.write_bytes(gzip.compress(b"a;\n" + b"b" * (5 << 20) + b";\n-- Dump completed\n"))
    else:
        dump.write_bytes(gzip.compress(b"CREATE TABLE `a` (x);\n"))
    (entry,) = (e for e in manifest["databases"] if e["name"] == "crm")
    entry |= {"size": dump.stat().st_size, "sha256": hashlib.sha256(dump.read_bytes()).hexdigest()}
    (lab.remote / name / "manifest.json").write_text(json.dumps(manifest))
    assert lab.run("verify") == 1
    words = {"too long": "one row takes a statement of 5 MB", "cut": "mariadb-dump ended before its last line"}
    error = capsys.readouterr().err
    assert f"database crm: {words[broken]}" in error and error.count("\n") == 1


@pytest.mark.parametrize("fault", [{"FAKE_DUMP": "hang"}, {"FAKE_SSH": "hang"}], ids=["dumping", "sending"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_midway_leaves_no_snapshot_and_the_next_run_cleans_up(lab, fault, number):
    lab.grow()
    process = subprocess.Popen(
        [LAUNCHER, "civicrm-backup", "--config", lab.config, "run"],
        env=os.environ | fault,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    started = (lab.state / "scratch").rglob if "FAKE_DUMP" in fault else lab.remote.rglob
    while not any(started("database-crm.sql.gz")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    # A dump that was just being started may outlive the tool (a minute here) and hold its stderr; systemd ends both.
    message = process.communicate(timeout=90)[1]
    assert process.returncode != 0
    if number == signal.SIGTERM:
        assert message == b"civicrm-backup: stopped by SIGTERM\n"
        assert not (lab.state / "scratch").exists()
    assert lab.snapshots() == []
    assert not (lab.state / "last-success.json").exists()
    assert lab.run("restore") == 1

    left = lab.snapshots(complete=False)
    if "FAKE_SSH" in fault:
        assert len(left) == 1
    assert lab.run("run") == 0
    assert lab.snapshots() == lab.snapshots(complete=False)
    assert not set(left) & set(lab.snapshots())


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"FAKE_DUMP": "fail"}, "database crm: mariadb-dump ended with 3: mariadb-dump: Got error: 2013"),
        ({"FAKE_DUMP": "truncate"}, "database crm: mariadb-dump ended before its last line"),
        ({"FAKE_SSH": "unreachable"}, "listing snapshots (2001:db8::13): rsync ended with 255: ssh: connect to"),
        ({"FAKE_SSH": "fail"}, "sending the snapshot (2001:db8::13): rsync ended with 12"),
    ],
)
def test_a_failure_is_one_line_that_names_it(lab, capsys, monkeypatch, fault, named):
    lab.grow()
    for name, value in fault.items():
        monkeypatch.setenv(name, value)
    assert lab.run("run") == 1
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert lab.snapshots() == []
    assert not (lab.state / "last-success.json").exists()
    assert not (lab.state / "scratch").exists()


def test_a_database_that_is_not_there_is_a_failure(lab, capsys):
    lab.change(databases=["crm", "gone"])
    assert lab.run("run") == 1
    assert "database gone: mariadb ended with 1: ERROR 1049 (42000): Unknown database 'gone'" in capsys.readouterr().err
    assert lab.snapshots() == []


def test_a_load_that_fails_says_that_the_database_is_incomplete(lab, capsys, monkeypatch):
    assert lab.run("run") == 0
    monkeypatch.setenv("FAKE_LOAD", "fail crm")
    assert lab.run("restore", "--database", "crm") == 1
    assert "database crm is incomplete now, restore it again: loading it" in capsys.readouterr().err


def test_what_one_site_holds_back_stops_no_other(lab, capsys, monkeypatch, tmp_path):
    """A site that puts a directory where the snapshot has a file once stopped the restore of all."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "page").write_text("page")
    lab.change(paths=[str(lab.mail), str(other)])
    assert lab.run("run") == 0
    (lab.mail / "crm" / "new" / "1").unlink()
    (lab.mail / "crm" / "new" / "1" / "x").mkdir(parents=True)
    (other / "page").unlink()
    (lab.server / "staging_crm").write_text("")
    monkeypatch.setenv("FAKE_LOAD", "fail crm")
    assert lab.run("restore") == 1
    said = capsys.readouterr()
    assert "database crm is incomplete now, restore it again: " in said.err
    assert "crm/new/1': a directory lies in its place: move it away and restore again" in said.err
    assert said.err.splitlines()[-1] == (
        f"civicrm-backup: crm, {lab.mail} did not come back whole: the lines above say why"
    )
    assert (lab.server / "staging_crm").read_text() == STAGING
    assert (other / "page").read_text() == "page"
    assert f"{lab.mail} restored from {lab.snapshots()[0]} but for 1 entries" in said.out


def test_a_file_without_content_takes_no_space_and_no_time(lab, capsys, monkeypatch):
    """One of terabytes took hours of every night, and the backup of all sites broke off; a small one comes back."""
    with (lab.mail / "crm" / "huge").open("wb") as file:
        file.truncate(1 << 30)
    with (lab.mail / "crm" / "small").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    assert lab.run("run") == 0
    (packed,) = (lab.remote / lab.snapshots()[0]).glob("path-*")
    assert packed.stat().st_size < 100_000
    for name in ("huge", "small"):
        (lab.mail / "crm" / name).unlink()
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=4096, f_frsize=4096))
    assert lab.run("restore", "--path", str(lab.mail)) == 1
    assert "crm/huge': its 1073.7 MB do not fit on the disk" in capsys.readouterr().err
    assert (lab.mail / "crm" / "small").read_bytes() == bytes(1 << 20) + b"end"


def test_only_what_is_configured_here_is_restored(lab, capsys, tmp_path):
    """A manifest lies on another host: it chooses neither a directory nor a database."""
    assert lab.run("run") == 0
    (lab.mail / "crm" / "new" / "1").unlink()
    (lab.server / "crm").write_text("precious")
    lab.change(paths=[str(tmp_path / "elsewhere")], databases=["staging_crm"])
    for option, item in (("--path", str(lab.mail)), ("--database", "crm")):
        assert lab.run("restore", option, item) == 1
        assert "so it may not be restored here; nothing was changed" in capsys.readouterr().err
    assert lab.run("restore") == 0
    assert f"warning: {lab.mail}: not in backup_paths" in capsys.readouterr().err
    assert not (lab.mail / "crm" / "new" / "1").exists()
    assert (lab.server / "crm").read_text() == "precious"


def test_a_directory_that_is_not_there_is_a_warning(lab, capsys, tmp_path):
    lab.change(paths=[str(tmp_path / "absent"), str(lab.mail)])
    assert lab.run("run") == 0
    assert f"warning: {tmp_path / 'absent'} does not exist" in capsys.readouterr().err
    manifest = json.loads((lab.remote / lab.snapshots()[0] / "manifest.json").read_text())
    assert manifest["absent"] == [str(tmp_path / "absent")]
    assert [p["path"] for p in manifest["paths"]] == [str(lab.mail)]


def test_the_newest_complete_snapshots_stay(lab, capsys):
    old = [lab.older(day) for day in (1, 2, 3)]
    broken = lab.older(4, complete=False)
    assert lab.run("run") == 0
    kept = lab.snapshots(complete=False)
    assert len(kept) == 2 and kept[0] == old[2] and kept[1] not in (*old, broken)
    output = capsys.readouterr().out
    assert f"{old[0]} removed" in output and f"{broken} removed: it was never complete" in output


def test_keeping_one_keeps_the_new_one(lab):
    lab.change(keep=1)
    old = lab.older(1)
    assert lab.run("run") == 0
    assert len(lab.snapshots(complete=False)) == 1 and old not in lab.snapshots()


def test_a_snapshot_from_the_future_stops_the_run(lab, capsys):
    (lab.remote / lab.older(1)).rename(lab.remote / "29990101T000000Z")
    assert lab.run("run") == 1
    assert "is from the future: check this host's clock" in capsys.readouterr().err


def test_a_manifest_of_another_snapshot_does_not_count(lab, capsys):
    (lab.remote / lab.older(1)).rename(lab.remote / "20200109T000000Z")
    assert lab.run("list") == 0
    assert capsys.readouterr().out == "20200109T000000Z  INCOMPLETE\n"


def test_snapshots_as_json(lab, capsys):
    lab.older(1, complete=False)
    lab.older(2)
    assert lab.run("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["20200101T020000Z"] is None
    assert found["20200102T020000Z"]["snapshot"] == "20200102T020000Z"


@pytest.mark.parametrize("name", ["../../etc", "20200101T020000Z", ""])
def test_only_a_complete_snapshot_can_be_named(lab, capsys, name):
    lab.older(1, complete=False)
    lab.older(2)
    assert lab.run("restore", "--snapshot", name) == 1
    assert "no complete snapshot" in capsys.readouterr().err


def test_what_the_snapshot_lacks_cannot_be_restored(lab, capsys):
    assert lab.run("run") == 0
    assert lab.run("restore", "--database", "other") == 1
    assert "has no other; it has crm, staging_crm" in capsys.readouterr().err


def test_an_emptied_database_does_not_follow_a_full_one(lab, capsys):
    """A rebuilt host whose timer runs before the restore must not make an empty snapshot the newest."""
    assert lab.run("run") == 0
    (lab.server / "crm").write_text("")
    assert lab.run("run") == 1
    assert "database crm is empty here but has 2 tables" in capsys.readouterr().err
    assert len(lab.snapshots()) == 1
    assert lab.run("run", "--allow-empty") == 0
    assert len(lab.snapshots()) == 2


def test_two_at_once_are_refused(lab, capsys):
    lab.state.mkdir()
    with tool.exclusive(tool.Config.load(lab.config)):
        assert lab.run("run") == 1
    assert "another civicrm-backup is at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"databases": ["x'; DROP"]}, "is not the name of a database"),
        ({"paths": ["/"]}, "is not an absolute path below /"),
        ({"paths": ["/srv/../etc"]}, "is not an absolute path below /"),
        ({"target": {"host": "x"}}, "damaged: Target.__init__() missing"),
    ],
)
def test_a_bad_configuration_is_refused(lab, capsys, values, named):
    lab.change(**values)
    assert lab.run("run") == 1
    assert named in capsys.readouterr().err
    assert lab.snapshots(complete=False) == []


def test_no_configuration_is_one_clear_line(capsys, tmp_path):
    assert tool.main(["--config", str(tmp_path / "none.json"), "list"]) == 1
    assert capsys.readouterr().err == f"civicrm-backup: {tmp_path}/none.json: there is no such file\n"


def test_tables_are_counted_across_any_boundary():
    text = b"--\nCREATE TABLE `a` (\nCREATE TABLE `b` (\n'CREATE TABLE'\nCREATE TABLE `c` (\n-- Dump completed\n"
    for width in range(1, len(text)):
        inspector = DumpInspector()
        for start in range(0, len(text), width):
            inspector(text[start : start + width])
        assert inspector.tables == 3
        inspector.judge()


def test_the_longest_statement_is_found_across_any_boundary():
    """In a piece as long as a statement or longer it is not measured, and no piece is as long as any limit."""
    long = b"INSERT INTO `a` VALUES (0x" + b"ff" * 400 + b")"
    text = b"CREATE TABLE `a` (x);\n" + long + b";\nDROP TABLE `b`;\n-- Dump completed\n"
    for width in range(1, len(long)):
        inspector = DumpInspector()
        for start in range(0, len(text), width):
            inspector(text[start : start + width])
        assert len(long) <= inspector.longest <= len(long) + 2, width


def test_the_same_dump_gives_the_same_file(lab):
    for name in ("one", "two"):
        (lab.state / name).mkdir(parents=True)
    first, second = (tool.dump_database("crm", lab.state / name) for name in ("one", "two"))
    assert first == second
    assert gzip.decompress((lab.state / "one" / first["file"]).read_bytes()).decode().startswith("-- MariaDB dump")
