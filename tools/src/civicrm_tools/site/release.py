"""Deploy releases of a site, go back to the one before, and keep what that takes.

Below the site's directory lie releases/<id> (root's), shared/ (the site's own: what outlives a release), dumps/ (one
before each upgrade), `current` (a link to the release that is served) and `release-path` (the same as text, for Apache:
PHP then gets each request's real path, so that no cache mixes two releases). /etc/civicrm-release/<site>.json says how.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, locks
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.site.application import dump, empty_cache, jobs_paused, restore, run, schema
from civicrm_tools.site.archives import check_sum, unpack
from civicrm_tools.site.layout import Site, State, current, now, old_dumps, prune, served, switch

NAME = "civicrm-release"
CONFIG = Path("/etc/civicrm-release")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def deploy(site: Site, archive: Path, release: str, sha256: str, again: bool) -> dict[str, Any]:
    """Serve the release; {outcome: deployed, unchanged or held, release, from}."""
    if not ID.fullmatch(release):
        raise Failure(f"release {release!r}: use letters, digits, . _ and -")
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
            except Failure as error:
                raise Failure(
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
        raise Failure("there is no release before this one to go back to")
    found, wanted = schema(site, here), arrival["schema_before"]
    saved = None
    if found != wanted:
        if not restore_dump:
            raise Failure(
                f"the database has schema {found}, release {target} wants {wanted}: refused; restore_dump=true brings "
                f"back the dump of {arrival['at']}, and what was written since is lost"
            )
        if not arrival["dump"] or not (site.dumps / arrival["dump"]).is_file():
            raise Failure(
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


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--json", action="store_true", help="print the result as JSON, one line for each site")
    made.add_argument("--config", type=Path, default=CONFIG, help="directory of configurations (%(default)s)")
    commands = made.add_subparsers(dest="command", required=True)
    for name, text in (
        ("list", "show releases, dumps and what was deployed when, of all sites or of those named"),
        ("deploy", "unpack an archive, upgrade the database and serve the release"),
        ("rollback", "serve the release before again"),
        ("prune", "remove releases and dumps beyond those that are kept"),
    ):
        one = commands.add_parser(name, help=text)
        if name == "list":
            one.add_argument("sites", nargs="*", metavar="site")
        else:
            one.add_argument("site")
        if name == "deploy":
            one.add_argument("--archive", type=Path, required=True, help="tar file, compressed or not")
            one.add_argument("--sha256", required=True, help="its SHA-256")
            one.add_argument("--id", required=True, help="name of the release")
            one.add_argument("--again", action="store_true", help="also a release that was rolled back")
        if name == "rollback":
            one.add_argument("--restore-dump", action="store_true", help="also bring back the database of then")
    return made


def work(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """Do what changes a site."""
    if options.command == "deploy":
        return deploy(site, options.archive, options.id, options.sha256, options.again)
    if options.command == "rollback":
        return rollback(site, options.restore_dump)
    return {"outcome": "pruned", "removed": prune(site, State.load(site))}


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    command.end_by_signals(NAME)
    if options.command == "list":
        names = options.sites or sorted(p.stem for p in options.config.glob("*.json"))
        results = [listing(Site.load(options.config, name)) for name in names]
    else:
        site = Site.load(options.config, options.site)
        busy = f"another {NAME} works on {site.name}: wait for it"
        with locks.locked(site.base / ".lock", wait=0, busy=busy):
            results = [work(site, options)]
    for result in results:
        if len(results) > 1 and not options.json:
            print(f"{result['site']}:")
        print(json.dumps(result) if options.json else show(result))
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
