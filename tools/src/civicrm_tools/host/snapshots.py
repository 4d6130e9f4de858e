"""Know snapshots: where they go, what is in one, and how rsync lists, sends, fetches and removes them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from civicrm_tools.core import files, mariadb, ssh
from civicrm_tools.core.command import Failure

MANIFEST = "manifest.json"
FORMAT = 1
# What a manifest's signature says (its `seal`): the key of this host made it; there is none, as before snapshots were
# signed; another key made it, or somebody changed the manifest.
OURS, UNSIGNED, FOREIGN = "ours", "unsigned", "foreign"
UNBELIEVED = {
    UNSIGNED: "is not signed: it was made before snapshots were, or not by this host",
    FOREIGN: "has a signature of another key: this host's was exchanged since, or somebody changed the snapshot",
}
SNAPSHOT_NAME = re.compile(r"\d{8}T\d{6}Z")


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
    signing_key: Path

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
                signing_key=Path(raw["signing_key"]),
            ),
        )
        if config.keep < 1:
            raise Failure(f"{path}: keep is {config.keep}; at least one snapshot must stay")
        for name in config.databases:
            if not mariadb.DATABASE_NAME.fullmatch(name):
                raise Failure(f"{path}: {name!r} is not the name of a database")
        for directory in config.paths:
            if not directory.is_absolute() or ".." in directory.parts or directory == Path("/"):
                raise Failure(f"{path}: {str(directory)!r} is not an absolute path below /")
        return config


class Remote:
    """Snapshots on the backup host, reached by nothing but rsync."""

    def __init__(self, config: Config, scratch: Path) -> None:
        target = config.target
        self.key = read_key(config.signing_key)
        self.scratch = scratch
        self.host = target.host
        self.root = ssh.location(target.user, target.host, target.path)
        # The one pinned key stands for the backup host, by whatever address it is reached.
        self.shell = ssh.remote_shell(config.key, target.port, config.known_hosts, "civicrm-backup-target")

    def rsync(self, what: str, *arguments: str) -> None:
        common = ["--recursive", "--times", "--perms", "--timeout=600"]
        ssh.rsync(what, self.host, self.shell, *common, *arguments)

    def snapshots(self) -> dict[str, dict[str, Any] | None]:
        """Every snapshot directory, oldest first, with its manifest; None for one that is not complete."""
        local = Path(tempfile.mkdtemp(dir=self.scratch))
        filters = ["--include=/*/", f"--include=/*/{MANIFEST}", "--exclude=*", "--max-size=16M"]
        self.rsync("listing snapshots", *filters, f"{self.root}/", f"{local}/")
        found: dict[str, dict[str, Any] | None] = {}
        for directory in sorted(d for d in local.iterdir() if SNAPSHOT_NAME.fullmatch(d.name)):
            found[directory.name] = read_manifest(directory, self.key)
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


def read_key(path: Path) -> bytes:
    """Return the key that signs manifests. Raises Failure."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: there is no key to sign snapshots with: run the playbook") from error
    if len(key) < 32:
        raise Failure(f"{path}: the key to sign snapshots with is too short")
    return key


def signature(manifest: dict[str, Any], key: bytes) -> str:
    """Return the HMAC-SHA256 (RFC 2104) of all that a manifest says, and so of every file that it names."""
    said = {name: value for name, value in manifest.items() if name not in ("signature", "seal")}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, b"civicrm-backup manifest\n" + text.encode(), hashlib.sha256).hexdigest()


def read_manifest(directory: Path, key: bytes) -> dict[str, Any] | None:
    """The manifest in a directory, with its `seal`; None unless it is whole and speaks of this very snapshot."""

    def checked(raw: dict[str, Any]) -> dict[str, Any] | None:
        names = all(entry["file"] == Path(entry["file"]).name for entry in entries(raw))
        whole = all(len(entry["sha256"]) == 64 and entry["size"] >= 0 for entry in entries(raw))
        # Shown and compared before its signature is asked for.
        whole &= all(mariadb.DATABASE_NAME.fullmatch(d["name"]) and d["tables"] >= 0 for d in raw["databases"])
        whole &= all(p["path"].startswith("/") and p["path"].isprintable() and p["entries"] >= 0 for p in raw["paths"])
        if not (names and whole and (raw["snapshot"], raw["format"]) == (directory.name, FORMAT)):
            return None
        if "signature" not in raw:
            return raw | {"seal": UNSIGNED}
        true = hmac.compare_digest(str(raw["signature"]).encode(), signature(raw, key).encode())
        return raw | {"seal": OURS if true else FOREIGN}

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
            raise Failure(f"{entry['file']} is missing from the snapshot") from error
        if (size, digest) != (entry["size"], entry["sha256"]):
            raise Failure(f"{entry['file']} differs from the manifest's checksum")


def choose(
    snapshots: dict[str, dict[str, Any] | None], name: str, unauthenticated: bool = False
) -> tuple[str, dict[str, Any]]:
    """Return a complete snapshot by its name, or the newest; one that this host's key signed unless unauthenticated."""
    complete = {k: v for k, v in snapshots.items() if v is not None}
    if not complete:
        raise Failure("there is no complete snapshot on the backup host")
    if name == "latest":
        name = max((k for k, v in complete.items() if unauthenticated or v["seal"] == OURS), default=max(complete))
    if name not in complete:
        raise Failure(f"there is no complete snapshot {name!r}; civicrm-backup list shows those there are")
    if complete[name]["seal"] != OURS and not unauthenticated:
        raise Failure(
            f"snapshot {name} {UNBELIEVED[complete[name]['seal']]}. Nothing was changed. Whoever had the backup host "
            "may have written what it holds: --unauthenticated restores it all the same"
        )
    return name, complete[name]


def describe(manifest: dict[str, Any]) -> str:
    parts = [f"{d['name']} ({d['tables']} tables)" for d in manifest["databases"]]
    parts += [f"{p['path']} ({p['entries']} entries)" for p in manifest["paths"]]
    return ", ".join(parts) or "nothing"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
