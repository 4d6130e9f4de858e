"""Keep room in Postfix's spool: while there is less than the reserve, no mailing begins.

CiviMail books any failure of sendmail as a permanent bounce of the recipient, and sendmail fails on a full disk. So the
reserve has to hold what a mailing job that runs already may still submit: the watch ends no job, it keeps the next from
starting. What is queued goes on leaving, which makes room. With a quarter more than the reserve free, mailings go on.

The state is the file spool-full.json beside those of `mailing`; the units of the mailing jobs look for it. A timer,
spool-reserve.timer, runs the command and writes the metrics postfix_spool_*.

Exit status: 0, 1 error, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from civicrm_tools.core import command, files, metrics
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.core.metrics import Family, exposition, gauge
from civicrm_tools.mail import mailing_state, postfix

NAME = "spool-reserve"
STATE = "spool-full"
BYTES, INODES = 2_000_000_000, 100_000
# Begins below the reserve and ends above this share of it, so that it does not flutter.
ENOUGH = 1.25


@dataclass(frozen=True)
class Room:
    """What is free for Postfix, who is not root, in one instance's spool. Without a limit of inodes they are None."""

    instance: str
    free_bytes: int
    free_inodes: int | None

    def has(self, need_bytes: float, need_inodes: float) -> bool:
        return self.free_bytes >= need_bytes and (self.free_inodes is None or self.free_inodes >= need_inodes)


def room(instance: str, spool: str) -> Room:
    found = os.statvfs(spool)
    return Room(instance, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def decide(rooms: Iterable[Room], need_bytes: int, need_inodes: int, full: bool) -> bool:
    """Whether the spool counts as full from now on."""
    factor = ENOUGH if full else 1
    return not all(one.has(need_bytes * factor, need_inodes * factor) for one in rooms)


def families(rooms: Sequence[Room], need_bytes: int, need_inodes: int, full: bool) -> list[Family]:
    """Return the free room, the reserve and whether it is touched as metrics."""
    labels = [{"postfix_instance": one.instance} for one in rooms]
    inodes = [(name, one.free_inodes) for name, one in zip(labels, rooms, strict=True) if one.free_inodes is not None]
    return [
        Family(
            "postfix_spool_free_bytes",
            "gauge",
            "Bytes free in the file system of a Postfix instance's queues.",
            zip(labels, (one.free_bytes for one in rooms), strict=True),
        ),
        Family("postfix_spool_free_inodes", "gauge", "Inodes free there; absent where there is no limit.", inodes),
        gauge("postfix_spool_reserve_bytes", "Free bytes below which no mailing begins.", need_bytes),
        gauge("postfix_spool_reserve_inodes", "Free inodes below which no mailing begins.", need_inodes),
        gauge("postfix_spool_full", "No mailing begins, as the reserve is touched.", full),
    ]


def as_json(rooms: Iterable[Room], options: argparse.Namespace, full: bool) -> str:
    """{"full", "reserve": {"bytes", "inodes"}, "instances": [{"instance", "free_bytes", "free_inodes"}]}."""
    reserve = {"bytes": options.bytes, "inodes": options.inodes}
    return json.dumps({"full": full, "reserve": reserve, "instances": [asdict(one) for one in rooms]}, indent=2)


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--bytes", type=int, default=BYTES, metavar="N", help="reserve in bytes (%(default)s)")
    made.add_argument("--inodes", type=int, default=INODES, metavar="N", help="reserve in inodes (%(default)s)")
    made.add_argument("--dry-run", action="store_true", help="print the metrics and change nothing")
    made.add_argument("--json", action="store_true", help="the same as JSON: {full, reserve, instances}")
    made.add_argument(
        "--output", type=Path, metavar="FILE", help="replace this file with the metrics, if its directory exists"
    )
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.bytes < 0 or options.inodes < 0:
        raise Failure("--bytes and --inodes must not be negative", command.USAGE)
    if not (options.dry_run or options.json):
        command.need_root()
    rooms = [room(where.name, where.spool) for where in postfix.instances()]
    before = mailing_state.path(STATE).exists()
    full = decide(rooms, options.bytes, options.inodes, before)
    found = families(rooms, options.bytes, options.inodes, full)
    if options.json:
        print(as_json(rooms, options, full))
        return DONE
    if options.dry_run:
        print(exposition(found), end="")
        return DONE
    if full and not before:
        mailing_state.DIRECTORY.mkdir(parents=True, exist_ok=True)
        files.write_json(mailing_state.path(STATE), {"since": time.time()}, mode=0o600)
        print(f"{NAME}: {lack(rooms, options)}: no mailing begins until there is more room")
    elif before and not full:
        mailing_state.remove(STATE)
        print(f"{NAME}: there is room again: mailings may begin")
    if options.output:
        metrics.write(options.output, found)
    return DONE


def lack(rooms: Iterable[Room], options: argparse.Namespace) -> str:
    short = [one for one in rooms if not one.has(options.bytes, options.inodes)]
    return "; ".join(f"{one.instance}: {one.free_bytes} bytes and {one.free_inodes} inodes free" for one in short)


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
