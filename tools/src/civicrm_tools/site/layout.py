"""Know where a site's releases and dumps are, which one is served, and which ones are kept."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure


@dataclass(frozen=True)
class Site:
    """One site as its configuration file describes it; commands run as `user` in the release's directory."""

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
    def load(cls, directory: Path, name: str) -> Site:
        try:
            return files.read_record(directory / f"{name}.json", cls)
        except files.Missing as error:
            known = ", ".join(sorted(p.stem for p in directory.glob("*.json"))) or "none"
            raise Failure(f"there is no site {name!r} with releases; sites: {known}") from error

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
