"""Replace files by rename under a journal, and remember what the changed ones still ask for.

Whoever dies while a set is put in place leaves the old set, the new one, or a journal that `complete` finishes: the
next run of any set calls it, and so does file-sets.service at boot, before the daemons start. That unit runs this file.

What a changed file asks for (a restart, a reload, a command, a handler) is written with the journal and stays under
STATE/pending until somebody has done it.

Paths are opened below directory descriptors and never through a link that a lesser user planted.

Standard library of Python 3.11 to 3.13 only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import glob
import grp
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATE = "/var/lib/file-sets"
SCRATCH = "/run"  # candidates, which may be secret, in memory
UNITS = "/etc/systemd/system/"
# Units that systemd reads anew only when they are started again, and that lose nothing by it.
RESTARTED_BY_THEMSELVES = (".timer", ".socket", ".path")
UNIT_NAME = re.compile(r"[^/]+\.(?:service|timer|socket|path|mount|target)$")
# Debian's programs pass over files that dpkg has not put in place yet: logrotate, cron, apt, run-parts, Apache.
STAGED_SUFFIX = ".dpkg-new"
ACL = "system.posix_acl_access"
COMMAND_SECONDS = 300
LOCK_SECONDS = 60
MESSAGE_CHARACTERS = 600


class Refused(Exception):
    """The set cannot be put in place. One line: what is wrong, and what to do. Nothing was changed."""


@dataclass
class Target:
    """What one entry wants at one path. `content` is bytes of a file; `compiled` marks a product of another entry."""

    path: str
    kind: str
    uid: int | None = 0
    gid: int | None = 0
    mode: int | None = None
    content: bytes | None = None
    link: str = ""
    search: list[int] = field(default_factory=list)  # users besides who may pass a directory
    keep: bool = False
    hidden: bool = False
    restart: list[str] = field(default_factory=list)
    reload: list[str] = field(default_factory=list)
    notify: list[str] = field(default_factory=list)
    former: bool = False  # found below an owned pattern, and named no more


@dataclass
class Change:
    """One step from what is there to what is wanted."""

    action: str  # make, replace, link, attributes, remove
    target: Target
    before: bytes | None = None
    before_attributes: str = ""


@dataclass
class Outcome:
    """What a set did, in the words of an Ansible result."""

    paths: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    notify: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)


# --- paths ---------------------------------------------------------------------------------------------------------


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def trusted(status: os.stat_result) -> bool:
    """Return whether root alone can change the entries of this directory (or each user just its own, as in /tmp)."""
    writable = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    return status.st_uid == 0 and not writable


def _step(descriptor: int, name: str, path: str, depth: int) -> int:
    """Open one component below a directory; a link is followed only where nobody but root can have put it."""
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        holder = os.fstat(descriptor)
        if status.st_uid != 0 or not trusted(holder):
            raise Refused(f"{path}: '{name}' is a symbolic link in a directory of {name_of(holder.st_uid)}: remove it")
        if depth > 20:
            raise Refused(f"{path}: too many symbolic links")
        link = os.readlink(name, dir_fd=descriptor)
        base = os.readlink(f"/proc/self/fd/{descriptor}")
        return open_directory(os.path.normpath(os.path.join(base, link)), depth + 1)
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{path}: '{name}' is not a directory: move it away")
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)


def open_directory(path: str, depth: int = 0) -> int:
    """Return a descriptor of a directory. Raises FileNotFoundError, or Refused for a link of a lesser user."""
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in [part for part in path.split("/") if part]:
        try:
            lower = _step(descriptor, name, path, depth)
        finally:
            os.close(descriptor)
        descriptor = lower
    return descriptor


@contextlib.contextmanager
def parent(path: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that holds `path`, and the last part of its name."""
    descriptor = open_directory(os.path.dirname(path))
    try:
        yield descriptor, os.path.basename(path)
    finally:
        os.close(descriptor)


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a path itself, or None where there is nothing."""
    try:
        with parent(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def read(path: str) -> bytes:
    """Return the content of a regular file, never through a link and never waiting for a FIFO."""
    with parent(path) as (directory, name):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as source:
        return source.read()


def acl_of(mode: int, users: list[int]) -> bytes:
    """Return the POSIX ACL, as the kernel keeps it, of a directory that these users may pass besides its mode.

    acl(5): an entry has a tag, rights and an id. The group's rights in a mode are the mask, so the mode stays.
    """
    owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = [(0x01, owner, -1), *((0x02, 1, uid) for uid in sorted(users)), (0x04, group, -1), (0x10, group | 1, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in [*entries, (0x20, others, -1)])


def same_acl(path: str, mode: int, users: list[int]) -> bool:
    """Return whether a directory has exactly this ACL; one that does not exist yet has not.

    Raises Refused where the file system keeps none, before anything is changed.
    """
    try:
        descriptor = open_directory(path)
    except FileNotFoundError:
        same_acl(os.path.dirname(path), mode, users)  # asked for the file system's sake
        return False
    try:
        return os.getxattr(descriptor, ACL) == acl_of(mode, users)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise Refused(
            f"{path}: its file system keeps no ACL ({error.strerror}), by which {', '.join(map(name_of, users))} shall "
            "pass a directory: mount it with the option acl, or take ext4, XFS or Btrfs"
        ) from error
    finally:
        os.close(descriptor)


def _set_attributes(descriptor: int, uid: int, gid: int, mode: int, search: list[int] | None = None) -> None:
    status = os.fstat(descriptor)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & mode)  # never wider than wanted, not even for a moment
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, mode)
    if search:
        os.setxattr(descriptor, ACL, acl_of(mode, search))


def one_line(text: str, scratch: str) -> str:
    lines = [line.strip() for line in text.replace(scratch, "").splitlines() if line.strip()]
    return "; ".join(lines)[:MESSAGE_CHARACTERS]


def run(command: str | list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a status other than 0 is left to the caller, a program that is missing raises."""
    argv = shlex.split(command) if isinstance(command, str) else command
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **options.pop("environment", {})}
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
        env=environment,
        cwd="/",  # a command that becomes another user has no business in root's home
        check=False,
        **options,
    )


# --- journal, manifest, marks --------------------------------------------------------------------------------------


def state_path(kind: str, name: str = "") -> str:
    return os.path.join(STATE, kind, f"{name}.json" if name else "")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_state(path: str, value: Any) -> None:
    """Replace one of our own state files: 0600, synced, by rename."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(4)}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
        json.dump(value, sink)
        sink.flush()
        os.fsync(sink.fileno())
    os.rename(temporary, path)
    _sync_directory(os.path.dirname(path))


def read_state(path: str) -> Any:
    """Return one of our state files, or None where there is none. Raises Refused if it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise Refused(f"{path} is damaged: remove it and run the playbook again") from None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def empty_marks() -> dict[str, Any]:
    return {"boot": boot_id(), "units": {}, "commands": [], "notify": [], "daemon_reload": False}


def all_marks() -> dict[str, dict[str, Any]]:
    """Return what changed files still ask for, by set. A boot has done all of it but the commands."""
    marks = {}
    for path in sorted(glob.glob(state_path("pending") + "*.json")):
        one = read_state(path)
        if one["boot"] != boot_id():
            one |= {"boot": boot_id(), "units": {}, "daemon_reload": False}
        marks[os.path.basename(path).removesuffix(".json")] = one
    return marks


def save_marks(name: str, marks: dict[str, Any]) -> None:
    """Keep a set's marks, or forget them when none is left."""
    path = state_path("pending", name)
    if any(marks[kind] for kind in ("units", "commands", "notify", "daemon_reload")):
        write_state(path, marks)
    elif os.path.exists(path):
        os.unlink(path)


def settle(kind: str, what: str | None = None) -> None:
    """Strike one mark from every set that asked for it: it has been done."""
    for name, marks in all_marks().items():
        if kind == "daemon_reload":
            marks[kind] = False
        elif kind == "units":
            marks[kind].pop(what, None)
        else:
            marks[kind] = [one for one in marks[kind] if one != what]
        save_marks(name, marks)


def merge_marks(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return both; a restart includes a reload."""
    units = dict(old["units"])
    for unit, action in new["units"].items():
        units[unit] = "restart" if "restart" in (action, units.get(unit)) else action
    merged = {kind: list(dict.fromkeys([*old[kind], *new[kind]])) for kind in ("commands", "notify")}
    reload = old["daemon_reload"] or new["daemon_reload"]
    return {"boot": boot_id(), "units": units, **merged, "daemon_reload": reload}


def unit_of(path: str) -> str | None:
    """Return the unit that a file below /etc/systemd/system belongs to: the unit's own file, or a drop-in."""
    if not path.startswith(UNITS):
        return None
    first = path.removeprefix(UNITS).split("/")[0].removesuffix(".d")
    return first if UNIT_NAME.fullmatch(first) else None


def marks_of(changes: list[Change], commands: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a set's changes ask for."""
    marks = empty_marks()
    for change in changes:
        target = change.target
        for unit in target.reload:
            marks["units"].setdefault(unit, "reload")
        for unit in target.restart:
            marks["units"][unit] = "restart"
        marks["notify"] += [name for name in target.notify if name not in marks["notify"]]
        own = unit_of(target.path)
        if own and change.action != "remove":
            marks["daemon_reload"] = True
            if own.endswith(RESTARTED_BY_THEMSELVES):
                marks["units"][own] = "restart"
        marks["daemon_reload"] = marks["daemon_reload"] or target.path.startswith(UNITS)
    for one in commands:
        if any(fnmatch.fnmatch(change.target.path, pattern) for change in changes for pattern in one["changed"]):
            marks["commands"].append(one["command"])
    return marks


def _stage(change: Change, journal: dict[str, Any]) -> None:
    """Write the new content beside its place, with its final owner and mode."""
    target, temporary = change.target, journal["staged"][change.target.path]
    with parent(temporary) as (directory, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        if change.action == "link":
            os.symlink(target.link, name, dir_fd=directory)
            return
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb") as sink:
            sink.write(target.content or b"")
            sink.flush()
            _set_attributes(sink.fileno(), target.uid or 0, target.gid or 0, target.mode or 0o600)
            os.fchmod(sink.fileno(), target.mode or 0o600)
            os.fsync(sink.fileno())


def _make_directory(operation: dict[str, Any]) -> None:
    with parent(operation["path"]) as (directory, name):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            _set_attributes(descriptor, operation["uid"], operation["gid"], operation["mode"], operation.get("search"))
        finally:
            os.close(descriptor)


def _operate(operation: dict[str, Any]) -> None:
    """Do one operation of a journal; done already, it does nothing."""
    path = operation["path"]
    with contextlib.suppress(FileNotFoundError), parent(path) as (directory, name):
        match operation["action"]:
            case "rename":
                os.rename(os.path.basename(operation["staged"]), name, src_dir_fd=directory, dst_dir_fd=directory)
            case "attributes":
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(name, flags, dir_fd=directory)
                try:
                    _set_attributes(
                        descriptor, operation["uid"], operation["gid"], operation["mode"], operation.get("search")
                    )
                finally:
                    os.close(descriptor)
            case "remove":
                if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    # Somebody who has put a file there meanwhile keeps it.
                    with contextlib.suppress(OSError):
                        os.rmdir(name, dir_fd=directory)
                else:
                    os.unlink(name, dir_fd=directory)
                # What a drop-in leaves is an empty directory.
                above = os.path.dirname(path)
                if above.startswith(UNITS) and above.endswith(".d"):
                    with contextlib.suppress(OSError):
                        os.rmdir(above)


def _undo(journal: dict[str, Any]) -> None:
    for path in journal["staged"].values():
        with contextlib.suppress(FileNotFoundError), parent(path) as (directory, name):
            os.unlink(name, dir_fd=directory)
    for operation in reversed(journal["made"]):
        with contextlib.suppress(OSError), parent(operation["path"]) as (directory, name):
            os.rmdir(name, dir_fd=directory)


def complete(name: str) -> bool:
    """Finish or undo what a journal of a set says. Returns whether there was one."""
    path = state_path("journals", name)
    journal = read_state(path)
    if journal is None:
        return False
    if journal["state"] == "staging":
        _undo(journal)
    else:
        marks = all_marks().get(name) or empty_marks()
        save_marks(name, merge_marks(marks, {**journal["marks"], "boot": boot_id()}))
        for operation in journal["operations"]:
            _operate(operation)
        for directory in sorted({os.path.dirname(operation["path"]) for operation in journal["operations"]}):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _sync_directory(directory)
        write_state(state_path("manifests", name), journal["manifest"])
    os.unlink(path)
    _sync_directory(os.path.dirname(path))
    return True


def complete_all() -> list[str]:
    """Finish or undo every set that somebody died over; returns their names."""
    for path in glob.glob(state_path("*") + "*.json.*"):  # of one who died while writing it
        os.unlink(path)
    for path in glob.glob(os.path.join(SCRATCH, "file-sets-*")):
        shutil.rmtree(path, ignore_errors=True)
    names = [
        os.path.basename(path).removesuffix(".json") for path in sorted(glob.glob(state_path("journals") + "*.json"))
    ]
    return [name for name in names if complete(name)]


def _operation(change: Change, staged: dict[str, str]) -> dict[str, Any]:
    target = change.target
    match change.action:
        case "replace" | "link":
            return {"action": "rename", "path": target.path, "staged": staged[target.path]}
        case "remove":
            return {"action": "remove", "path": target.path}
    return {"action": "attributes", "path": target.path, **_attributes(target)}


def _attributes(target: Target) -> dict[str, Any]:
    return {"uid": target.uid, "gid": target.gid, "mode": target.mode, "search": target.search}


def replace(name: str, changes: list[Change], manifest: list[str], marks: dict[str, Any]) -> None:
    """Put all changes in place under a journal. Raises Refused with everything as it was, if they cannot be staged."""
    staged = {
        change.target.path: os.path.join(
            os.path.dirname(change.target.path),
            f".{os.path.basename(change.target.path)[:200]}.{secrets.token_hex(4)}{STAGED_SUFFIX}",
        )
        for change in changes
        if change.action in ("replace", "link")
    }
    made = [
        {"path": c.target.path, **_attributes(c.target)}
        for c in sorted((c for c in changes if c.action == "make"), key=lambda c: c.target.path)
    ]
    # Removals last: nothing is missing while its successor is not there yet.
    ordered = sorted((c for c in changes if c.action != "make"), key=lambda c: c.action == "remove")
    journal: dict[str, Any] = {
        "state": "staging",
        "staged": staged,
        "made": made,
        "operations": [_operation(change, staged) for change in ordered],
        "manifest": manifest,
        "marks": marks,
    }
    try:
        write_state(state_path("journals", name), journal)
        for operation in made:
            _make_directory(operation)
        for change in changes:
            if change.target.path in staged:
                _stage(change, journal)
        for directory in sorted({os.path.dirname(path) for path in staged.values()}):
            _sync_directory(directory)
        write_state(state_path("journals", name), {**journal, "state": "committed"})
    except OSError as error:
        _undo(journal)
        with contextlib.suppress(OSError):
            os.unlink(state_path("journals", name))
        reason = "the disk is full: free space" if error.errno == errno.ENOSPC else str(error)
        raise Refused(f"{error.filename or name}: {reason}; nothing was changed") from error
    complete(name)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other runs away; a journal belongs to one at a time."""
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    with open(os.path.join(STATE, "lock"), "w") as handle:
        done = False
        for _ in range(LOCK_SECONDS * 5):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                done = True
                break
            time.sleep(0.2)
        if not done:
            raise Refused(
                f"{STATE}/lock: another run has been changing this host's files for {LOCK_SECONDS} s: wait for it"
            )
        yield


def main(arguments: list[str]) -> int:
    """Complete interrupted sets, at boot before the daemons start."""
    if arguments != ["complete"]:
        print("usage: file-sets complete", file=sys.stderr)
        return 2
    try:
        with locked():
            for name in complete_all():
                print(f"completed {name}, which an interrupted run had begun")
            if any(marks["daemon_reload"] for marks in all_marks().values()):
                run(["systemctl", "daemon-reload"])
    except Refused as error:
        print(f"file-sets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
