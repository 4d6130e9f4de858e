"""Which domains the providers host, by MX: looked up for the real recipients, kept, and told to Postfix.

What is known lies in /var/lib/mail-tools/domains.json. An answer holds for a day; when a later look-up fails, the old
answer stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure
from civicrm_tools.mail import log as maillog
from civicrm_tools.mail import postfix
from civicrm_tools.mail.postfix import Instance
from civicrm_tools.mail.provider_table import Table
from civicrm_tools.mail.providers import domain_of

STATE = Path("/var/lib/mail-tools/domains.json")
# Behind transport_maps: see the role's README.
MAP = re.compile(r"\b([a-z]+):(/[^\s,{}]*/hosted_domains)\b")

REFRESH = 86_400
RETRY = 900
LOOKUPS = 2_000
KNOWN = 50_000
LOG_BYTES = 64 * 1024 * 1024
AT_ONCE = 16
PATIENCE = 5.0


class LookupFailed(Exception):
    """The name servers gave no answer: it may be another one next time."""


# The servers of the best preference; none if the domain takes no mail. Raises LookupFailed.
Resolver = Callable[[str], list[str]]


@dataclass
class Known:
    """What is known of a domain. Times in seconds since the epoch."""

    mx: list[str] = field(default_factory=list)
    looked_up: float = 0.0
    seen: float = 0.0


@dataclass
class Domains:
    """The state: domains, and the place in the log up to which it was read."""

    domains: dict[str, Known] = field(default_factory=dict)
    inode: int = 0
    offset: int = 0

    def provider(self, domain: str, table: Table) -> tuple[str, str]:
        """(provider, mail server) of a hosted domain; both empty if it is none."""
        for server in self.domains[domain].mx if domain in self.domains else ():
            if name := table.by_server(server):
                return name, server
        return "", ""

    def hosted(self, table: Table) -> dict[str, str]:
        """{domain: provider} of all hosted domains."""
        found = {domain: self.provider(domain, table)[0] for domain in sorted(self.domains)}
        return {domain: name for domain, name in found.items() if name and is_foreign(domain, table)}


def is_foreign(domain: str, table: Table) -> bool:
    """Whether only its mail servers can tell whose domain it is."""
    return bool(domain) and domain not in table.own and domain not in table.by_domain


def load(path: Path) -> Domains:
    """Read the state; a missing one is empty. Raises Failure."""
    try:
        return files.read_json(path, _domains, "remove it, it is made anew")
    except files.Missing:
        return Domains()


def _domains(raw: dict[str, Any]) -> Domains:
    known = {domain: Known(**entry) for domain, entry in raw.pop("domains").items()}
    return Domains(domains=known, **raw)


def save(path: Path, found: Domains) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, asdict(found))


def in_log(log: Path, found: Domains) -> Iterator[str]:
    """Domains of recipients logged since the last call; `found` keeps the place.

    Of a very long log only the end counts.
    """
    for piece, place in maillog.since(log, maillog.Place(found.inode, found.offset), LOG_BYTES, newest=True):
        found.inode, found.offset = place
        for name in set(maillog.RECIPIENT_DOMAIN.findall(piece)):
            yield domain_of(name.decode("ascii", "replace"))


def in_queue(where: Instance) -> Iterator[str]:
    """Domains of all recipients that wait."""
    for message in postfix.listing(where):
        for recipient in message.recipients:
            yield domain_of(recipient.address)


def learn(found: Domains, seen: Iterable[str], table: Table, resolve: Resolver, now: float) -> tuple[int, int]:
    """Take in domains and look up those whose time has come; returns (look-ups, failed ones)."""
    from concurrent.futures import ThreadPoolExecutor  # for this alone, and dear at each start

    for domain in set(seen):
        if is_foreign(domain, table):
            found.domains.setdefault(domain, Known()).seen = now
    if len(found.domains) > KNOWN:
        latest = sorted(found.domains, key=lambda domain: found.domains[domain].seen, reverse=True)
        found.domains = {domain: found.domains[domain] for domain in latest[:KNOWN]}
    due = sorted(
        (d for d, known in found.domains.items() if known.seen == now and now - known.looked_up >= REFRESH),
        key=lambda domain: found.domains[domain].looked_up,
    )[:LOOKUPS]

    def ask(domain: str) -> list[str] | None:
        try:
            return resolve(domain)
        except LookupFailed:
            return None

    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as workers:
        for domain, servers in zip(due, workers.map(ask, due), strict=True):
            known = found.domains[domain]
            if servers is None:
                failed += 1
                known.looked_up = now - REFRESH + RETRY
            else:
                known.mx, known.looked_up = servers[:5], now
    return len(due), failed


def write_map(where: Instance, content: dict[str, str]) -> bool:
    """Replace the table by which Postfix knows hosted domains; False if it says so already. Raises Failure.

    trivial-rewrite sees within ten seconds that the table was replaced, so there is nothing to reload for new mail.
    """
    found = MAP.search(where.parameter("transport_maps"))
    if not found:
        raise Failure(f"{where.name}: transport_maps names no table called hosted_domains")
    kind, target = found[1], Path(found[2])
    text = "".join(f"{domain} {provider}\n" for domain, provider in sorted(content.items()))
    with suppress(FileNotFoundError):
        if target.read_text() == text:
            return False
    postfix.replace_table(where, kind, target, text)
    return True


def dns() -> Resolver:
    """Ask the host's own resolver. Raises Failure if the library is missing."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError as error:
        raise Failure("python3-dnspython is not installed: apt install python3-dnspython") from error
    resolver = dns.resolver.Resolver()
    resolver.lifetime = PATIENCE

    def resolve(domain: str) -> list[str]:
        try:
            answer = resolver.resolve(f"{domain}.", "MX")
        except dns.resolver.NXDOMAIN:
            return []
        except dns.resolver.NoAnswer:
            # RFC 5321: without MX the domain itself takes the mail.
            return [domain]
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise LookupFailed(str(error)) from error
        best = min(record.preference for record in answer)
        servers = [record.exchange.to_text(omit_final_dot=True) for record in answer if record.preference == best]
        # RFC 7505: a single dot says that the domain takes no mail.
        return sorted(server.lower() for server in servers if server not in (".", "", "@"))

    return resolve
