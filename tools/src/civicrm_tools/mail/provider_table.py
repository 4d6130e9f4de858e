"""Read the table of providers that the role postfix_mailing writes: domains, budgets, and what lowers a budget."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure, seconds

TABLE = Path("/etc/postfix/providers.json")
# Recipients whom no provider has: they take the default transport.
DEFAULT = "default"
# The share of a budget that is handed out: what is left absorbs the jitter between a start and the provider's clock.
USED = 0.98
# Postfix gives a table 100 s to answer and then goes on without it: nobody may wait that long.
LONGEST_WAIT = 80
# Halved at most so often.
LOWEST = 6


@dataclass(frozen=True)
class BackOff:
    """When deferrals lower a budget. Times in seconds."""

    texts: tuple[str, ...] = ()
    deferrals: int = 3
    window: float = 120
    step: float = 60
    recover: float = 900


@dataclass(frozen=True)
class Provider:
    """One entry of the table.

    `share` is how much of the largest mailing goes there, None if nobody has said; `pattern` what a deferral for our
    pace looks like, besides what `verdict` knows.
    """

    name: str
    domains: frozenset[str]
    mx_suffixes: tuple[str, ...]
    budget: float
    connections: int
    share: float | None
    pattern: re.Pattern[str] | None

    def rate(self, level: int) -> float:
        """Deliveries a second after so many halvings; never so few that somebody would wait for too long."""
        return max(self.budget / 2.0**level, min(self.budget, (self.connections + 1) / LONGEST_WAIT))

    @property
    def lowest(self) -> int:
        """The last halving that still lowers the rate."""
        return max((level for level in range(1, LOWEST + 1) if self.rate(level) < self.rate(level - 1)), default=0)


@dataclass(frozen=True)
class Table:
    """The whole table; `lifetime` is in seconds, `own` are the domains that this host serves."""

    providers: dict[str, Provider]
    back_off: BackOff
    own: frozenset[str]
    default_connections: int
    lifetime: int
    log: Path
    textfile_directory: Path

    @cached_property
    def names(self) -> list[str]:
        """Every provider, and "default"."""
        return [*self.providers, DEFAULT]

    @cached_property
    def by_domain(self) -> dict[str, str]:
        """{domain: provider} that the table names."""
        return {domain: provider.name for provider in self.providers.values() for domain in provider.domains}

    def by_server(self, server: str) -> str:
        """The provider whose mail server this is, or nothing."""
        for provider in self.providers.values():
            if any(server and f".{server}".endswith(f".{suffix}") for suffix in provider.mx_suffixes):
                return provider.name
        return ""

    def get(self, name: str) -> Provider | None:
        """The provider of this name; None is the default. Raises Failure if there is none."""
        if name == DEFAULT:
            return None
        if name in self.providers:
            return self.providers[name]
        raise Failure(f"unknown provider '{name}': there is {', '.join(self.names)}")


def load(path: Path) -> Table:
    """Read the table. Raises Failure; files.Missing where the role did not write one."""
    try:
        return files.read_json(path, _table)
    except files.Missing as error:
        raise files.Missing(f"{path} is not there: the role postfix_mailing writes it") from error


def _table(raw: dict[str, Any]) -> Table:
    given = raw["back_off"]
    back_off = BackOff(
        texts=tuple(given["texts"]),
        deferrals=int(given["deferrals"]),
        window=float(given["window_seconds"]),
        step=float(given["step_seconds"]),
        recover=float(given["recover_seconds"]),
    )
    return Table(
        providers={str(entry["name"]): _provider(entry, back_off) for entry in raw["providers"]},
        back_off=back_off,
        own=frozenset(raw["own_domains"]),
        default_connections=int(raw["default_concurrency"]),
        lifetime=seconds(raw["queue_lifetime"]),
        log=Path(raw["mail_log"]),
        textfile_directory=Path(raw["textfile_directory"]),
    )


def _provider(entry: dict[str, Any], back_off: BackOff) -> Provider:
    provider = Provider(
        name=str(entry["name"]),
        domains=frozenset(str(domain) for domain in entry["domains"]),
        mx_suffixes=tuple(str(suffix) for suffix in entry.get("mx_suffixes", ())),
        budget=float(entry["budget_per_second"]),
        connections=int(entry["connections"]),
        share=float(entry["recipients_share"]) if "recipients_share" in entry else None,
        pattern=_pattern([*back_off.texts, *entry.get("back_off", ())]),
    )
    if not 0 < provider.budget < float("inf") or provider.connections < 1:
        raise ValueError(f"{provider.name}: budget_per_second and connections must be above 0")
    return provider


def _pattern(texts: list[str]) -> re.Pattern[str] | None:
    try:
        return re.compile("|".join(f"(?:{text})" for text in texts)) if texts else None
    except re.error as error:
        raise ValueError(f"back_off: {error}") from error
