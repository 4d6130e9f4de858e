"""Releases of a site: served completely or not at all, and back again (P16)."""

import fcntl
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from civicrm_tools.site import application
from civicrm_tools.site import release as tool

# A database that is a file: schema and dump read it, upgrade and restore write it.
FAKES = {
    "mariadb-dump": '#!/bin/sh\ncat "$FAKE_DB"\necho "-- Dump completed"\n',
    "mariadb": '#!/bin/sh\n[ "$3" != crm ] || exec echo "utf8mb4 utf8mb4_unicode_ci"\n'
    'if [ "$1" = --batch ]; then case $(cat) in "SELECT REPLACE"*) printf "crm\\tcrm\\t0\\t0\\t0\\t0\\t0\\n";;\n'
    f"SHOW*) echo \"'*{'A' * 40}'\";; esac; exit; fi\n"
    '[ "$1" ] || exec cat >/dev/null\ngrep -v "^-- Dump" >"$FAKE_DB"\n',
    "systemctl": '#!/bin/sh\necho "$@" >>"$FAKE_LOG"\n[ "$1" = is-active ] || exit 0\nshift\n'
    'for unit; do case $unit in *.timer) echo active;; *) echo "${FAKE_SERVICE:-inactive}";; esac; done\n',
}


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory, self.base = directory, directory / "site"
        self.database = directory / "database"
        self.database.write_text("1\n")
        self.base.mkdir()
        self.describe()

    def describe(self, **keys) -> None:
        site = {
            "name": "crm", "base": str(self.base), "user": "nobody", "web": "web", "environment": {}, "database": "crm",
            "shared": [{"path": "web/files", "to": "files"}], "upgrade_command": "", "schema_command": "",
            "cache_socket": "", "pause_units": [], "pause_seconds": 0, "keep_releases": 2, "keep_dumps": 2,
        } | keys  # fmt: skip
        (self.directory / "crm.json").write_text(json.dumps(site))

    def archive(self, name: str, prefix: str = "", **files: str) -> Path:
        path = self.directory / f"{name}.tar.gz"
        with tarfile.open(path, "w:gz") as sink:
            for inner, text in ({"web/index.php": name} | files).items():
                member = tarfile.TarInfo(prefix + inner)
                member.size, member.mode = len(text), 0o666
                sink.addfile(member, io.BytesIO(text.encode()))
        return path

    def deploy(self, name: str, *options: str, archive: Path | None = None) -> int:
        archive = archive or self.archive(name)
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        return self("deploy", "crm", "--archive", str(archive), "--id", name, "--sha256", sha256, *options)

    def __call__(self, *arguments: str) -> int:
        return tool.main(["--json", "--config", str(self.directory), *arguments])

    @property
    def serves(self) -> str:
        """What both ways to the release that is served lead to."""
        text = (self.base / "current/web/index.php").read_text()
        assert Path((self.base / "release-path").read_text(), "web/index.php").read_text() == text
        return text


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, text in FAKES.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DB", str(tmp_path / "database"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # no runuser: the commands run as whoever runs the tests
    return Place(tmp_path)


@pytest.fixture
def upgrading(place) -> Place:
    """A site whose upgrade_command counts the schema up."""
    up = place.directory / "upgrade"
    up.write_text(f"#!/bin/sh\nn=$(cat {place.database})\necho $((n + 1)) >{place.database}\n")
    up.chmod(0o755)
    place.describe(upgrade_command=str(up), schema_command=f"/bin/cat {place.database}", pause_units=["job"])
    return place


def test_a_release_is_served_by_link_and_by_text(place, capsys):
    assert place.deploy("one") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "deployed"
    assert place.serves == "one"
    assert place.deploy("two") == 0
    assert place.serves == "two"
    assert (place.base / "releases/one/web/index.php").exists(), "a running request still reads the old one"


def test_the_same_release_again_changes_nothing(place, capsys):
    place.deploy("one")
    before = (place.base / "state.json").read_bytes()
    capsys.readouterr()
    assert place.deploy("one") == 0
    assert json.loads(capsys.readouterr().out) == {"outcome": "unchanged", "release": "one"}
    assert (place.base / "state.json").read_bytes() == before


def test_a_switch_that_was_cut_in_half_is_made_good(place):
    place.deploy("one")
    place.deploy("two")
    (place.base / "release-path").write_text(str(place.base / "releases/one"))
    assert place.deploy("two") == 0
    assert place.serves == "two"


def test_another_checksum_is_refused_and_nothing_is_there(place, capsys):
    assert place("deploy", "crm", "--archive", str(place.archive("one")), "--id", "one", "--sha256", "0" * 64) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert not (place.base / "releases").exists()


def test_code_is_not_writable_and_what_the_site_writes_leads_out_of_the_release(place):
    place.deploy("one", archive=place.archive("one", **{"web/files/.keep": ""}))
    assert (place.base / "releases/one/web/index.php").stat().st_mode & 0o777 == 0o640
    assert (place.base / "current/web/files").readlink() == place.base / "shared/files"


def test_others_read_what_is_served_and_no_source(place):
    """The web server serves many sites: what it can read of one, a link in another could lead to."""
    files = {"web/a/style.css": "", "web/settings.inc": "", "web/sites/x.yml": "", "vendor/x.php": "", "README.css": ""}
    old = os.umask(0o027)
    try:
        assert place.deploy("one", archive=place.archive("one", **files)) == 0
    finally:
        os.umask(old)
    release = place.base / "releases/one"
    readable = {
        str(p.relative_to(release)) for p in release.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o004
    }
    assert readable == {"web", "web/a", "web/a/style.css", "web/sites"}
    assert release.stat().st_mode & 0o777 == place.base.joinpath("releases").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("prefix", "web"), [("site-1.0/", "web"), ("", "web"), ("", ".")])
def test_one_directory_around_everything_is_left_out(place, prefix, web):
    place.describe(web=web, shared=[])
    place.deploy("one", archive=place.archive("one", prefix))
    found = sorted(p.relative_to(place.base / "releases/one") for p in (place.base / "releases/one").rglob("*.php"))
    # With "." the directory web/ is the one around everything.
    assert found == [Path("index.php" if web == "." else "web/index.php")]


def evil(path: Path, **attributes) -> Path:
    with tarfile.open(path, "w") as sink:
        sink.addfile(tarfile.TarInfo("web/index.php"))
        member = tarfile.TarInfo(attributes.pop("name"))
        for key, value in attributes.items():
            setattr(member, key, value)
        sink.addfile(member)
    return path


@pytest.mark.parametrize(
    "member",
    [
        {"name": "../outside"},
        {"name": "/etc/outside"},
        {"name": "web/a", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "web/a", "type": tarfile.SYMTYPE, "linkname": "../../a"},
        {"name": "web/a", "type": tarfile.LNKTYPE, "linkname": "web/index.php"},
        {"name": "web/a", "type": tarfile.CHRTYPE},
        {"name": "web/a", "type": tarfile.FIFOTYPE},
    ],
    ids=str,
)
def test_an_archive_that_reaches_outside_is_refused(place, member, capsys):
    assert place.deploy("one", archive=evil(place.directory / "evil.tar", **member)) == 1
    assert "refused" in capsys.readouterr().err
    assert not (place.base / "releases/one").exists()
    assert not (place.base / "current").exists()


def test_nothing_is_written_through_a_link_of_the_archive(place):
    """A link named web/x, then a file web/x/y: the file would land where the link leads."""
    path = place.directory / "evil.tar"
    with tarfile.open(path, "w") as sink:
        for name, kind, target in (("web/x", tarfile.SYMTYPE, "."), ("web/x/index.php", tarfile.REGTYPE, "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            sink.addfile(member)
    assert place.deploy("one", archive=path) == 1
    assert not (place.base / "current").exists()


def test_an_archive_without_what_is_served_is_refused(place, capsys):
    place.describe(web="public")
    assert place.deploy("one") == 1
    assert "no directory 'public'" in capsys.readouterr().err
    assert not (place.base / "current").exists()


def test_a_dump_comes_before_the_upgrade_and_jobs_are_paused(upgrading):
    assert upgrading.deploy("one") == 0
    assert upgrading.database.read_text() == "2\n"
    (name,) = [p.name for p in (upgrading.base / "dumps").iterdir()]
    assert name.endswith("-before-one.sql.gz")
    assert gzip.decompress((upgrading.base / "dumps" / name).read_bytes()).startswith(b"1\n")
    assert (upgrading.base / "dumps" / name).stat().st_mode & 0o777 == 0o600
    calls = (upgrading.directory / "log").read_text().splitlines()
    assert calls.index("stop job.timer") < calls.index("start job.timer")


def test_a_running_job_stops_an_upgrade_before_it_begins(upgrading, monkeypatch, capsys):
    """A mailing that runs into a dump is either lost from it or sent twice after a rollback."""
    monkeypatch.setenv("FAKE_SERVICE", "activating")
    assert upgrading.deploy("one") == 1
    assert "job.service still runs" in capsys.readouterr().err
    assert upgrading.database.read_text() == "1\n"
    assert "start job.timer" in (upgrading.directory / "log").read_text()


def test_a_failed_upgrade_leaves_the_old_release_in_service(upgrading, capsys):
    upgrading.deploy("one")
    upgrading.describe(upgrade_command="/bin/false", schema_command=f"/bin/cat {upgrading.database}")
    assert upgrading.deploy("two") == 1
    error = capsys.readouterr().err
    assert "one is still served" in error and "before-two.sql.gz" in error
    assert upgrading.serves == "one"


def test_going_back_is_one_command_where_the_schema_fits(place):
    place.deploy("one")
    place.deploy("two")
    assert place("rollback", "crm") == 0
    assert place.serves == "one"


def test_going_back_over_an_upgrade_is_refused_without_the_dump(upgrading, capsys):
    upgrading.deploy("one")
    upgrading.deploy("two")
    assert upgrading("rollback", "crm") == 1
    assert "schema 3, release one wants 2: refused; restore_dump=true" in capsys.readouterr().err
    assert (upgrading.serves, upgrading.database.read_text()) == ("two", "3\n")
    assert upgrading("rollback", "crm", "--restore-dump") == 0
    assert (upgrading.serves, upgrading.database.read_text()) == ("one", "2\n")


def test_a_damaged_dump_is_noticed_before_the_database_goes(upgrading, capsys):
    upgrading.deploy("one")
    upgrading.deploy("two")
    (path,) = (upgrading.base / "dumps").glob("*-before-two.sql.gz")
    path.write_bytes(path.read_bytes()[:-9])
    assert upgrading("rollback", "crm", "--restore-dump") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert (upgrading.serves, upgrading.database.read_text()) == ("two", "3\n")


def test_a_release_that_was_rolled_back_is_held_until_asked_for(place, capsys):
    """The next converge, by somebody who knows nothing of the night, must not bring it back."""
    place.deploy("one")
    place.deploy("two")
    place("rollback", "crm")
    capsys.readouterr()
    assert place.deploy("two") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "held"
    assert place.serves == "one"
    assert place.deploy("two", "--again") == 0
    assert place.serves == "two"


def test_there_is_nothing_before_the_first_release(place, capsys):
    place.deploy("one")
    assert place("rollback", "crm") == 1
    assert "no release before" in capsys.readouterr().err


def test_old_releases_and_dumps_go_and_the_one_before_stays(upgrading, monkeypatch):
    for number, name in enumerate(("one", "two", "three", "four")):
        monkeypatch.setattr(application, "now", lambda number=number: f"2026010{number}T000000Z")
        assert upgrading.deploy(name) == 0
    assert sorted(p.name for p in (upgrading.base / "releases").iterdir()) == ["four", "three"]
    assert len(list((upgrading.base / "dumps").iterdir())) == 2
    assert upgrading("rollback", "crm", "--restore-dump") == 0
    assert upgrading.serves == "three"


def test_an_upgrade_that_fails_again_and_again_does_not_fill_the_disk(upgrading, monkeypatch):
    """Each converge tries it and dumps before; the dump that a rollback needs is not pushed out."""
    monkeypatch.setattr(application, "now", lambda: "20260101T000000Z")
    upgrading.deploy("one")
    upgrading.describe(upgrade_command="/bin/false", schema_command=f"/bin/cat {upgrading.database}")
    for day in range(2, 7):
        monkeypatch.setattr(application, "now", lambda day=day: f"2026010{day}T000000Z")
        assert upgrading.deploy("two") == 1
    names = sorted(p.name for p in (upgrading.base / "dumps").iterdir())
    assert [name[:8] for name in names] == ["20260101", "20260105", "20260106"]


def test_two_at_once_are_refused(place, capsys):
    (place.base / ".lock").touch()
    with (place.base / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert place.deploy("one") == 1
    assert "another civicrm-release" in capsys.readouterr().err


def test_an_unknown_site_is_said_with_the_known_ones(place, capsys):
    assert place("list", "shop") == 1
    assert "no site 'shop'" in capsys.readouterr().err
    assert place("list", "crm") == 0


def test_all_sites_are_listed_by_one_call(place, capsys):
    """Ansible asks once for a whole host: a line of JSON for each site, and none where there is no site."""
    place.deploy("one")
    (place.directory / "shop.json").write_text(
        (place.directory / "crm.json").read_text().replace('"crm"', '"shop"').replace("/site", "/other")
    )
    capsys.readouterr()
    assert place("list") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(site["site"], site["current"]) for site in listed] == [("crm", "one"), ("shop", None)]
    assert tool.main(["--config", str(place.directory), "list"]) == 0
    assert capsys.readouterr().out == "crm:\none (served)\nshop:\nno release yet\n"
    for path in place.directory.glob("*.json"):
        path.unlink()
    assert place("list") == 0 and capsys.readouterr().out == ""
