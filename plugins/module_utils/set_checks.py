"""Show candidates to the daemons' own parsers, before the first file of a set is replaced."""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.set_journal import (
    COMMAND_SECONDS,
    MESSAGE_CHARACTERS,
    Change,
    Refused,
    Target,
    one_line,
    read,
    run,
    status_of,
)

NOT_FOUND = 127  # a shell's exit status for a program that is not there
SHOWN_CHARACTERS = 80
TEXT_BYTES = 1 << 20  # larger files of a tree are copied without rewriting their paths


def _judge(what: str, command: str, shown: str, scratch: str, hidden: bool, check: bool) -> str | None:
    """Run a parser over a candidate. Returns a note where a check on a bare host lacks it. Raises Refused."""
    program = shlex.split(command)[0]
    shown = shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 3] + "..."
    try:
        done = run(command)
    except FileNotFoundError:
        if check:
            return f"{what} is not checked: {program} is not installed yet"
        raise Refused(f"{what}: {program}, which checks it, is not on this host: install it first") from None
    except PermissionError as error:
        raise Refused(f"{what}: '{shown}' cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise Refused(f"{what}: '{shown}' did not end within {COMMAND_SECONDS} s") from None
    if check and done.returncode == NOT_FOUND:
        return f"{what} is not checked: a program of '{shown}' is not installed yet"
    if done.returncode:
        said = "its output may hold a secret" if hidden else one_line(done.stderr + "\n" + done.stdout, scratch)
        raise Refused(f"{what} is refused by '{shown}' (exit status {done.returncode}): {said or 'it said nothing'}")
    return None


def _candidate(scratch: str, number: int, target: Target) -> str:
    """Write a candidate under its own name into a directory of its own, and return its path."""
    directory = os.path.join(scratch, str(number))
    os.mkdir(directory, 0o755)
    path = os.path.join(directory, os.path.basename(target.path))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
        sink.write(target.content or b"")
    if target.uid is not None and target.gid is not None:
        os.chown(path, target.uid, target.gid)
    os.chmod(path, target.mode or 0o600)
    return path


def validate_files(changes: list[Change], validators: dict[str, str], scratch: str, check: bool) -> list[str]:
    """Show each changed file to its own parser."""
    notes = []
    for number, change in enumerate(changes):
        target = change.target
        if change.action != "replace" or not validators.get(target.path):
            continue
        candidate = _candidate(scratch, number, target)
        command = validators[target.path].replace("%s", shlex.quote(candidate))
        notes.append(_judge(target.path, command, validators[target.path], scratch, target.hidden, check))
    return [note for note in notes if note]


def _rewrite(path: str, trees: list[str], root: str) -> None:
    """Make a file of the copied trees speak of the copies."""
    if os.path.islink(path):
        link = os.readlink(path)
        if any(link == tree or link.startswith(tree + "/") for tree in trees):
            os.unlink(path)
            os.symlink(root + link, path)
        return
    if not os.path.isfile(path) or os.path.getsize(path) > TEXT_BYTES:
        return
    data = Path(path).read_bytes()
    if b"\0" in data:
        return
    new = data
    for tree in trees:
        new = re.sub(rb"(?<![\w./-])" + re.escape(tree.encode()) + rb"(?![\w-])", (root + tree).encode(), new)
    if new != data:
        Path(path).write_bytes(new)


def _below(path: str, trees: list[str]) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)


def copy_trees(trees: list[str], changes: list[Change], root: str) -> None:
    """Copy directories and files below `root` and apply the changes to the copies."""
    for tree in trees:
        if os.path.isdir(tree):
            # A socket or FIFO has no content to copy.
            def special(directory: str, names: list[str]) -> list[str]:
                modes = {name: os.lstat(os.path.join(directory, name)).st_mode for name in names}
                return [n for n, m in modes.items() if not (stat.S_ISREG(m) or stat.S_ISDIR(m) or stat.S_ISLNK(m))]

            try:
                shutil.copytree(tree, root + tree, symlinks=True, ignore=special, dirs_exist_ok=True)
            except shutil.Error as error:
                # A daemon's own temporary file went while it was copied.
                if any("No such file" not in reason for _, _, reason in error.args[0]):
                    raise
        elif os.path.isfile(tree):
            os.makedirs(os.path.dirname(root + tree), exist_ok=True)
            shutil.copy2(tree, root + tree)
    for change in changes:
        target = change.target
        if not _below(target.path, trees):
            continue
        copy = root + target.path
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        if change.action in ("replace", "link", "remove") and os.path.lexists(copy):
            os.rmdir(copy) if os.path.isdir(copy) and not os.path.islink(copy) else os.unlink(copy)
        if change.action == "make":
            os.makedirs(copy, exist_ok=True)
        elif change.action == "link":
            os.symlink(target.link, copy)
        elif change.action == "replace":
            Path(copy).write_bytes(target.content or b"")
            os.chmod(copy, target.mode or 0o600)
    for tree in trees:
        if os.path.isfile(root + tree):
            _rewrite(root + tree, trees, root)
        for directory, below, names in os.walk(root + tree):
            for name in [*names, *(b for b in below if os.path.islink(os.path.join(directory, b)))]:
                _rewrite(os.path.join(directory, name), trees, root)


def check_set(checks: list[dict[str, Any]], changes: list[Change], scratch: str, check: bool) -> list[str]:
    """Show the whole candidate set to the daemons' parsers, as trees beside the real ones."""
    notes = []
    for number, one in enumerate(checks):
        trees = [tree.rstrip("/") for tree in one["trees"]]
        touched = [c for c in changes if _below(c.target.path, trees)]
        if not touched:
            continue
        root = os.path.join(scratch, f"tree-{number}")
        copy_trees(trees, changes, root)
        command = one["command"].replace("%t", root)
        what = ", ".join(c.target.path for c in touched[:3]) + (f" and {len(touched) - 3} more" if touched[3:] else "")
        try:
            notes.append(_judge(what, command, one["command"], root, False, check))
        except Refused as error:
            if not check:
                raise
            # It may miss what an earlier set of the run would have brought.
            notes.append(f"as the host is now, {error}")
    return [note for note in notes if note]


def compile_products(
    entries: list[dict[str, Any]], targets: dict[str, Target], changes: list[Change], scratch: str, check: bool
) -> list[Change]:
    """Return the replacement of each compiled form whose source changes, or that is missing or older."""
    products = []
    by_path = {change.target.path: change for change in changes}
    for number, entry in enumerate(e for e in entries if e.get("compile")):
        source, product = entry["dest"], entry["product"]
        change, made, there = by_path.get(source), status_of(product), status_of(source)
        if not (change and change.action == "replace") and there and made and made.st_mtime >= there.st_mtime:
            continue
        target = replace(targets[source])
        if check:
            products.append(Change("replace", Target(path=product, kind="file", hidden=True)))
            continue
        if target.keep and there:
            target.content = read(source)
        candidate = _candidate(scratch, 10_000 + number, target)
        command = entry["compile"].replace("%s", shlex.quote(candidate))
        _judge(source, command, entry["compile"], scratch, target.hidden, check)
        compiled = os.path.join(os.path.dirname(candidate), os.path.basename(product))
        if not os.path.isfile(compiled):
            raise Refused(f"{source}: '{entry['compile']}' left no {os.path.basename(product)}")
        target.path, target.content, target.keep, target.hidden = product, Path(compiled).read_bytes(), False, True
        products.append(Change("replace", target))
    return products


# --- accounts and directories that systemd makes ------------------------------------------------------------


def _accounts() -> bytes:
    return b"".join(Path(path).read_bytes() for path in ("/etc/passwd", "/etc/group") if os.path.exists(path))


def make_accounts(files: list[dict[str, Any]], scratch: str, check: bool) -> bool:
    """Make the users and groups of the set's sysusers.d files, before anything is to belong to them."""
    texts = [e for e in files if e["dest"].startswith("/etc/sysusers.d/") and e["kind"] == "file"]
    if not texts or check:
        return False
    before = _accounts()
    for entry in texts:
        path = os.path.join(scratch, "sysusers-" + os.path.basename(entry["dest"]))
        Path(path).write_bytes(base64.b64decode(entry["content"]))
        _judge(entry["dest"], f"systemd-sysusers {shlex.quote(path)}", "systemd-sysusers", scratch, False, check)
    return _accounts() != before


def make_directories(files: list[dict[str, Any]], check: bool) -> bool:
    """Make what the set's tmpfiles.d files ask for."""
    made = False
    for entry in files:
        if entry["dest"].startswith("/etc/tmpfiles.d/") and entry["kind"] == "file" and not check:
            # It tells what it makes only at this level.
            done = run(["systemd-tmpfiles", "--create", entry["dest"]], environment={"SYSTEMD_LOG_LEVEL": "debug"})
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "ailed" in line or "efus" in line]
                said = "; ".join(errors or done.stderr.splitlines()[-1:])[:MESSAGE_CHARACTERS]
                raise Refused(f"{entry['dest']}: systemd-tmpfiles: {said}")
            made = made or "Created directory" in done.stderr
    return made
