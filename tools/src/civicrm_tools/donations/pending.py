"""List donations that wait for their payment, or forget them: donation-pending list|drop SITE. Needs root.

A donation waits until the payment provider has told of its payment. One that is marked "odd" waits for a person: its
payment proves another donation, or is of another amount. Names and e-mail addresses are in the JSON alone.
"""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, files
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.donations import form
from civicrm_tools.donations.intake_metrics import STATE
from civicrm_tools.donations.switch import DIRECTORY

NAME = "donation-pending"
SIZE_MAX = 65536


@dataclass(frozen=True)
class Waiting:
    """A donation that waits: <hash of its reference>-<microseconds since 1970>-<id>.json, or .odd."""

    path: Path
    id: str
    since: int
    is_odd: bool

    def job(self) -> dict[str, Any]:
        """What the donation API wrote; empty where it is gone or damaged."""
        try:
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                job = json.loads(file.read(SIZE_MAX))
        except (OSError, ValueError, RecursionError):
            return {}
        return job if isinstance(job, dict) else {}


def become(site: str) -> None:
    """Go on as the site's user: nothing in its directory is looked at, or removed, with root's rights."""
    user = pwd.getpwnam(site)
    if os.geteuid() == user.pw_uid:
        return
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def waiting(directory: Path) -> list[Waiting]:
    """All that wait, the oldest first."""
    found = []
    for path in directory.glob("[0-9a-f][0-9a-f]/*"):
        _, micros, identity = [*path.stem.split("-", 2), "", ""][:3]
        if path.suffix in (".json", ".odd") and micros.isdigit():
            found.append(Waiting(path, identity, int(micros) // 1000000, path.suffix == ".odd"))
    return sorted(found, key=lambda one: one.since)


def chosen(entries: list[Waiting], wanted: str, older_than: float, now: float) -> list[Waiting]:
    return [one for one in entries if wanted in ("all", one.id) and now - one.since >= older_than * 3600]


def show(entries: list[Waiting], now: float, as_json: bool) -> None:
    if as_json:
        shown = [{"id": one.id, "since": one.since, "odd": one.is_odd, "job": one.job()} for one in entries]
        print("\n".join(map(form.visible, json.dumps(shown, indent=2, ensure_ascii=False).split("\n"))))
        return
    for one in entries:
        job = one.job().get("donation", {})
        words = [job.get(name, "?") for name in ("amount", "currency", "payment_reference")]
        hours = f"{(now - one.since) / 3600:.1f} h"
        print(form.visible(f"{one.id:32}  {hours:>9}  {' '.join(map(str, words))}{'  odd' if one.is_odd else ''}"))


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("list", "id, age, amount and reference, the oldest first"), ("drop", "forget for good")):
        one = commands.add_parser(name, help=what)
        one.add_argument("site")
        if name == "drop":
            one.add_argument("id", help='of the donation, or "all"')
        one.add_argument("--older-than", type=float, default=0, metavar="HOURS", help="only those that wait so long")
        one.add_argument("--json", action="store_true", help="as JSON, with all that the donors wrote")
    options = parser.parse_args(argv)
    path = DIRECTORY / f"{options.site}.json"
    if "/" in options.site or not path.exists():
        raise Failure(f"no site {options.site!r}: {path} does not exist")
    proof = files.read_json(path, lambda raw: str(raw["proof"]))
    become(options.site)
    now = time.time()
    found = chosen(waiting(STATE / options.site / "pending"), getattr(options, "id", "all"), options.older_than, now)
    if options.command == "drop":
        for entry in found:
            entry.path.unlink(missing_ok=True)
        print(json.dumps({"dropped": len(found)}) if options.json else f"{len(found)} dropped")
        return DONE if found else command.NO
    if proof == "none" and not options.json:
        print(f"{options.site}: proof none: whatever is posted is taken for paid")
    show(found, now, options.json)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 for an unknown site or missing rights, 3 where there was nothing to drop."""
    return command.run(NAME, body, argv)
