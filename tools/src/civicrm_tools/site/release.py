"""Deploy releases of a site, go back to the one before, and keep what that takes.

Below the site's folder lie releases/<id> (root's), shared/ (the site's own: files that outlive a release), dumps/ (one
before each upgrade), `current` (a link to the release that is served) and `release-path` (the same as text, for Apache:
PHP then gets each request's real path, so that no cache mixes two releases). /etc/civicrm-release/<site>.json says how.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from civicrm_tools.core import files, locks, mariadb
from civicrm_tools.core.command import Failure

CONFIG = "/etc/civicrm-release"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CHUNK = 1 << 20


class ReleaseError(Failure):
    """What failed and what to do, in one line for the operator."""


@dataclass(frozen=True)
class Site:
    """One site as its configuration file describes it; commands run as `user` in the release's folder."""

    name: str
    base: Path
    user: str
    web: str
    shared: list[dict[str, str]]
    environment: dict[str, str]
    database: str
    upgrade_command: str
    schema_command: str
    cache_socket: str
    pause_units: list[str]
    pause_seconds: int
    keep_releases: int
    keep_dumps: int

    @classmethod
    def load(cls, folder: Path, name: str) -> Site:
        path = folder / f"{name}.json"
        try:
            return files.read_json(path, lambda raw: cls(**(raw | {"base": Path(raw["base"])})))
        except files.Missing as error:
            known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
            raise ReleaseError(f"there is no site {name!r} with releases; sites: {known}") from error

    @property
    def releases(self) -> Path:
        return self.base / "releases"

    @property
    def dumps(self) -> Path:
        return self.base / "dumps"

    @property
    def link(self) -> Path:
        return self.base / "current"

    @property
    def pointer(self) -> Path:
        return self.base / "release-path"


@dataclass
class State:
    """What was deployed when: state.json. `held` names releases that somebody rolled back."""

    history: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, site: Site) -> State:
        try:
            return files.read_json(site.base / "state.json", lambda raw: cls(**raw))
        except files.Missing:
            return cls()

    def save(self, site: Site) -> None:
        files.write_json(site.base / "state.json", vars(self), indent=1)

    def arrival(self, release: str) -> dict[str, Any] | None:
        """Return the last entry with which this release came by a deployment."""
        return next((e for e in reversed(self.history) if e["id"] == release and not e.get("rollback")), None)


# Files


def now() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def current(site: Site) -> str | None:
    """Return the id of the release that is served, or None before the first."""
    return site.link.readlink().name if site.link.is_symlink() else None


def switch(site: Site, release: str) -> None:
    """Serve another release: one rename for PHP's requests, one for files. A cut between the two is made good later."""
    target = site.releases / release
    files.write(site.pointer, str(target))
    new = site.base / ".current.new"
    new.unlink(missing_ok=True)
    new.symlink_to(f"releases/{release}")
    new.replace(site.link)


def served(site: Site, release: str) -> bool:
    """Say whether both ways to the release that is served lead to this one."""
    path = site.releases / release
    return current(site) == release and site.pointer.is_file() and site.pointer.read_text() == str(path)


def check_sum(archive: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with archive.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256.lower():
        raise ReleaseError(f"{archive} has SHA-256 {digest.hexdigest()}, not {sha256}: nothing was changed")


def members(archive: tarfile.TarFile, site: Site) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yield what to unpack and where; one folder around all of it is left out unless the web folder lies beside it."""
    found = []
    for member in archive:
        path = PurePosixPath(os.path.normpath(member.name))
        if path.is_absolute() or ".." in path.parts:
            raise ReleaseError(f"the archive holds {member.name!r}, which lies outside of it: refused")
        if not (member.isdir() or member.isfile() or member.issym()):
            raise ReleaseError(f"the archive holds {member.name!r}, which is no file, folder or symbolic link: refused")
        if member.issym():
            end = PurePosixPath(os.path.normpath(path.parent / member.linkname))
            if PurePosixPath(member.linkname).is_absolute() or end.parts[:1] == ("..",):
                raise ReleaseError(f"the archive's link {member.name!r} leads out of it: refused")
        if path.parts:
            found.append((member, path))
    tops = {path.parts[0] for _, path in found}
    folder = len(tops) == 1 and all(len(path.parts) > 1 or member.isdir() for member, path in found)
    strip = folder and PurePosixPath(site.web).parts[:1] != tuple(tops)
    for member, path in found:
        inner = PurePosixPath(*path.parts[1:]) if strip else path
        if inner.parts:
            yield member, inner


def unpack(site: Site, archive: Path, release: str) -> None:
    """Make releases/<id> out of an archive, complete or not at all; all of it is root's and nobody may write to it."""
    site.releases.mkdir(mode=0o755, exist_ok=True)
    partial = site.releases / f".{release}.partial"
    remove(partial)
    partial.mkdir(mode=0o755)
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(archive) as source:
            for member, path in members(source, site):
                target = partial / path
                target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                if member.isdir():
                    target.mkdir(mode=0o755, exist_ok=True)
                elif member.issym():
                    links.append((target, member.linkname))
                else:
                    content = source.extractfile(member)
                    assert content is not None
                    with content, target.open("xb") as sink:
                        shutil.copyfileobj(content, sink, CHUNK)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
        # Last: nothing is ever written through a link of the archive.
        for target, name in links:
            target.symlink_to(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ReleaseError(f"{archive} cannot be unpacked: {error}") from error
    if not (partial / site.web).is_dir():
        raise ReleaseError(f"the archive has no folder {site.web!r}, which the site serves: refused")
    for entry in site.shared:
        link, target = partial / entry["path"], site.base / "shared" / entry["to"]
        if not link.parent.resolve().is_relative_to(partial.resolve()):
            raise ReleaseError(f"the archive has a link in the way of {entry['path']}: refused")
        remove(link)
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        link.symlink_to(target)
    partial.rename(site.releases / release)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def prune(site: Site, state: State) -> list[str]:
    """Remove releases and dumps beyond those that are kept; the served one and the one before it always stay."""
    here = current(site)
    arrival = state.arrival(here) if here else None
    order = [here, arrival["from"] if arrival else None, *(e["id"] for e in reversed(state.history))]
    keep = [*dict.fromkeys(release for release in order if release)][: max(2, site.keep_releases)]
    gone = [p for p in site.releases.glob("*") if p.name not in keep] + list(site.releases.glob(".*.partial"))
    gone += old_dumps(site, state)
    for path in gone:
        remove(path)
    return sorted(path.name for path in gone)


def old_dumps(site: Site, state: State) -> list[Path]:
    """Return the dumps beyond those that are kept; the one that a rollback would take is none of them."""
    arrival = state.arrival(current(site) or "")
    dumps = sorted(site.dumps.glob("*.sql.gz"))[: -max(1, site.keep_dumps)]
    return [path for path in dumps if not arrival or path.name != arrival["dump"]]


# The database and the application


def run(site: Site, command: str, release: Path) -> str:
    """Run one of the site's own commands as its user in the release's folder; return what it printed."""
    argv = shlex.split(command.replace("{release}", str(release)))
    if os.geteuid() == 0:
        argv = ["runuser", "-u", site.user, "--", *argv]
    known = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(site.base)}
    env = known | site.environment | {"CIVICRM_RELEASE": str(release)}
    try:
        done = subprocess.run(argv, cwd=release, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise ReleaseError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ReleaseError(f"{command!r} ended with {done.returncode}: {lines[-1] if lines else 'no message'}")
    return done.stdout


def schema(site: Site, release: str | None) -> str | None:
    """Return the version of the database's schema as schema_command says it, or None where there is none to ask."""
    if not site.schema_command or not release:
        return None
    lines = run(site, site.schema_command, site.releases / release).split()
    if len(lines) != 1:
        raise ReleaseError(f"schema_command must print one word, not {len(lines)}")
    return lines[0]


def dump(site: Site, note: str) -> str:
    """Dump the site's database into dumps/ and return the file's name; an incomplete dump raises."""
    site.dumps.mkdir(mode=0o700, exist_ok=True)
    name = f"{now()}-{note}.sql.gz"
    partial = site.dumps / f".{name}.partial"
    partial.unlink(missing_ok=True)
    try:
        mariadb.dump(site.database, partial)
        partial.chmod(0o600)
    except Failure as error:
        partial.unlink(missing_ok=True)
        raise ReleaseError(f"the dump of {site.database} failed: {error}; nothing was changed") from error
    partial.rename(site.dumps / name)
    return name


def restore(site: Site, name: str) -> None:
    """Replace the site's database by a dump that was read to its end before."""
    path = site.dumps / name
    try:
        with gzip.open(path) as packed:
            while packed.read(CHUNK):
                pass
    except (OSError, EOFError) as error:
        raise ReleaseError(f"the dump {path} cannot be read: {error}; nothing was changed") from error
    # After a restore that failed half way the database may be gone.
    charset, collation = "utf8mb4", "utf8mb4_unicode_ci"
    with contextlib.suppress(Failure):
        charset, collation = mariadb.charset(site.database)
    try:
        mariadb.load(site.database, path, charset, collation)
    except Failure as error:
        raise ReleaseError(f"restoring {path} failed half way: {error}; run the same command again") from error


def empty_cache(site: Site) -> None:
    """Have Redis forget what the other release and database left; a cache that does not run has forgotten already."""
    if not site.cache_socket:
        return
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(site.cache_socket)
        client.sendall(b"FLUSHALL\r\n")
        answer = client.recv(100)
        if not answer.startswith(b"+OK"):
            raise ReleaseError(
                f"the cache at {site.cache_socket} was not emptied: {answer.decode(errors='replace').strip()}"
            )


@contextlib.contextmanager
def jobs_paused(site: Site) -> Iterator[None]:
    """Stop the site's timers and wait for a running job to end: a mailing must not run into a dump or an upgrade."""

    def active(kind: str) -> list[str]:
        units = [f"{unit}.{kind}" for unit in site.pause_units]
        if not units:
            return []
        done = subprocess.run(["systemctl", "is-active", *units], capture_output=True, text=True)
        return [u for u, state in zip(units, done.stdout.split(), strict=False) if state in ("active", "activating")]

    timers = active("timer")
    if timers:
        subprocess.run(["systemctl", "stop", *timers], check=True)
    try:
        deadline = time.monotonic() + site.pause_seconds
        while running := active("service"):
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"{running[0]} still runs after {site.pause_seconds} s: nothing was changed, try later"
                )
            time.sleep(0.5)
        yield
    finally:
        if timers:
            subprocess.run(["systemctl", "start", *timers], check=True)


# Commands


def deploy(site: Site, archive: Path, release: str, sha256: str, again: bool) -> dict[str, Any]:
    """Serve the release; {outcome: deployed, unchanged or held, release, from}."""
    if not ID.fullmatch(release):
        raise ReleaseError(f"release {release!r}: use letters, digits, . _ and -")
    state, before = State.load(site), current(site)
    if served(site, release):
        return {"outcome": "unchanged", "release": release}
    if release in state.held and not again:
        return {"outcome": "held", "release": release, "since": state.held[release]}
    if not (site.releases / release).is_dir():
        check_sum(archive, sha256)
        unpack(site, archive, release)
    entry: dict[str, Any] = {"id": release, "from": before, "at": now(), "dump": None}
    entry["schema_before"] = schema(site, before)
    if site.upgrade_command:
        with jobs_paused(site):
            entry["dump"] = dump(site, f"before-{release}")
            for old in old_dumps(site, state):
                old.unlink()
            try:
                run(site, site.upgrade_command, site.releases / release)
            except ReleaseError as error:
                raise ReleaseError(
                    f"{error}; {before or 'nothing'} is still served; the dump before is {site.dumps / entry['dump']}"
                ) from error
            switch(site, release)
    else:
        switch(site, release)
    empty_cache(site)
    entry["schema_after"] = schema(site, release)
    state.held.pop(release, None)
    state.history.append(entry)
    state.save(site)
    return {"outcome": "deployed", "release": release, "from": before, "removed": prune(site, state)}


def rollback(site: Site, restore_dump: bool) -> dict[str, Any]:
    """Serve the release before this one again; {outcome: rolled back, release, from}."""
    state, here = State.load(site), current(site)
    arrival = state.arrival(here) if here else None
    target = arrival["from"] if arrival else None
    if here is None or arrival is None or not target or not (site.releases / target).is_dir():
        raise ReleaseError("there is no release before this one to go back to")
    found, wanted = schema(site, here), arrival["schema_before"]
    saved = None
    if found != wanted:
        if not restore_dump:
            raise ReleaseError(
                f"the database has schema {found}, release {target} wants {wanted}: refused; restore_dump=true brings "
                f"back the dump of {arrival['at']}, and what was written since is lost"
            )
        if not arrival["dump"] or not (site.dumps / arrival["dump"]).is_file():
            raise ReleaseError(
                f"the database has schema {found}, release {target} wants {wanted}, and there is no dump of it"
            )
        with jobs_paused(site):
            saved = dump(site, f"before-rollback-of-{here}")
            restore(site, arrival["dump"])
            switch(site, target)
    else:
        switch(site, target)
    empty_cache(site)
    state.held[here] = now()
    state.history.append({"id": target, "from": here, "at": now(), "rollback": True, "dump": saved})
    state.save(site)
    return {"outcome": "rolled back", "release": target, "from": here, "dump": saved}


def listing(site: Site) -> dict[str, Any]:
    state = State.load(site)
    return {
        "site": site.name,
        "current": current(site),
        "releases": sorted(p.name for p in site.releases.glob("[!.]*")),
        "dumps": sorted(p.name for p in site.dumps.glob("[!.]*")),
        "held": state.held,
        "history": state.history,
    }


def show(result: dict[str, Any]) -> str:
    if "site" in result:
        marks = {result["current"]: " (served)"} | {held: f" (rolled back {at})" for held, at in result["held"].items()}
        lines = [f"{release}{marks.get(release, '')}" for release in result["releases"]]
        return "\n".join(lines + [f"dump {name}" for name in result["dumps"]]) or "no release yet"
    return ", ".join(f"{key}: {value}" for key, value in result.items() if value)


@contextlib.contextmanager
def locked(site: Site) -> Iterator[None]:
    with locks.locked(site.base / ".lock", wait=0, busy=f"another civicrm-release works on {site.name}: wait for it"):
        yield


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="civicrm-release", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the result as JSON, one line for each site")
    parser.add_argument("--config", type=Path, default=Path(CONFIG), help=f"folder of configurations ({CONFIG})")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("list", "show releases, dumps and what was deployed when, of all sites or of those named"),
        ("deploy", "unpack an archive, upgrade the database and serve the release"),
        ("rollback", "serve the release before again"),
        ("prune", "remove releases and dumps beyond those that are kept"),
    ):
        command = commands.add_parser(name, help=text)
        if name == "list":
            command.add_argument("sites", nargs="*", metavar="site")
        else:
            command.add_argument("site")
        if name == "deploy":
            command.add_argument("--archive", type=Path, required=True, help="tar file, compressed or not")
            command.add_argument("--sha256", required=True, help="its SHA-256")
            command.add_argument("--id", required=True, help="name of the release")
            command.add_argument("--again", action="store_true", help="also a release that was rolled back")
        if name == "rollback":
            command.add_argument("--restore-dump", action="store_true", help="also bring back the database of then")
    return parser.parse_args(argv)


def work(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """Do what changes a site."""
    if options.command == "deploy":
        return deploy(site, options.archive, options.id, options.sha256, options.again)
    if options.command == "rollback":
        return rollback(site, options.restore_dump)
    return {"outcome": "pruned", "removed": prune(site, State.load(site))}


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("civicrm-release: ended by a signal"))
    try:
        if options.command == "list":
            names = options.sites or sorted(p.stem for p in options.config.glob("*.json"))
            results = [listing(Site.load(options.config, name)) for name in names]
        else:
            site = Site.load(options.config, options.site)
            with locked(site):
                results = [work(site, options)]
    except (Failure, OSError, subprocess.CalledProcessError) as error:
        print(f"civicrm-release: {error}", file=sys.stderr)
        return 1
    for result in results:
        if len(results) > 1 and not options.json:
            print(f"{result['site']}:")
        print(json.dumps(result) if options.json else show(result))
    return 0
