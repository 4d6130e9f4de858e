"""Open what lies in directories of lesser users, as root, without being led astray.

Whoever may write to a directory may put a link, a FIFO or a device in the place of a file. So each part of a path is
opened below the descriptor of the one before, a link is followed only where root alone can have made it, and nothing
waits for the other end of a FIFO. file_set does the same for what Ansible writes (plugins/module_utils/set_journal.py).
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from civicrm_tools.core.command import Failure

# Of one file no more is read.
READ_LIMIT = 4 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LINKS = 20


class Planted(Failure, OSError):
    """A path leads through something that a lesser user may have put there. One line: the path, the owner, the rule."""


def _holder(status: os.stat_result) -> str:
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def trusted(status: os.stat_result) -> bool:
    """Say whether root (or who runs this) alone changes a directory's entries, or, sticky, each user just its own."""
    writable = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid()) and not writable


def directory(path: Path, links: int = 0) -> int:
    """Return a descriptor of a directory. Raises OSError, and Planted for a link that a lesser user may have made."""
    descriptor = os.open("/", DIRECTORY)
    for name in path.parts[1:]:
        try:
            lower = _lower(descriptor, name, path, links)
        finally:
            os.close(descriptor)
        descriptor = lower
    return descriptor


def _lower(descriptor: int, name: str, path: Path, links: int) -> int:
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return os.open(name, DIRECTORY, dir_fd=descriptor)
    holder = os.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()) or not trusted(holder) or links > LINKS:
        raise Planted(
            f"{path}: '{name}' is a symbolic link in a directory of {_holder(holder)}: root does not follow it"
        )
    here = Path(f"/proc/self/fd/{descriptor}").readlink()
    return directory(Path(os.path.normpath(here / os.readlink(name, dir_fd=descriptor))), links + 1)


def read(path: Path, limit: int = READ_LIMIT) -> bytes:
    """Return the first `limit` bytes of a regular file. Raises OSError, and Planted for what is none."""
    above = directory(path.parent)
    try:
        return read_below(above, path.name, limit)
    finally:
        os.close(above)


def read_below(above: int, name: str, limit: int = READ_LIMIT) -> bytes:
    """Return the first bytes of a regular file in a directory that is open. Raises as read does."""
    if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        holder = _holder(os.fstat(above))
        raise Planted(f"'{name}' is a symbolic link in a directory of {holder}: root does not follow it")
    with os.fdopen(os.open(name, FILE, dir_fd=above), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Planted(
                f"'{name}' in a directory of {_holder(os.fstat(above))} is no regular file: root does not read it"
            )
        return file.read(limit)


def names(path: Path) -> list[str]:
    """Return the names in a directory. Raises OSError, and Planted."""
    descriptor = directory(path)
    try:
        return os.listdir(descriptor)  # noqa: PTH208 pathlib knows no descriptors
    finally:
        os.close(descriptor)
