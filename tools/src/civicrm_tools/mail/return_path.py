"""What the return path's commands share: settings, Maildir folders, bounded reading of mail, files for metrics.

Settings are one JSON file, /etc/mail-tools/return-path.json, written by the role mail_tools.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from functools import cached_property
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure
from civicrm_tools.mail import addresses
from civicrm_tools.mail.addresses import Address
from civicrm_tools.mail.provider_table import TABLE
from civicrm_tools.mail.providers import HOSTED, Owners

SETTINGS = Path("/etc/mail-tools/return-path.json")
# Of one message no more is read: reports and DSNs say what they have to say at their beginning.
READ_LIMIT = 4 * 1024 * 1024
# The parser of the standard library compares every line with every open boundary and calls itself for every level.
BOUNDARY_LIMIT = 64
PARTS_LIMIT = 200


class SettingsError(Failure):
    """The settings cannot be used; the text is one line that says what to change."""


@dataclass(frozen=True)
class Site:
    """One site: its address contract, its mailbox, and the unit that empties it (may be empty)."""

    name: str
    localpart: str
    separator: str
    domains: frozenset[str]
    maildir: Path
    fetch_unit: str

    def parse(self, address: str | bytes) -> Address | None:
        """The address if it is one of this site's contract."""
        return addresses.parse(address, localpart=self.localpart, separator=self.separator, domains=self.domains)

    def format(self, address: Address) -> str:
        """The address in today's form; ValueError for what cannot be written."""
        return addresses.format(address, localpart=self.localpart, separator=self.separator)

    @cached_property
    def _anywhere(self) -> re.Pattern[str]:
        local = addresses.pattern(self.localpart, self.separator).pattern
        domains = "|".join(re.escape(domain) for domain in sorted(self.domains))
        return re.compile(rf"(?<![\w.%+-])(?:{local})@(?:(?i:{domains}))(?![\w-]|\.\w)", re.ASCII)

    def scan(self, text: str) -> Iterator[Address]:
        """All addresses of the contract inside a text, in order."""
        for found in self._anywhere.finditer(text):
            address = self.parse(found[0])
            if address is not None:
                yield address


@dataclass(frozen=True)
class Settings:
    """The settings file; `section(name)` gives a command's own part."""

    hostname: str
    sites: tuple[Site, ...]
    providers_file: Path
    hosted_file: Path
    mail_log: Path
    textfile_directory: Path | None
    sections: dict[str, dict[str, Any]]

    def section(self, name: str) -> dict[str, Any]:
        return self.sections.get(name, {})

    def site(self, name: str) -> Site:
        """The site with this name. Raises SettingsError."""
        for site in self.sites:
            if site.name == name:
                return site
        raise SettingsError(f"no site {name!r}; known: {', '.join(s.name for s in self.sites) or 'none'}")

    def owners(self) -> Owners:
        """Whose recipients are, as it is known now. Raises Failure."""
        return Owners(self.providers_file, self.hosted_file)

    def scan(self, text: str) -> Iterator[tuple[Site, Address]]:
        """All addresses of all sites inside a text."""
        for site in self.sites:
            for address in site.scan(text):
                yield site, address


def load_settings(path: Path = SETTINGS) -> Settings:
    """Read the settings. Raises Failure."""
    return files.read_json(path, _settings)


def _settings(raw: Any) -> Settings:
    sites = tuple(
        Site(
            name=str(site["name"]),
            localpart=str(site["localpart"]),
            separator=str(site.get("separator") or addresses.SEPARATOR),
            domains=frozenset(str(domain).lower() for domain in site["domains"]),
            maildir=Path(site["maildir"]),
            fetch_unit=str(site.get("fetch_unit") or ""),
        )
        for site in raw["sites"]
    )
    sections = {name: dict(raw.get(name) or {}) for name in ("abuse_report", "bounce_breaker", "mailbox_watch")}
    return Settings(
        hostname=str(raw["hostname"]),
        sites=sites,
        providers_file=Path(raw.get("providers_file") or TABLE),
        hosted_file=Path(raw.get("hosted_file") or HOSTED),
        mail_log=Path(raw.get("mail_log") or "/var/log/mail.log"),
        textfile_directory=Path(raw["textfile_directory"]) if raw.get("textfile_directory") else None,
        sections=sections,
    )


# Reading mail


def parse_message(raw: bytes) -> Message | None:
    """The message as MIME parts, or None where its structure would cost too much: then only its text counts."""
    if raw.lower().count(b"boundary") > BOUNDARY_LIMIT or raw.count(b"\n") > 200_000:
        return None
    try:
        return BytesParser(policy=compat32).parsebytes(raw)
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError, IndexError):
        return None


def parts(message: Message) -> Iterator[Message]:
    """The leaves and branches of a message, from the outside in, bounded."""
    waiting, seen = [message], 0
    while waiting and seen < PARTS_LIMIT:
        part = waiting.pop(0)
        seen += 1
        yield part
        payload = part.get_payload()
        if isinstance(payload, list):
            waiting = [*payload, *waiting]


def content_type(part: Message) -> str:
    """maintype/subtype in lower case; text/plain where the header is damaged."""
    try:
        return part.get_content_type()
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return "text/plain"


def parameter(part: Message, name: str) -> str:
    """A parameter of Content-Type in lower case, or an empty string."""
    try:
        value = part.get_param(name)
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return ""
    return value.strip().lower() if isinstance(value, str) else ""


def header(part: Message, name: str) -> str:
    """A header as it stands, unfolded, or an empty string."""
    try:
        value = part.get(name)
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):
        return ""
    return " ".join(str(value).split()) if value is not None else ""


def text_of(part: Message) -> str:
    """A part as text: transfer encoding undone, bytes one to one (latin-1), never an archive unpacked."""
    try:
        if part.is_multipart():
            inner = part.get_payload()
            pieces = inner if isinstance(inner, list) else []
            raw = b"\n".join(bytes(piece) for piece in pieces if isinstance(piece, Message))
            # The library leaves the encoding of a message/* part alone, although real reports carry one.
            raw = decoded(raw, header(part, "Content-Transfer-Encoding").lower())
        else:
            found = part.get_payload(decode=True)
            raw = found if isinstance(found, bytes) else b""
    except (ValueError, LookupError, TypeError, AttributeError, IndexError, RecursionError, AssertionError):
        raw = b""
    return raw[:READ_LIMIT].decode("latin-1")


def decoded(raw: bytes, encoding: str) -> bytes:
    """Undo base64 or quoted-printable; what is neither stays as it is."""
    import binascii
    import quopri

    if encoding == "base64":
        with suppress(binascii.Error, ValueError):
            return binascii.a2b_base64(raw)
    if encoding == "quoted-printable":
        return quopri.decodestring(raw)
    return raw


def read_head(path: Path | str | int, limit: int = READ_LIMIT, dir_fd: int | None = None) -> bytes:
    """The first `limit` bytes of a file, which is no link. Raises OSError."""
    if isinstance(path, int):
        descriptor = path
    else:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path}: no regular file")
        return file.read(limit)


# Maildir folders

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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

    @contextmanager
    def _top(self) -> Iterator[int]:
        """A descriptor of the folder's directory. Raises OSError, also where a link stands in the way."""
        descriptor = os.open(self.maildir, DIRECTORY)
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
        with self._top() as top:
            descriptor = os.open(subdirectory, DIRECTORY, dir_fd=top)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

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
            with suppress(FileNotFoundError), os.scandir(self.path / subdirectory) as names:
                total += sum(1 for name in names if not name.name.startswith("."))
        return total

    def oldest(self) -> float | None:
        """When the oldest message was delivered (UNIX time); None where there is none."""
        entries = self.entries()
        return entries[0].time if entries else None

    def read(self, entry: Entry, limit: int = READ_LIMIT) -> bytes:
        """The beginning of a message. Raises OSError, such as FileNotFoundError when Dovecot has renamed it."""
        with self.opened(entry.subdirectory) as descriptor:
            return read_head(entry.name, limit, dir_fd=descriptor)

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


def fresh_name(entry: Entry) -> str:
    """A file name that the mailbox has not seen yet; Dovecot's hints about the size stay with it."""
    base = entry.name.partition(":2,")[0]
    hints = "".join(f",{hint}" for hint in base.split(",")[1:] if re.fullmatch(r"[SW]=\d+", hint))
    return f"{time.time():.6f}.M{secrets.token_hex(8)}.replay{hints}"


# State and metrics


def open_state(path: Path, schema: str) -> sqlite3.Connection:
    """The state of a command: every change is on the disk before the next step (autocommit). Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        database = sqlite3.connect(path, timeout=30, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(schema)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    database.row_factory = sqlite3.Row
    return database
