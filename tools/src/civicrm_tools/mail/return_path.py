"""Read the settings of the return path: its sites with their addresses and mailboxes, and each command's own part.

They are one JSON file, /etc/mail-tools/return-path.json, written by the role mail_tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.command import USAGE, Failure
from civicrm_tools.mail import addresses
from civicrm_tools.mail.addresses import Address
from civicrm_tools.mail.provider_table import TABLE
from civicrm_tools.mail.providers import HOSTED, Owners

SETTINGS = Path("/etc/mail-tools/return-path.json")


class SettingsError(Failure):
    """The settings cannot be used, or what was asked does not fit them; one line that says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(message, USAGE)


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

    @cached_property
    def _ends(self) -> re.Pattern[str]:
        """Where an address may end: few places of a text, found fast."""
        domains = "|".join(re.escape(domain) for domain in sorted(self.domains))
        return re.compile(rf"@(?i:{domains})(?![\w-]|\.\w)", re.ASCII)

    def scan(self, text: str) -> Iterator[Address]:
        """All addresses of the contract inside a text, in order."""
        behind = 0
        for end in self._ends.finditer(text):
            for found in self._anywhere.finditer(text, max(behind, end.start() - addresses.LENGTH_LIMIT), end.end()):
                address = self.parse(found[0])
                if address is not None:
                    yield address
            behind = end.end()


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
    """Read the settings. Raises SettingsError."""
    try:
        return files.read_json(path, _settings)
    except files.Unreadable as error:
        raise SettingsError(str(error)) from error


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
