"""Whose recipient is it: the providers' table of the role postfix_mailing, and what Postfix itself says.

The rule is that of Postfix' transport_maps, `whose`: the domain itself in the table of providers, else the domain
itself among those that a provider hosts (`hosted` learns them), else "default". A subdomain of a provider's domain is
not the provider's: the tables hold no key such as .example.com (transport(5)).

`Owners` asks the two files. `Providers` asks Postfix about an instance's queue: there a provider is what a transport's
log lines begin with, so all transports with `syslog_name=postfix-gmail` in master.cf are "gmail". (postconf(5))
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import ended, run
from civicrm_tools.mail.international import a_labels
from civicrm_tools.mail.postfix import Instance
from civicrm_tools.mail.provider_table import DEFAULT, TABLE, BackOff, Table, load

# What postfix-pace may take to say what it knows, seconds.
PATIENCE = 30
# Tables of patterns: Postfix asks them for whole addresses only.
PATTERNS = ("pcre:", "regexp:")

Lookup = Callable[[list[str], list[str]], dict[str, str]]


def tables(value: str) -> list[str]:
    """The tables in a parameter such as transport_maps, where one may hold others in braces."""
    found, depth, begin = [], 0, 0
    for position, letter in enumerate(value + ","):
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and (letter == "," or letter.isspace()):
            if word := value[begin:position].strip():
                found.append(word)
            begin = position + 1
    return found


def ask(where: Instance) -> Lookup:
    """A function (tables, keys) -> {key: value} that asks `postmap -q` for all keys at once."""

    def _ask(maps: list[str], keys: list[str]) -> dict[str, str]:
        if not maps or not keys:
            return {}
        asked = ("postmap", "-q", "-", *maps)
        done = where.run(*asked, text="".join(f"{key}\n" for key in keys), statuses=(0, 1))
        # Without a word it means that none of the keys is in a table.
        if done.returncode and done.stderr.strip():
            raise ended(asked, done.returncode, done.stderr)
        return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)

    return _ask


def transports(addresses: Collection[str], maps: list[str], lookup: Lookup) -> dict[str, str]:
    """{address: transport} for those that a table names: the address itself, its domain, a parent's, or *."""
    indexed = [table for table in maps if not table.startswith(PATTERNS)]
    found = {address: value for address, value in lookup(maps, sorted(addresses)).items() if address in addresses}
    domains = {address: normal(address) for address in addresses if address not in found}
    forms = {domain: candidates(domain) for domain in set(domains.values())}
    values = lookup(indexed, sorted({form for choice in forms.values() for form in choice}))
    for address, domain in domains.items():
        value = next((values[form] for form in forms[domain] if form in values), None)
        if value is not None:
            found[address] = value
    return {address: value.partition(":")[0] for address, value in found.items()}


def candidates(domain: str) -> list[str]:
    """The keys under which a table may name a domain, in Postfix's order."""
    labels = domain.split(".")
    return [domain, *("." + ".".join(labels[n:]) for n in range(1, len(labels))), "*"]


def names(services: str) -> dict[str, str]:
    """{transport: provider} in the text of `postconf -P`."""
    return dict(re.findall(r"^([^\s/]+)/unix/syslog_name = postfix-([\w-]+)$", services, re.M))


class Providers:
    """The providers of one instance; its configuration is read once."""

    def __init__(self, where: Instance) -> None:
        self._lookup = ask(where)
        self._maps = tables(where.parameter("transport_maps"))
        self._names = names(where.run("postconf", "-P", "*/unix/syslog_name").stdout)
        self._known: dict[str, str] = {}

    @property
    def all(self) -> list[str]:
        """Every provider with a transport of its own, and "default"."""
        return [*sorted(set(self._names.values())), DEFAULT]

    def check(self, wanted: Iterable[str]) -> None:
        """Raise Failure for a provider that does not exist: it would match nothing, without a word."""
        for name in wanted:
            if name not in self.all:
                raise Failure(f"unknown provider '{name}': there is {', '.join(self.all)}")

    def learn(self, addresses: Iterable[str]) -> None:
        """Look up many addresses at once; `of` then answers from memory."""
        new = {address for address in addresses if address not in self._known}
        chosen = transports(new, self._maps, self._lookup)
        for address in new:
            transport = chosen.get(address, "")
            self._known[address] = self._names.get(transport, transport) or DEFAULT

    def of(self, address: str) -> str:
        """The provider of one recipient."""
        if address not in self._known:
            self.learn([address])
        return self._known[address]


# By the files

HOSTED = Path("/etc/postfix/hosted_domains")
DOMAIN = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


def normal(address: str) -> str:
    """Return the domain of an address, or the domain itself, as Postfix looks it up.

    In lower case and without a final dot, as trivial-rewrite(8) makes it. An internationalized domain is known by its
    A-labels, into which Postfix turns it before the message is queued (idn.pcre).
    """
    return a_labels(address.rpartition("@")[2]).lower().removesuffix(".")


def domain_of(text: str) -> str:
    """The domain of an address, or the domain itself, as `normal` makes it; nothing if it is none."""
    domain = normal(text.strip().strip("<>"))
    return domain if DOMAIN.fullmatch(domain) else ""


def whose(address: str, table: Table, hosted: Mapping[str, str]) -> str:
    """Return the provider of an address or domain, by Postfix' rule. hosted: {domain: provider}."""
    domain = normal(address)
    name = table.by_domain.get(domain) or hosted.get(domain, "")
    # A provider that has left the table leaves its hosted domains to smtp.
    return name if name in table.names else DEFAULT


class Owners:
    """Whose recipients are on this host: the table, and the hosted domains as they were last told to Postfix.

    Without a table all are "default". Raises Failure for one that cannot be used.
    """

    def __init__(self, table: Path = TABLE, hosted: Path = HOSTED) -> None:
        self._hosted_file = hosted
        try:
            self.table = load(table)
        except files.Missing:
            self.table = Table({}, BackOff(), frozenset(), 0, 0, Path(), Path())

    @property
    def names(self) -> list[str]:
        """Every provider, and "default"."""
        return self.table.names

    @cached_property
    def _hosted(self) -> dict[str, str]:
        try:
            lines = self._hosted_file.read_text().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise files.Unreadable(f"{self._hosted_file}: cannot be read: {error.strerror}") from error
        return dict(line.split(None, 1) for line in lines if " " in line)

    def of(self, address: str) -> str:
        """The provider of a recipient or domain."""
        return whose(address, self.table, self._hosted)


def paces() -> dict[str, float]:
    """{provider: deliveries a second that are allowed now}; empty if postfix-pace cannot say."""
    try:
        said = json.loads(run("postfix-pace", "status", "--json", timeout=PATIENCE).stdout)
        return {name: float(entry["pace_per_second"]) for name, entry in said.items()}
    except (Failure, ValueError, TypeError, KeyError):
        return {}
