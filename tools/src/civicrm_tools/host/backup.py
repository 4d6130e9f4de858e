"""Back up this host's databases and directories to the backup host, and restore them.

A snapshot is a directory on the backup host: one compressed dump per database, one compressed tar per directory, and
manifest.json with the size and SHA-256 of each, signed by a key that the backup host does not have. The manifest is
sent last and removed first, so a directory without one is not a snapshot. The account on the backup host only needs to
speak rsync (rrsync).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, files, locks, mariadb, streams
from civicrm_tools.core.command import DONE, Failure, about
from civicrm_tools.host import snapshots, unpack
from civicrm_tools.host.snapshots import Config, Remote, check_files, describe, entries, megabytes

NAME = "civicrm-backup"
CONFIG = "/etc/civicrm-backup.json"

# Dumps


def dump_database(name: str, directory: Path) -> dict[str, Any]:
    file = directory / f"database-{name}.sql.gz"
    with about(f"database {name}"):
        charset, collation = mariadb.charset(name)
        made = mariadb.dump(name, file)
    return {"name": name, "file": file.name, **made._asdict(), "charset": charset, "collation": collation}


def pack_path(number: int, path: Path, directory: Path) -> dict[str, Any]:
    slug = re.sub(r"[^A-Za-z0-9]+", "-", str(path)).strip("-")
    index = directory.parent / "index"
    # --sparse: a site can make a file of terabytes that takes no space, and hold up the backup of all with it.
    argv = ["tar", "--create", "--file=-", "--directory=/", "--acls", "--xattrs", "--sparse"]
    argv += ["--verbose", f"--index-file={index}", "--", str(path.relative_to("/"))]
    # tar ends with 1 when a file changed while it was read: a mailbox does.
    file = directory / f"path-{number}-{slug}.tar.gz"
    with about(str(path)):
        made = streams.compress(argv, file, tolerated=(1,))
    if made.warning:
        command.tell(NAME, f"warning: {path}: {made.warning}")
    with index.open("rb") as lines:
        count = sum(1 for _ in lines)
    index.unlink()
    return {"path": str(path), "file": file.name, "size": made.size, "sha256": made.sha256, "entries": count}


# Commands


@contextmanager
def exclusive(config: Config) -> Iterator[Path]:
    """One run or restore at a time, in an empty scratch directory that does not outlive it."""
    with locks.locked(config.directory / "lock", wait=0, busy="another civicrm-backup is at work on this host"):
        scratch = config.directory / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def new_name(existing: Iterable[str]) -> str:
    """A name above every other: the newest snapshot is the one with the highest name."""
    newest = max(existing, default="")
    for _ in range(3):
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        if name > newest:
            return name
        time.sleep(1)
    raise Failure(f"snapshot {newest} on the backup host is from the future: check this host's clock")


def refuse_emptied(databases: list[dict[str, Any]], existing: dict[str, dict[str, Any] | None]) -> None:
    """Refuse to follow a full snapshot by an empty one: a host that was rebuilt but not yet restored would do that."""
    complete = {name: manifest for name, manifest in existing.items() if manifest is not None}
    if not complete:
        return
    newest = max(complete)
    before = {entry["name"]: entry["tables"] for entry in complete[newest]["databases"]}
    for entry in databases:
        if entry["tables"] == 0 and before.get(entry["name"], 0) > 0:
            raise Failure(
                f"database {entry['name']} is empty here but has {before[entry['name']]} tables in snapshot {newest}: "
                "restore first, or drop it from the newest snapshot on purpose with run --allow-empty"
            )


def run(config: Config, allow_empty: bool) -> None:
    started = time.time()
    with exclusive(config) as scratch:
        remote = Remote(config, scratch)
        # Asked first: an unreachable backup host is known before anything is dumped.
        existing = remote.snapshots()
        directory = scratch / new_name(existing)
        directory.mkdir(mode=0o700)
        databases = [dump_database(name, directory) for name in config.databases]
        if not allow_empty:
            refuse_emptied(databases, existing)
        present = [path for path in config.paths if path.is_dir()]
        absent = [str(path) for path in config.paths if path not in present]
        for path in absent:
            command.tell(NAME, f"warning: {path} does not exist, the snapshot is without it")
        paths = [pack_path(number, path, directory) for number, path in enumerate(present, start=1)]
        manifest = {
            "format": snapshots.FORMAT,
            "snapshot": directory.name,
            "host": socket.gethostname(),
            "databases": databases,
            "paths": paths,
            "absent": absent,
        }
        manifest["signature"] = snapshots.signature(manifest, remote.key)
        files.write_json(directory / snapshots.MANIFEST, manifest, mode=0o600, indent=2)
        remote.push(directory)
        size = sum(entry["size"] for entry in entries(manifest))
        finished = time.time()
        made = {
            "snapshot": directory.name,
            "time": int(finished),
            "bytes": size,
            "seconds": round(finished - started, 1),
        }
        files.write_json(config.stamp, made, mode=0o600, indent=2)
        print(f"snapshot {directory.name} complete: {megabytes(size)}, {describe(manifest)}")
        prune(config, remote, existing)


def prune(config: Config, remote: Remote, existing: dict[str, dict[str, Any] | None]) -> None:
    """Keep the newest complete snapshots, the one just made included; incomplete ones go."""
    complete = [name for name, manifest in existing.items() if manifest is not None]
    kept = complete[-(config.keep - 1) :] if config.keep > 1 else []
    for name in existing:
        if name not in kept:
            remote.delete(name)
            print(f"snapshot {name} removed{'' if name in complete else ': it was never complete'}")


def show(config: Config, as_json: bool) -> None:
    with exclusive(config) as scratch:
        found = Remote(config, scratch).snapshots()
        if as_json:
            print(json.dumps(found, indent=2))
        elif not found:
            command.tell(NAME, "there is no snapshot on the backup host")
        for name, manifest in {} if as_json else found.items():
            if manifest is None:
                print(f"{name}  INCOMPLETE")
            else:
                size = sum(entry["size"] for entry in entries(manifest))
                seal = "" if manifest["seal"] == snapshots.OURS else f"  {manifest['seal'].upper()}"
                print(f"{name}  {megabytes(size)}  {describe(manifest)}{seal}")


def verify(config: Config, snapshot: str) -> None:
    with exclusive(config) as scratch:
        remote = Remote(config, scratch)
        name, manifest = snapshots.choose(remote.snapshots(), snapshot, unauthenticated=True)
        local = remote.fetch(name, (e["file"] for e in entries(manifest)))
        check_files(local, entries(manifest))
        for entry in manifest["databases"]:
            with about(f"database {entry['name']}"):
                mariadb.check(local / entry["file"])
        if manifest["seal"] != snapshots.OURS:
            raise Failure(f"snapshot {name} is whole, but {snapshots.UNBELIEVED[manifest['seal']]}")
        print(f"snapshot {name} is whole and signed by this host: {describe(manifest)}")


def select(
    config: Config, manifest: dict[str, Any], databases: list[str], paths: list[str]
) -> tuple[list[Any], list[Any]]:
    """What to restore: everything that is configured here, or exactly what was asked for."""
    wanted_paths = [path.rstrip("/") for path in paths]
    chosen: list[list[Any]] = []
    for key, kind, wanted, allowed in (
        ("name", "databases", databases, config.databases),
        ("path", "paths", wanted_paths, [str(path) for path in config.paths]),
    ):
        known = [entry[key] for entry in manifest[kind]]
        for item in wanted:
            if item not in known:
                raise Failure(f"snapshot {manifest['snapshot']} has no {item}; it has {', '.join(known) or 'none'}")
        asked = [entry for entry in manifest[kind] if entry[key] in wanted or not (databases or paths)]
        foreign = [entry[key] for entry in asked if entry[key] not in allowed]
        said = f"{', '.join(foreign)}: not in backup_{kind}, so it may not be restored here"
        if foreign and wanted:
            raise Failure(f"{said}; nothing was changed")
        if foreign:
            command.tell(NAME, f"warning: {said}")
        chosen.append([entry for entry in asked if entry[key] in allowed])
    return chosen[0], chosen[1]


def last_made(config: Config) -> str:
    """Return the name of the last snapshot that this host made, "" on one that has made none."""
    try:
        return files.read_json(config.stamp, lambda raw: str(raw["snapshot"]))
    except files.Unreadable:
        return ""


def restore(config: Config, snapshot: str, databases: list[str], paths: list[str], unauthenticated: bool) -> None:
    with exclusive(config) as scratch:
        remote = Remote(config, scratch)
        name, manifest = snapshots.choose(remote.snapshots(), snapshot, unauthenticated)
        if snapshot == "latest" and (newer := last_made(config)) > name:
            command.tell(
                NAME, f"warning: the last snapshot that this host made is {newer}, and the backup host lacks it"
            )
        if manifest["seal"] != snapshots.OURS:
            command.tell(NAME, f"warning: snapshot {name} {snapshots.UNBELIEVED[manifest['seal']]}")
        dumps, archives = select(config, manifest, databases, paths)
        local = remote.fetch(name, (entry["file"] for entry in [*dumps, *archives]))
        with about(f"snapshot {name}", "nothing was changed"):
            check_files(local, [*dumps, *archives])
        # What one database or directory holds must not keep back the others: told at once, counted at the end.
        incomplete = [entry["name"] for entry in dumps if not load_database(entry, local, name)]
        incomplete += [entry["path"] for entry in archives if not unpack_path(entry, local, name)]
        if incomplete:
            raise Failure(f"{', '.join(incomplete)} did not come back whole: the lines above say why")


def load_database(entry: dict[str, Any], local: Path, snapshot: str) -> bool:
    """Replace a database; say what came of it, and return whether it came back."""
    try:
        mariadb.load(entry["name"], local / entry["file"], entry["charset"], entry["collation"])
    except mariadb.Incomplete as failure:
        command.tell(NAME, f"database {entry['name']} is incomplete now, restore it again: {failure}")
        return False
    except Failure as failure:
        command.tell(NAME, f"database {entry['name']} was not changed: {failure}")
        return False
    print(f"database {entry['name']} restored from {snapshot}", flush=True)
    return True


def unpack_path(entry: dict[str, Any], local: Path, snapshot: str) -> bool:
    """Unpack a directory; say what came of it, and return whether all of it came back."""
    try:
        report = unpack.unpack(local / entry["file"], Path(entry["path"]))
    except (Failure, OSError) as error:
        command.tell(NAME, f"{entry['path']}: {error}")
        return False
    for tally, what in ((report.altered, "not as it was"), (report.failed, "not restored")):
        for line in tally.lines:
            command.tell(NAME, f"{entry['path']}: {what}: {line}")
        if more := tally.count - len(tally.lines):
            command.tell(NAME, f"{entry['path']}: {what}: and {more:,} more")
    if report.failed.count:
        print(f"{entry['path']} restored from {snapshot} but for {report.failed.count:,} entries", flush=True)
    else:
        print(f"{entry['path']} restored from {snapshot}", flush=True)
    return report.failed.count == 0


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--config", type=Path, default=Path(CONFIG), help="default: %(default)s")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    now = commands.add_parser("run", help="make a snapshot now and remove old ones")
    now.add_argument("--allow-empty", action="store_true", help="even if a database is empty that was not before")
    listing = commands.add_parser("list", help="show the snapshots on the backup host")
    listing.add_argument("--json", action="store_true", help="as JSON: {snapshot: its manifest, null if incomplete}")
    check = commands.add_parser(
        "verify", help="fetch a snapshot, check its signature and checksums, and read its dumps"
    )
    back = commands.add_parser(
        "restore",
        help="replace databases and unpack directories from a snapshot",
        description="Without --database and --path everything in the snapshot is restored that is configured here. A "
        "database is replaced; files are unpacked over what is there, and lose setuid and setgid. Nothing is touched "
        "before all checksums agree. What cannot come back is named and the rest is restored; the status is 1 then.",
    )
    for one in (check, back):
        one.add_argument("--snapshot", default="latest", metavar="NAME", help="default: the newest complete one")
    back.add_argument(
        "--unauthenticated", action="store_true",
        help="also a snapshot that this host's key has not signed, as those of before: whoever has the backup host may "
        "have written what is in it",
    )  # fmt: skip
    back.add_argument("--database", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    back.add_argument("--path", action="append", default=[], metavar="DIRECTORY", help="only this one; repeatable")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    command.end_by_signals(NAME)
    os.umask(0o077)
    config = Config.load(options.config)
    if options.command == "run":
        run(config, options.allow_empty)
    elif options.command == "list":
        show(config, options.json)
    elif options.command == "verify":
        verify(config, options.snapshot)
    else:
        restore(config, options.snapshot, options.database, options.path, options.unauthenticated)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
