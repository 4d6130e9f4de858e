"""Compare a set of files with the host, have it checked, and replace it together or not at all.

`set_checks` shows the candidates to their parsers; `set_journal` puts them in place. Standard library of Python 3.11 to
3.13 only.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import glob
import grp
import importlib.util
import os
import pwd
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils import set_checks, set_journal
from ansible.module_utils.set_journal import STAGED_SUFFIX, Change, Outcome, Refused, Target, parent, read, status_of


def _account(name: Any, database: Any, kind: str, path: str, check: bool) -> int | None:
    if isinstance(name, int) or str(name).isdigit():
        return int(name)
    try:
        entry = database(str(name))
    except KeyError:
        if check:  # a user to come
            return None
        raise Refused(f"{path}: this host has no {kind} '{name}': correct the name, or make it first") from None
    return int(entry.pw_uid if kind == "user" else entry.gr_gid)


UID = re.compile(rb"@uid\(([a-z_][a-z0-9_-]*)\)@")


def _with_uids(content: bytes, path: str, check: bool, coming: list[str]) -> bytes:
    """Return a file's content with the uids that names have on this host. Raises Refused for an unknown one."""

    def number(found: re.Match[bytes]) -> bytes:
        name = found[1].decode()
        uid = _account(name, pwd.getpwnam, "user", path, check)
        if uid is None and name not in coming:
            coming.append(name)
        return found[0] if uid is None else str(uid).encode()

    return UID.sub(number, content)


def targets_of(files: list[dict[str, Any]], check: bool) -> tuple[list[Target], list[str]]:
    """Return the targets of a set's entries, and the accounts that a check found to come."""
    targets, coming = [], []
    for entry in files:
        path = entry["dest"]
        uid = _account(entry["owner"], pwd.getpwnam, "user", path, check)
        gid = _account(entry["group"], grp.getgrnam, "group", path, check)
        for value, name in ((uid, entry["owner"]), (gid, entry["group"])):
            if value is None and name not in coming:
                coming.append(name)
        search = [_account(name, pwd.getpwnam, "user", path, check) for name in entry.get("search", [])]
        content = base64.b64decode(entry["content"]) if entry.get("content") is not None else None
        if content and entry.get("uids"):
            content = _with_uids(content, path, check, coming)
        targets.append(
            Target(
                path=path,
                kind=entry["kind"],
                uid=uid,
                gid=gid,
                mode=int(entry["mode"], 8) if entry.get("mode") else None,
                content=content,
                link=entry.get("target", ""),
                search=[one for one in search if one is not None],
                keep=entry.get("keep", False),
                hidden=entry.get("no_log", False),
                restart=entry.get("restart", []),
                reload=entry.get("reload", []),
                notify=entry.get("notify", []),
            )
        )
    return targets, coming


def _describe(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"


def _same_attributes(status: os.stat_result, target: Target) -> bool:
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (target.uid, target.gid, target.mode)


def compare(target: Target) -> Change | None:
    """Return what separates a path from what is wanted there, or None."""
    status = status_of(target.path)
    if target.kind == "absent":
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            with contextlib.suppress(OSError):
                if os.listdir(target.path):
                    raise Refused(f"{target.path} is a directory that is not empty: move away what is in it")
            return Change("remove", target)
        before = read(target.path) if stat.S_ISREG(status.st_mode) else None
        return Change("remove", target, before)
    if target.kind == "directory":
        other_acl = bool(target.search) and not set_journal.same_acl(target.path, target.mode or 0, target.search)
        if status is None:
            return Change("make", target)
        if stat.S_ISLNK(status.st_mode):
            os.close(set_journal.open_directory(target.path))  # refuses a planted one
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise Refused(f"{target.path} is not a directory: move it away")
        if _same_attributes(status, target) and not other_acl:
            return None
        return Change("attributes", target, None, _describe(status))
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise Refused(f"{target.path} is a directory where the set has a {target.kind}: move it away")
    if status is not None and stat.S_ISLNK(status.st_mode):
        with parent(target.path) as (directory, name):
            holder = os.fstat(directory)
            if not set_journal.trusted(holder):
                owner = set_journal.name_of(holder.st_uid)
                raise Refused(f"{target.path} is a symbolic link in a directory of {owner}: remove it")
            if target.kind == "link":
                same = os.readlink(name, dir_fd=directory) == target.link
                return None if same else Change("link", target)
    if target.kind == "link":
        return Change("link", target)
    if status is None or not stat.S_ISREG(status.st_mode):
        return Change("replace", target)
    before = read(target.path)
    if before != target.content and not target.keep:
        return Change("replace", target, before, _describe(status))
    return None if _same_attributes(status, target) else Change("attributes", target, None, _describe(status))


def closed(pattern: str, group: str, check: bool, outcome: Outcome) -> list[Change]:
    """Return what takes every right of others from what is there; what root owns, the group may read instead.

    A path that leads through a link of a lesser user is named in a warning, and left alone: it is that user's affair
    and must not stop the run.
    """
    changes = []
    gid = _account(group, grp.getgrnam, "group", pattern, check)
    for path in sorted(glob.glob(pattern)):
        try:
            status = status_of(path)
        except Refused as refused:
            outcome.warnings.append(f"not closed: {refused}")
            continue
        if status is None or gid is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            continue
        target = Target(
            path=path, kind="closed", uid=status.st_uid, gid=gid, mode=stat.S_IMODE(status.st_mode) & ~0o007
        )
        if not _same_attributes(status, target):
            changes.append(Change("attributes", target, None, _describe(status)))
    return changes


def missing_directories(changes: list[Change], named: set[str]) -> list[Change]:
    """Return the directories above new files that neither exist nor stand in the set: root's, 0755."""
    found: dict[str, Change] = {}
    for change in changes:
        if change.action == "remove":
            continue
        for above in list(reversed(Path(change.target.path).parents))[1:]:
            path = str(above)
            if path not in named and path not in found and status_of(path) is None:
                found[path] = Change("make", Target(path=path, kind="directory", mode=0o755))
    return list(found.values())


def _managed(path: str, marker: str) -> bool:
    """Return whether the head of a file says that we wrote it."""
    status = status_of(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    return marker.encode() in read(path)[:2000]


def _bytecode_of(path: str) -> str:
    """Return the source of a module's bytecode, which goes with its source; empty for any other file."""
    try:
        return importlib.util.source_from_cache(path)
    except (ValueError, NotImplementedError):
        return ""


def removals(
    owns: list[dict[str, Any]], wanted: set[str], written: set[str], marker: str
) -> tuple[list[Change], list[str]]:
    """Return what to remove below the owned patterns, and a line for each stranger's file there.

    wanted: paths that the set names; written: paths that its earlier runs wrote.
    """
    changes: dict[str, Change] = {}
    strangers = []
    for own in owns:
        for path in sorted(glob.glob(own["pattern"], recursive=True, include_hidden=False)):
            if path in wanted or path in changes or path.endswith(STAGED_SUFFIX):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                continue
            if any(fnmatch.fnmatch(path, pattern) for pattern in own["except"]) or _bytecode_of(path) in wanted:
                continue
            if path in written or own["strangers"] == "remove" or _managed(path, marker):
                removed = Target(
                    path=path, kind="absent", restart=own["restart"], reload=own["reload"], hidden=True, former=True
                )
                found = compare(removed)
                if found:
                    changes[path] = found
            else:
                strangers.append(f"{path} is not ours and stays: remove it, or name it in the inventory")
    for own in owns:
        if own["pattern"].endswith("/**") and own["strangers"] == "remove":
            changes |= emptied(own["pattern"], wanted, changes)
    return list(changes.values()), strangers


def emptied(pattern: str, wanted: set[str], removed: dict[str, Change]) -> dict[str, Change]:
    """Return the removal, by path, of each directory of an owned tree that is left with nothing in it."""
    found: dict[str, Change] = {}
    directories = {os.path.normpath(path) for path in glob.glob(pattern, recursive=True) if os.path.isdir(path)}
    for path in sorted(directories, reverse=True):  # what is below another comes before it
        if os.path.islink(path) or any(one.startswith(path + "/") for one in wanted):
            continue
        if all(os.path.join(path, name) in removed or os.path.join(path, name) in found for name in os.listdir(path)):
            found[path] = Change("remove", Target(path=path, kind="absent", hidden=True, former=True))
    return found


def _text(data: bytes | None) -> str:
    if data is None:
        return ""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"({len(data)} bytes, not text)\n"


def _diff(change: Change) -> dict[str, str]:
    target = change.target
    head = {"before_header": target.path, "after_header": target.path}
    passes = "".join(f", {set_journal.name_of(uid)} passes" for uid in target.search)
    wanted = f"{target.mode or 0:04o} {target.uid}:{target.gid}{passes}\n"
    match change.action:
        case "replace":
            return {**head, "before": _text(change.before), "after": _text(target.content)}
        case "link":
            return {**head, "before": "", "after": f"-> {target.link}\n"}
        case "remove":
            return {**head, "before": _text(change.before) or "(there)\n", "after": ""}
    return {**head, "before": change.before_attributes and change.before_attributes + "\n", "after": wanted}


def _unique(targets: list[Target]) -> None:
    seen: set[str] = set()
    for target in targets:
        if target.path in seen:
            raise Refused(f"{target.path} stands twice in the set: name it once")
        seen.add(target.path)


def refuse_below_lesser_users(targets: list[Target]) -> None:
    """Raise Refused for a target in a directory that another than root can change: it could be a link by tomorrow.

    A directory that the set itself names counts as the set wants it.
    """
    wanted = {target.path: target for target in targets if target.kind == "directory"}
    for target in targets:
        if target.kind == "absent":
            continue
        for above in map(str, Path(target.path).parents):
            if above in wanted:
                holder = wanted[above]
                mode, uid, gid = holder.mode or 0, holder.uid or 0, holder.gid or 0
            else:
                try:
                    status = os.stat(above)
                except FileNotFoundError:
                    continue
                mode, uid, gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
            if not set_journal.trusted(os.stat_result((mode, 0, 0, 0, uid, 0, 0, 0, 0, 0))):
                if uid == 0:
                    group = f"the group {set_journal.group_of(gid)}" if not mode & 0o002 else "everybody"
                    who, mend = group, f"chmod go-w {above}"
                else:
                    who = set_journal.name_of(uid)
                    mend = "make it root's, or let systemd-tmpfiles or StateDirectory make it"
                raise Refused(
                    f"{target.path}: {who} can change {above} (mode {mode:04o}), and root writes nothing below a "
                    f"directory of a lesser user: {mend}"
                )


def apply(payload: dict[str, Any], outcome: Outcome, before_commit: Any = None) -> list[Change]:
    """Compare, check and replace a set; returns the changes (in check mode those that would be made).

    payload: name, files, owns, checks, commands, marker, check, diff. before_commit(changes) is called when every
    check has passed, before the first file is replaced.
    """
    name, check, files = payload["name"], payload["check"], payload["files"]
    if not check:
        outcome.done += [f"completed {one}, which an interrupted run had begun" for one in set_journal.complete_all()]
    scratch = tempfile.mkdtemp(prefix="file-sets-", dir=set_journal.SCRATCH)
    os.chmod(scratch, 0o711)
    try:
        if set_checks.make_accounts(files, scratch, check):
            outcome.done.append("made users or groups")
        targets, coming = targets_of([entry for entry in files if entry["kind"] != "closed"], check)
        outcome.done += [f"account {account} is to come" for account in coming]
        _unique(targets)
        refuse_below_lesser_users(targets)
        changes = [change for target in targets if (change := compare(target))]
        for entry in files:
            if entry["kind"] == "closed":
                found = closed(entry["dest"], entry["group"], check, outcome)
                changes += [change for change in found if change.target.path not in {t.path for t in targets}]
        # What is kept is somebody's state: it is neither compared nor ever removed.
        manifest = sorted(t.path for t in targets if t.kind in ("file", "link") and not t.keep)
        written = set(set_journal.read_state(set_journal.state_path("manifests", name)) or [])
        gone, strangers = removals(payload["owns"], {t.path for t in targets}, written, payload["marker"])
        outcome.warnings += strangers
        changes += gone
        changes = missing_directories(changes, {t.path for t in targets}) + changes
        validators = {entry["dest"]: entry.get("validate", "") for entry in files}
        outcome.done += set_checks.validate_files(changes, validators, scratch, check)
        changes += set_checks.compile_products(files, {t.path: t for t in targets}, changes, scratch, check)
        outcome.done += set_checks.check_set(payload["checks"], changes, scratch, check)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    outcome.paths = [change.target.path for change in changes]
    if payload["diff"]:
        outcome.diff = [_diff(change) for change in changes if not change.target.hidden]
    if check:
        return changes
    if changes:
        if before_commit:
            before_commit(changes)
        set_journal.replace(name, changes, manifest, set_journal.marks_of(changes, payload["commands"]))
    elif set(manifest) != written:
        set_journal.write_state(set_journal.state_path("manifests", name), manifest)
    if set_checks.make_directories(files, check):
        outcome.done.append("made directories")
    for one in payload["commands"]:
        if any(one["command"] in marks["commands"] for marks in set_journal.all_marks().values()):
            done = set_journal.run(one["command"])
            if done.returncode:
                said = set_journal.one_line(done.stderr + "\n" + done.stdout, "\0")
                status = done.returncode
                raise Refused(
                    f"'{one['command']}' ended with status {status}: {said}; mend it and run the playbook again"
                )
            set_journal.settle("commands", one["command"])
            outcome.done.append(f"ran {one['command']}")
    outcome.notify = list((set_journal.all_marks().get(name) or set_journal.empty_marks())["notify"])
    return changes
