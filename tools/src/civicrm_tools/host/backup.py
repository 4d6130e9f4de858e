"""Back up this host's databases and directories to the backup host, and restore them.

A snapshot is a directory on the backup host: one compressed dump per database, one compressed tar per
directory, and manifest.json with the size and SHA-256 of each. The manifest is sent last and removed first, so a
directory without one is not a snapshot. The account on the backup host only needs to speak rsync (rrsync).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from civicrm_tools.core import files, locks, ssh
from civicrm_tools.core.command import Failure

CONFIG = "/etc/civicrm-backup.json"
MANIFEST = "manifest.json"
FORMAT = 1
CHUNK = 1 << 20
# Level 3 costs a third of the default's time and a tenth more space.
COMPRESSION = 3
SNAPSHOT_NAME = re.compile(r"\d{8}T\d{6}Z")
DATABASE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
CHARSET_NAME = re.compile(r"[A-Za-z0-9_]+")


class BackupError(Failure):
    """What failed, in one line for the operator."""


@dataclass(frozen=True)
class Target:
    host: str
    user: str
    port: int
    path: str


@dataclass(frozen=True)
class Config:
    databases: list[str]
    paths: list[Path]
    keep: int
    directory: Path
    target: Target
    key: Path
    known_hosts: Path

    @property
    def stamp(self) -> Path:
        return self.directory / "last-success.json"

    @classmethod
    def load(cls, path: Path) -> Config:
        config = files.read_json(
            path,
            lambda raw: cls(
                databases=list(raw["databases"]),
                paths=[Path(p) for p in raw["paths"]],
                keep=int(raw["keep"]),
                directory=Path(raw["directory"]),
                target=Target(**raw["target"]),
                key=Path(raw["key"]),
                known_hosts=Path(raw["known_hosts"]),
            ),
        )
        if config.keep < 1:
            raise BackupError(f"{path}: keep is {config.keep}; at least one snapshot must stay")
        for name in config.databases:
            if not DATABASE_NAME.fullmatch(name):
                raise BackupError(f"{path}: {name!r} is not the name of a database")
        for directory in config.paths:
            if not directory.is_absolute() or ".." in directory.parts or directory == Path("/"):
                raise BackupError(f"{path}: {str(directory)!r} is not an absolute path below /")
        return config


# Programs


def call(what: str, argv: list[str], stdin: str | None = None) -> str:
    """Run a program to its end; `what` opens the message if it fails."""
    try:
        done = subprocess.run(argv, input=stdin.encode() if stdin else b"", capture_output=True, check=False)
    except OSError as error:
        raise BackupError(f"{what}: cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise BackupError(f"{what}: {argv[0]} ended with {done.returncode}: {ssh.last_words(done.stderr)}")
    return done.stdout.decode()


class Digest:
    """A writer that knows the size and SHA-256 of what went through it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self.raw.write(data)

    def flush(self) -> None:
        self.raw.flush()


def collect(
    what: str, argv: list[str], target: Path, inspect: Callable[[bytes], None], tolerated: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Run a program, compress its output into `target`, and return the file's entry in the manifest."""
    with tempfile.TemporaryFile() as stderr, target.open("xb") as raw:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        except OSError as error:
            raise BackupError(f"{what}: cannot run {argv[0]}: {error.strerror}") from error
        assert process.stdout is not None
        digest = Digest(raw)
        try:
            with gzip.GzipFile(filename="", fileobj=digest, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
                while chunk := process.stdout.read(CHUNK):
                    inspect(chunk)
                    packed.write(chunk)
            os.fsync(raw.fileno())
        except OSError as error:
            raise BackupError(f"{what}: cannot write {target}: {error.strerror}") from error
        finally:
            if process.poll() is None and sys.exc_info()[0]:
                process.kill()
            process.stdout.close()
            code = process.wait()
        stderr.seek(0)
        message = ssh.last_words(stderr.read())
    if code in tolerated:
        print(f"civicrm-backup: warning: {what}: {message}", file=sys.stderr)
    elif code != 0:
        raise BackupError(f"{what}: {argv[0]} ended with {code}: {message}")
    return {"file": target.name, "size": digest.size, "sha256": digest.sha256.hexdigest()}


def unpack(what: str, source: Path, argv: list[str]) -> None:
    """Feed a compressed file to a program."""
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)
        except OSError as error:
            raise BackupError(f"{what}: cannot run {argv[0]}: {error.strerror}") from error
        assert process.stdin is not None
        try:
            with gzip.open(source, "rb") as packed, process.stdin as pipe:
                shutil.copyfileobj(packed, pipe, CHUNK)
        except BrokenPipeError:
            pass  # The program has ended early: its own message tells why.
        finally:
            code = process.wait()
        stderr.seek(0)
        if code != 0:
            raise BackupError(f"{what}: {argv[0]} ended with {code}: {ssh.last_words(stderr.read())}")


# The backup host


class Remote:
    """Snapshots on the backup host, reached by nothing but rsync."""

    def __init__(self, config: Config, scratch: Path) -> None:
        target = config.target
        self.scratch = scratch
        self.host = target.host
        self.root = ssh.location(target.user, target.host, target.path)
        # The one pinned key stands for the backup host, by whatever address it is reached.
        self.shell = ssh.remote_shell(config.key, target.port, config.known_hosts, "civicrm-backup-target")

    def rsync(self, what: str, *arguments: str) -> None:
        common = ["--recursive", "--times", "--perms", "--timeout=600", f"--rsh={self.shell}"]
        call(f"{what} ({self.host})", ["rsync", *common, *arguments])

    def snapshots(self) -> dict[str, dict[str, Any] | None]:
        """Every snapshot directory, oldest first, with its manifest; None for one that is not complete."""
        local = Path(tempfile.mkdtemp(dir=self.scratch))
        filters = ["--include=/*/", f"--include=/*/{MANIFEST}", "--exclude=*"]
        self.rsync("listing snapshots", *filters, f"{self.root}/", f"{local}/")
        found: dict[str, dict[str, Any] | None] = {}
        for directory in sorted(d for d in local.iterdir() if SNAPSHOT_NAME.fullmatch(d.name)):
            found[directory.name] = read_manifest(directory)
        return found

    def push(self, snapshot: Path) -> None:
        remote = f"{self.root}/{snapshot.name}/"
        self.rsync("sending the snapshot", "--fsync", f"--exclude=/{MANIFEST}", f"{snapshot}/", remote)
        self.rsync("sending the manifest", "--fsync", f"{snapshot}/", remote)

    def fetch(self, name: str, files: Iterable[str]) -> Path:
        local = Path(tempfile.mkdtemp(dir=self.scratch))
        filters = [f"--include=/{file}" for file in files] + ["--exclude=*"]
        self.rsync(f"fetching snapshot {name}", *filters, f"{self.root}/{name}/", f"{local}/")
        return local

    def delete(self, name: str) -> None:
        """Remove a snapshot, its manifest first: rsync deletes what an empty source lacks and no filter protects."""
        source = Path(tempfile.mkdtemp(dir=self.scratch))
        (source / name).mkdir()
        manifest = [f"--include=/{name}/", f"--include=/{name}/{MANIFEST}", "--exclude=*"]
        self.rsync(f"removing snapshot {name}", "--delete", *manifest, f"{source}/", f"{self.root}/")
        (source / name).rmdir()
        everything = [f"--include=/{name}/***", "--exclude=*"]
        self.rsync(f"removing snapshot {name}", "--delete", *everything, f"{source}/", f"{self.root}/")


# Manifests


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest in a directory; None unless it is whole and speaks of this very snapshot."""

    def checked(raw: dict[str, Any]) -> dict[str, Any] | None:
        names = all(entry["file"] == Path(entry["file"]).name for entry in entries(raw))
        whole = all(len(entry["sha256"]) == 64 and entry["size"] >= 0 for entry in entries(raw))
        return raw if names and whole and (raw["snapshot"], raw["format"]) == (directory.name, FORMAT) else None

    try:
        return files.read_json(directory / MANIFEST, checked)
    except files.Unreadable:
        return None


def entries(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [*manifest["databases"], *manifest["paths"]]


def check_files(directory: Path, wanted: list[dict[str, Any]]) -> None:
    """Compare every file with its entry in the manifest."""
    for entry in wanted:
        path = directory / entry["file"]
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BackupError(f"{entry['file']} is missing from the snapshot") from error
        if (size, digest) != (entry["size"], entry["sha256"]):
            raise BackupError(f"{entry['file']} differs from the manifest's checksum")


def choose(snapshots: dict[str, dict[str, Any] | None], name: str) -> tuple[str, dict[str, Any]]:
    complete = {k: v for k, v in snapshots.items() if v is not None}
    if not complete:
        raise BackupError("there is no complete snapshot on the backup host")
    if name == "latest":
        name = max(complete)
    if name not in complete:
        raise BackupError(f"there is no complete snapshot {name!r}; civicrm-backup list shows those there are")
    return name, complete[name]


def describe(manifest: dict[str, Any]) -> str:
    parts = [f"{d['name']} ({d['tables']} tables)" for d in manifest["databases"]]
    parts += [f"{p['path']} ({p['entries']} entries)" for p in manifest["paths"]]
    return ", ".join(parts) or "nothing"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# Dumps


class DumpInspector:
    """Counts the tables of a dump as it passes and notices whether it came to its end."""

    TABLE = b"\nCREATE TABLE "

    def __init__(self) -> None:
        self.tables = 0
        self.tail = b""

    def __call__(self, chunk: bytes) -> None:
        data = self.tail + chunk
        self.tables += data.count(self.TABLE) - self.tail.count(self.TABLE)
        self.tail = data[-256:]

    @property
    def complete(self) -> bool:
        return b"\n-- Dump completed" in self.tail


def dump_database(name: str, directory: Path) -> dict[str, Any]:
    what = f"database {name}"
    charset, collation = call(
        what,
        ["mariadb", "--batch", "--skip-column-names", name],
        "SELECT @@character_set_database, @@collation_database",
    ).split()
    inspector = DumpInspector()
    options = ["--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob"]
    argv = ["mariadb-dump", *options, "--default-character-set=utf8mb4", name]
    entry = collect(what, argv, directory / f"database-{name}.sql.gz", inspector)
    if not inspector.complete:
        raise BackupError(f"{what}: mariadb-dump ended before its last line")
    return {"name": name, **entry, "tables": inspector.tables, "charset": charset, "collation": collation}


def pack_path(number: int, path: Path, directory: Path) -> dict[str, Any]:
    slug = re.sub(r"[^A-Za-z0-9]+", "-", str(path)).strip("-")
    index = directory.parent / "index"
    argv = ["tar", "--create", "--file=-", "--directory=/", "--acls", "--xattrs"]
    argv += ["--verbose", f"--index-file={index}", "--", str(path.relative_to("/"))]
    # tar ends with 1 when a file changed while it was read: a mailbox does.
    entry = collect(str(path), argv, directory / f"path-{number}-{slug}.tar.gz", lambda _: None, tolerated=(1,))
    with index.open("rb") as lines:
        count = sum(1 for _ in lines)
    index.unlink()
    return {"path": str(path), **entry, "entries": count}


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
    raise BackupError(f"snapshot {newest} on the backup host is from the future: check this host's clock")


def refuse_emptied(databases: list[dict[str, Any]], snapshots: dict[str, dict[str, Any] | None]) -> None:
    """Refuse to follow a full snapshot by an empty one: a host that was rebuilt but not yet restored would do that."""
    complete = {name: manifest for name, manifest in snapshots.items() if manifest is not None}
    if not complete:
        return
    newest = max(complete)
    before = {entry["name"]: entry["tables"] for entry in complete[newest]["databases"]}
    for entry in databases:
        if entry["tables"] == 0 and before.get(entry["name"], 0) > 0:
            raise BackupError(
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
            print(f"civicrm-backup: warning: {path} does not exist, the snapshot is without it", file=sys.stderr)
        paths = [pack_path(number, path, directory) for number, path in enumerate(present, start=1)]
        manifest = {
            "format": FORMAT,
            "snapshot": directory.name,
            "host": socket.gethostname(),
            "databases": databases,
            "paths": paths,
            "absent": absent,
        }
        files.write_json(directory / MANIFEST, manifest, mode=0o600, indent=2)
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


def show(config: Config) -> None:
    with exclusive(config) as scratch:
        for name, manifest in Remote(config, scratch).snapshots().items():
            if manifest is None:
                print(f"{name}  INCOMPLETE")
            else:
                size = sum(entry["size"] for entry in entries(manifest))
                print(f"{name}  {megabytes(size)}  {describe(manifest)}")


def verify(config: Config, snapshot: str) -> None:
    with exclusive(config) as scratch:
        remote = Remote(config, scratch)
        name, manifest = choose(remote.snapshots(), snapshot)
        check_files(remote.fetch(name, (e["file"] for e in entries(manifest))), entries(manifest))
        print(f"snapshot {name} is whole: {describe(manifest)}")


def select(manifest: dict[str, Any], databases: list[str], paths: list[str]) -> tuple[list[Any], list[Any]]:
    """What to restore: everything, or exactly what was asked for."""
    if not databases and not paths:
        return manifest["databases"], manifest["paths"]
    paths = [path.rstrip("/") for path in paths]
    for wanted, key in ((databases, "name"), (paths, "path")):
        known = [entry[key] for entry in entries(manifest) if key in entry]
        for item in wanted:
            if item not in known:
                raise BackupError(f"snapshot {manifest['snapshot']} has no {item}; it has {', '.join(known) or 'none'}")
    return (
        [entry for entry in manifest["databases"] if entry["name"] in databases],
        [entry for entry in manifest["paths"] if entry["path"] in paths],
    )


def load_database(entry: dict[str, Any], source: Path) -> None:
    name = entry["name"]
    for value, pattern in ((name, DATABASE_NAME), (entry["charset"], CHARSET_NAME), (entry["collation"], CHARSET_NAME)):
        if not pattern.fullmatch(value):
            raise BackupError(f"the manifest names a database, character set or collation {value!r}")
    # Emptied first: a table made after the snapshot must not stay. Grants do not go with a database.
    statement = (
        f"DROP DATABASE IF EXISTS `{name}`; "
        f"CREATE DATABASE `{name}` CHARACTER SET {entry['charset']} COLLATE {entry['collation']};"
    )
    try:
        call("emptying it", ["mariadb"], statement)
        unpack("loading it", source, ["mariadb", "--default-character-set=utf8mb4", name])
    except BackupError as error:
        raise BackupError(f"database {name} is incomplete now, restore it again: {error}") from error


def restore(config: Config, snapshot: str, databases: list[str], paths: list[str]) -> None:
    with exclusive(config) as scratch:
        remote = Remote(config, scratch)
        name, manifest = choose(remote.snapshots(), snapshot)
        dumps, archives = select(manifest, databases, paths)
        local = remote.fetch(name, (entry["file"] for entry in [*dumps, *archives]))
        try:
            check_files(local, [*dumps, *archives])
        except BackupError as error:
            raise BackupError(f"snapshot {name}: {error}; nothing was changed") from error
        for entry in dumps:
            load_database(entry, local / entry["file"])
            print(f"database {entry['name']} restored from {name}")
        for entry in archives:
            # Owners come back by name: uids may differ on a rebuilt host.
            options = ["--directory=/", "--same-owner", "--preserve-permissions", "--acls", "--xattrs"]
            unpack(entry["path"], local / entry["file"], ["tar", "--extract", "--file=-", *options])
            print(f"{entry['path']} restored from {name}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="civicrm-backup", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path(CONFIG), help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    now = commands.add_parser("run", help="make a snapshot now and remove old ones")
    now.add_argument("--allow-empty", action="store_true", help="even if a database is empty that was not before")
    commands.add_parser("list", help="show the snapshots on the backup host")
    check = commands.add_parser("verify", help="fetch a snapshot and compare it with its checksums")
    back = commands.add_parser(
        "restore",
        help="replace databases and unpack directories from a snapshot",
        description="Without --database and --path everything in the snapshot is restored. A database is replaced; "
        "files are unpacked over what is there. Nothing is touched before all checksums agree.",
    )
    for command in (check, back):
        command.add_argument("--snapshot", default="latest", metavar="NAME", help="default: the newest complete one")
    back.add_argument("--database", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    back.add_argument("--path", action="append", default=[], metavar="DIRECTORY", help="only this one; repeatable")
    return parser.parse_args(argv)


def interrupted(number: int, _frame: object) -> None:
    raise BackupError(f"stopped by {signal.Signals(number).name}")


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    os.umask(0o077)
    try:
        config = Config.load(options.config)
        if options.command == "run":
            run(config, options.allow_empty)
        elif options.command == "list":
            show(config)
        elif options.command == "verify":
            verify(config, options.snapshot)
        else:
            restore(config, options.snapshot, options.database, options.path)
    except (Failure, OSError) as error:
        print(f"civicrm-backup: {error}", file=sys.stderr)
        return 1
    return 0
