"""Move and read messages in folders of a Maildir, beside Dovecot.

https://doc.dovecot.org/latest/core/config/mailbox_formats/maildir.html
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import paths

# Of one message no more is read: reports and DSNs say what they have to say at their beginning.
from civicrm_tools.core.paths import DIRECTORY, READ_LIMIT


def _make_directory(name: str, parent: int, owner: os.stat_result) -> int:
    """Make a directory below a descriptor where it is missing, and return a descriptor of it."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
    return os.open(name, DIRECTORY, dir_fd=parent)


@dataclass(frozen=True)
class Entry:
    """One message in a folder: its file, the subdirectory (new or cur) and when it was delivered (UNIX time)."""

    name: str
    subdirectory: str
    time: float
    size: int


class Folder:
    """A folder of a Maildir, reached by descriptors so that no link leads astray. Dovecot may work in it meanwhile.

    A message is moved by one rename(2): whatever happens, it is in exactly one folder.
    """

    def __init__(self, maildir: Path, name: str = "") -> None:
        """`name` is the folder below INBOX, such as CiviMail.ignored; empty is INBOX itself."""
        self.path = maildir / f".{name}" if name else maildir
        self.maildir, self.name = maildir, name
        self._kept: dict[str, int] = {}

    @contextmanager
    def _top(self) -> Iterator[int]:
        """A descriptor of the folder's directory. Raises OSError, also where a link stands in the way."""
        descriptor = paths.directory(self.maildir)
        try:
            if self.name:
                below = os.open(f".{self.name}", DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def opened(self, subdirectory: str) -> Iterator[int]:
        """A descriptor of new or cur. Raises OSError."""
        if subdirectory in self._kept:
            yield self._kept[subdirectory]
            return
        with self._top() as top:
            descriptor = os.open(subdirectory, DIRECTORY, dir_fd=top)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def kept(self) -> Iterator[Folder]:
        """Keep the descriptors of new, cur and tmp open meanwhile, for work on many messages. Raises OSError."""
        with ExitStack() as stack:
            self._kept = {name: stack.enter_context(self.opened(name)) for name in ("new", "cur", "tmp")}
            try:
                yield self
            finally:
                self._kept = {}

    def make(self) -> None:
        """Make the folder as Dovecot would, owned by the mailbox's owner. Does nothing where it stands."""
        with suppress(FileExistsError):
            self.maildir.mkdir(mode=0o700)
            owner = self.maildir.parent.stat()
            os.chown(self.maildir, owner.st_uid, owner.st_gid, follow_symlinks=False)
        descriptor = os.open(self.maildir, DIRECTORY)
        try:
            owner = os.fstat(descriptor)
            if self.name:
                below = _make_directory(f".{self.name}", descriptor, owner)
                os.close(descriptor)
                descriptor = below
                # Marks a subfolder for Maildir++.
                with suppress(FileExistsError):
                    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                    marker = os.open("maildirfolder", flags, 0o600, dir_fd=descriptor)
                    os.fchown(marker, owner.st_uid, owner.st_gid)
                    os.close(marker)
            for part in ("tmp", "new", "cur"):
                os.close(_make_directory(part, descriptor, owner))
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """The messages, oldest first; none where the folder does not exist."""
        found = []
        for subdirectory in ("new", "cur"):
            with suppress(FileNotFoundError), self.opened(subdirectory) as descriptor:
                for name in os.listdir(descriptor):  # noqa: PTH208 pathlib knows no descriptors
                    if name.startswith("."):
                        continue
                    with suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            found.append(Entry(name, subdirectory, status.st_mtime, status.st_size))
        return sorted(found, key=lambda entry: (entry.time, entry.name))

    def count(self) -> int:
        """Number of messages, without a look at each."""
        total = 0
        for subdirectory in ("new", "cur"):
            with suppress(FileNotFoundError), self.opened(subdirectory) as descriptor, os.scandir(descriptor) as names:
                total += sum(1 for name in names if not name.name.startswith("."))
        return total

    def oldest(self) -> float | None:
        """When the oldest message was delivered (UNIX time); None where there is none."""
        entries = self.entries()
        return entries[0].time if entries else None

    def read(self, entry: Entry, limit: int = READ_LIMIT) -> bytes:
        """The beginning of a message. Raises OSError, such as FileNotFoundError when Dovecot has renamed it."""
        with self.opened(entry.subdirectory) as descriptor:
            return paths.read_below(descriptor, entry.name, limit)

    def move(self, entry: Entry, target: Folder, name: str | None = None) -> bool:
        """Move a message as unread into `target`; False where it has gone or been renamed meanwhile.

        `name` gives it another file name, for a folder that may have known the old one.
        """
        base = name or entry.name.partition(":2,")[0]
        with self.opened(entry.subdirectory) as source, target.opened("new") as destination:
            try:
                os.rename(entry.name, base, src_dir_fd=source, dst_dir_fd=destination)
            except FileNotFoundError:
                return False
        return True

    def wrap(self, entry: Entry, head: bytes, tail: bytes) -> None:
        """Put a message between two texts; it is on the disk before it takes the old one's place. Raises OSError."""
        with self.opened(entry.subdirectory) as place, self.opened("tmp") as tmp:
            source = os.open(entry.name, paths.FILE, dir_fd=place)
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=tmp)  # of a run that was cut off, or a FIFO that would hold this one up
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with (
                os.fdopen(source, "rb") as old,
                os.fdopen(os.open(entry.name, flags, 0o600, dir_fd=tmp), "wb") as new,
            ):
                owner = os.fstat(old.fileno())
                os.fchown(new.fileno(), owner.st_uid, owner.st_gid)
                new.write(head)
                shutil.copyfileobj(old, new)
                new.write(tail)
                new.flush()
                os.fsync(new.fileno())
            os.rename(entry.name, entry.name, src_dir_fd=tmp, dst_dir_fd=place)


def plain_name(entry: Entry) -> str:
    """A file name without Dovecot's hints about the size, for a message that has another one now."""
    return re.sub(r",[SW]=\d+", "", entry.name.partition(":2,")[0])


def fresh_name(entry: Entry) -> str:
    """A file name that the mailbox has not seen yet; Dovecot's hints about the size stay with it."""
    base = entry.name.partition(":2,")[0]
    hints = "".join(f",{hint}" for hint in base.split(",")[1:] if re.fullmatch(r"[SW]=\d+", hint))
    return f"{time.time():.6f}.M{secrets.token_hex(8)}.replay{hints}"
