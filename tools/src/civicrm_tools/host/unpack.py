"""Unpack a backup's archive of one directory into that directory, beside whoever owns what lies in it.

The archive holds what the sites wrote, and a site can change its directories meanwhile. So nothing is reached by a
path: each step from the root is an openat(2) that follows no link; a file is made under a name of its own, filled and
given away by its descriptor, and takes its place by renameat(2). What cannot come back is reported, and the rest is
unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import gzip
import os
import pwd
import shutil
import stat
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from civicrm_tools.core.command import Failure

CHUNK = 1 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry.
ACL_TAGS = {"user": (0x01, 0x02), "group": (0x04, 0x08), "mask": (0x10, 0x10), "other": (0x20, 0x20)}
ACL_NOBODY = 0xFFFFFFFF
REASONS = {
    errno.EISDIR: "a directory lies in its place: move it away and restore again",
    errno.ENOTEMPTY: "a directory lies in its place: move it away and restore again",
    errno.ELOOP: "a link lies in its way",
    errno.ENOTDIR: "something that is no directory lies in its way",
}


class Refused(Exception):
    """Why one entry does not come back."""


@dataclass
class Tally:
    """How many entries share a fate, and of the first some lines for people."""

    SHOWN = 20

    count: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        if len(self.lines) < self.SHOWN:
            # The sites choose the names: nothing of theirs may pass for a line of ours or command a terminal.
            self.lines.append(f"{name!a}: {reason}")


@dataclass
class Report:
    """What did not come back as it was. failed: is not there; altered: is there, but less than it was."""

    failed: Tally = field(default_factory=Tally)
    altered: Tally = field(default_factory=Tally)


@cache
def uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


@cache
def gid_of(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def acl(text: str) -> bytes:
    """Return tar's text of an ACL as the kernel takes it (system.posix_acl_*). Raises Refused."""
    packed = struct.pack("<I", 2)
    for entry in filter(None, (line.partition("#")[0].strip() for line in text.replace(",", "\n").split("\n"))):
        kind, _, rest = entry.partition(":")
        who, _, permissions = rest.partition(":")
        if kind not in ACL_TAGS or len(permissions) < 3:
            raise Refused(f"its ACL {text!r} cannot be read")
        known: int | None = ACL_NOBODY
        if who:
            known = int(who) if who.isdigit() else uid_of(who) if kind == "user" else gid_of(who)
        if known is None:
            continue
        bits = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in permissions[:3])
        packed += struct.pack("<HHI", ACL_TAGS[kind][bool(who)], bits, known)
    return packed


class Unpacking:
    """One archive on its way into one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prefix = path.relative_to("/").parts
        self.base = open_base(path)
        self.report = Report()
        self.lost: set[tuple[str, ...]] = set()
        # The directory of the entry before: nearly always that of the next one, too.
        self.here: tuple[str, ...] = ()
        self.directory = os.dup(self.base)

    def close(self) -> None:
        os.close(self.directory)
        os.close(self.base)

    def open_directory(self, parts: tuple[str, ...]) -> int:
        """Return a descriptor of a directory below the base, good until the next call. Raises OSError."""
        if parts != self.here:
            known = len(self.here) if parts[: len(self.here)] == self.here else 0
            directory = os.dup(self.directory if known else self.base)
            try:
                for part in parts[known:]:
                    inner = os.open(part, DIRECTORY, dir_fd=directory)
                    os.close(directory)
                    directory = inner
            except OSError:
                os.close(directory)
                raise
            os.close(self.directory)
            self.directory, self.here = directory, parts
        return self.directory

    def inside(self, name: str) -> tuple[str, ...]:
        """Return the steps from the base to a name in the archive. Raises Refused."""
        parts = tuple(part for part in PurePosixPath(name).parts if part != ".")
        if ".." in parts or parts[: len(self.prefix)] != self.prefix:
            raise Refused(f"it lies outside of {self.path}")
        return parts[len(self.prefix) :]

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Unpack one entry, or report it."""
        parts: tuple[str, ...] = ()
        try:
            parts = self.inside(member.name)
            if parts[:-1] in self.lost:
                raise Refused("its directory did not come back")
            self.unpack(archive, member, parts)
        except OSError as error:
            self.lose(member, parts, REASONS.get(error.errno or 0, error.strerror or str(error)))
        except (Refused, ValueError, OverflowError, struct.error) as error:
            self.lose(member, parts, str(error))

    def lose(self, member: tarfile.TarInfo, parts: tuple[str, ...], reason: str) -> None:
        self.report.failed.add(member.name, reason)
        if member.isdir() and parts:
            self.lost.add(parts)

    def unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        if member.isdir():
            descriptor = self.make_directory(parts)
            try:
                self.own(descriptor, member, 0o3777)
            finally:
                os.close(descriptor)
            return
        if not parts:
            raise Refused("it is no directory")
        if member.isreg():
            self.place(parts, lambda directory, name: self.make_file(archive, member, directory, name))
        elif member.issym():
            self.place(parts, lambda directory, name: self.make_link(member, directory, name))
        elif member.islnk():
            self.place(parts, lambda directory, name: self.make_hard_link(member, directory, name))
        else:
            raise Refused("it is a device or a pipe")

    def make_directory(self, parts: tuple[str, ...]) -> int:
        """Return a descriptor of a directory, made where it is missing; a file or link in its place goes."""
        if not parts:
            return os.dup(self.base)
        directory, name = self.open_directory(parts[:-1]), parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
                os.mkdir(name, 0o700, dir_fd=directory)
        return os.open(name, DIRECTORY, dir_fd=directory)

    def place(self, parts: tuple[str, ...], make: Callable[[int, str], None]) -> None:
        """Make something under a name of its own and let it take its place; nothing of it stays if that fails."""
        directory, name = os.dup(self.open_directory(parts[:-1])), parts[-1]
        scratch = f".restore-{os.urandom(8).hex()}"
        try:
            try:
                make(directory, scratch)
                # rename(2) of a second name of the same file does nothing, and leaves both.
                os.replace(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(scratch, dir_fd=directory)
        finally:
            os.close(directory)

    def make_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
        free = os.fstatvfs(directory)
        if member.size > free.f_bavail * free.f_frsize:
            raise Refused(f"its {member.size / 1e6:.1f} MB do not fit on the disk")
        content = archive.extractfile(member)
        assert content is not None
        with content, os.fdopen(os.open(name, NEW, 0o600, dir_fd=directory), "wb") as sink:
            shutil.copyfileobj(content, sink, CHUNK)
            sink.flush()
            self.own(sink.fileno(), member, 0o777)
            os.utime(sink.fileno(), (member.mtime, member.mtime))

    def make_link(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        os.symlink(member.linkname, name, dir_fd=directory)
        os.chown(name, *self.owner(member), dir_fd=directory, follow_symlinks=False)

    def make_hard_link(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        source = self.inside(member.linkname)
        if not source:
            raise Refused("it is a second name of the directory itself")
        other = self.open_directory(source[:-1])
        if not stat.S_ISREG(os.stat(source[-1], dir_fd=other, follow_symlinks=False).st_mode):
            raise Refused(f"it is a second name of {member.linkname!r}, which is no file")
        os.link(source[-1], name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)

    def owner(self, member: tarfile.TarInfo) -> tuple[int, int]:
        """Return uid and gid by their names, for the numbers may be others' on a rebuilt host; root's if unknown."""
        uid = uid_of(member.uname) if member.uname else member.uid
        gid = gid_of(member.gname) if member.gname else member.gid
        if uid is None or gid is None:
            unknown = f"user {member.uname}" if uid is None else f"group {member.gname}"
            self.report.altered.add(member.name, f"there is no {unknown} here: it is root's")
        return (0 if uid is None else uid, 0 if gid is None else gid)

    def own(self, descriptor: int, member: tarfile.TarInfo, allowed: int) -> None:
        """Give a new file or a directory its owner, mode, ACL and attributes, but no rights of its owner to others."""
        os.fchown(descriptor, *self.owner(member))
        os.fchmod(descriptor, member.mode & allowed)
        if member.mode & 0o7777 & ~allowed:
            self.report.altered.add(member.name, f"mode {member.mode & 0o7777:o} is {member.mode & allowed:o} now")
        for key, value in member.pax_headers.items():
            try:
                if key in ("SCHILY.acl.access", "SCHILY.acl.default"):
                    os.setxattr(descriptor, f"system.posix_acl_{key.rpartition('.')[2]}", acl(value))
                elif key.startswith("SCHILY.xattr.user."):
                    os.setxattr(descriptor, key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))
            except (OSError, Refused, struct.error) as error:
                # What the mode says of the group is the mask of an ACL: without it the group would get that much.
                os.fchmod(descriptor, member.mode & allowed & ~0o070)
                self.report.altered.add(member.name, f"without {key.removeprefix('SCHILY.')}: {error}")


def open_base(path: Path) -> int:
    """Return a descriptor of the directory itself, made where it is missing. Raises Failure."""
    directory = os.open("/", DIRECTORY)
    for part in path.relative_to("/").parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=directory)
            inner = os.open(part, DIRECTORY, dir_fd=directory)
        except OSError as error:
            reason = "is a link or no directory" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
            raise Failure(f"{part} on the way there {reason}: name the directory itself in backup_paths") from error
        finally:
            os.close(directory)
        directory = inner
    return directory


def unpack(source: Path, path: Path) -> Report:
    """Unpack a compressed archive over what is there, and report what did not come back. Raises Failure."""
    unpacking = Unpacking(path)
    try:
        with gzip.open(source) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            for member in archive:
                unpacking.take(archive, member)
                archive.members = []  # type: ignore[attr-defined]  # it would remember every one
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise Failure(f"the archive cannot be read: {error}") from error
    finally:
        unpacking.close()
    return unpacking.report
