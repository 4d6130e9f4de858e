"""The table of providers as the role postfix_mailing writes it, and which domain belongs to whom.

A domain belongs to a provider because the table says so, or because its mail goes to one of the provider's servers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mail_tools import postfix
from mail_tools.command import Failure, seconds
from mail_tools.providers import DEFAULT

TABLE = Path("/etc/postfix/providers.json")
DOMAIN = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
# postfix-pace hands out this share of a budget.
USED = 0.98


@dataclass(frozen=True)
class Provider:
    """One entry of the table. `share` is how much of the largest mailing goes there; None if nobody has said."""

    name: str
    domains: frozenset[str]
    mx_suffixes: tuple[str, ...]
    budget: float
    connections: int
    share: float | None


@dataclass(frozen=True)
class Table:
    """The whole table; `lifetime` is in seconds, `own` are the domains that this host serves."""

    providers: tuple[Provider, ...]
    own: frozenset[str]
    default_connections: int
    lifetime: int
    log: Path
    textfile_directory: Path

    def by_domain(self, domain: str) -> str:
        """The provider that the table names for a domain, or nothing."""
        return next((provider.name for provider in self.providers if domain in provider.domains), "")

    def by_server(self, server: str) -> str:
        """The provider whose mail server this is, or nothing."""
        for provider in self.providers:
            if any(server and f".{server}".endswith(f".{suffix}") for suffix in provider.mx_suffixes):
                return provider.name
        return ""

    def get(self, name: str) -> Provider | None:
        """The provider of this name; None is the default. Raises Failure if there is none."""
        if name == DEFAULT:
            return None
        for provider in self.providers:
            if provider.name == name:
                return provider
        known = ", ".join([*(provider.name for provider in self.providers), DEFAULT])
        raise Failure(f"unknown provider '{name}': there is {known}")


def load(path: Path) -> Table:
    """Read the table. Raises Failure."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        return Table(
            providers=tuple(
                Provider(
                    name=str(entry["name"]),
                    domains=frozenset(str(domain) for domain in entry["domains"]),
                    mx_suffixes=tuple(str(suffix) for suffix in entry.get("mx_suffixes", ())),
                    budget=float(entry["budget_per_second"]),
                    connections=int(entry["connections"]),
                    share=float(entry["recipients_share"]) if "recipients_share" in entry else None,
                )
                for entry in raw["providers"]
            ),
            own=frozenset(raw["own_domains"]),
            default_connections=int(raw["default_concurrency"]),
            lifetime=seconds(raw["queue_lifetime"]),
            log=Path(raw["mail_log"]),
            textfile_directory=Path(raw["textfile_directory"]),
        )
    except FileNotFoundError as error:
        raise Failure(f"{path} is not there: the role postfix_mailing writes it") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failure(f"{path} is damaged: {error}") from error


def domain_of(text: str) -> str:
    """The domain of an address, or the domain itself, in lower case; nothing if it is none."""
    domain = text.strip().strip("<>").rpartition("@")[2].lower().rstrip(".")
    return domain if DOMAIN.fullmatch(domain) else ""


def paces() -> dict[str, float]:
    """{provider: deliveries a second that are allowed now}; empty if postfix-pace cannot say."""
    try:
        said = json.loads(postfix.output("postfix-pace", "status", "--json"))
        return {name: float(entry["pace_per_second"]) for name, entry in said.items()}
    except (Failure, ValueError, TypeError, KeyError):
        return {}
