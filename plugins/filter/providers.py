"""The table of mail providers: find what is wrong with it before Postfix is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

Provider = dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9]{1,19}")
DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# A provider that answers in half a second takes two messages a second over each connection.
ANSWER_SECONDS = 0.5
# Postfix waits 100 s for a delivery's turn, and all connections may wait at once.
LONGEST_WAIT_SECONDS = 80


def provider_problems(
    providers: list[Provider],
    reserved: list[str],
    own_domains: list[str],
    queue_lifetime: str,
    largest_mailing: int,
    texts: list[str],
) -> list[str]:
    """Return one sentence for each thing that is wrong with the table; empty when all is well.

    Each sentence names the provider and says what to do. The arguments are the role's variables; `reserved` are the
    names of Postfix's own services.
    """
    problems = [f"postfix_mailing_back_off_texts: {problem}" for problem in _bad_patterns(texts)]
    written = re.fullmatch(r"([0-9]+)([smhdw])", queue_lifetime)
    if not written:
        return [f"postfix_mailing_queue_lifetime: '{queue_lifetime}' must be a time such as 5d"]
    lifetime = int(written[1]) * UNITS[written[2]]
    for provider in providers:
        named = f"postfix_mailing_providers[{provider['name']}]: "
        problems += [named + problem for problem in _entry_problems(provider, reserved)]
        problems += [named + problem for problem in _time_problems(provider, lifetime, largest_mailing)]
    problems += [f"postfix_mailing_providers: {problem}" for problem in _table_problems(providers, own_domains)]
    return problems


def _entry_problems(provider: Provider, reserved: list[str]) -> Iterator[str]:
    """What is wrong with one entry, whatever the others say."""
    name, connections = str(provider["name"]), _number(provider["connections"])
    if not NAME.fullmatch(name):
        yield "the name must be 2 to 20 lower-case letters and digits, a letter first"
    if name in reserved:
        yield f"'{name}' is a service of Postfix itself; take another name"
    if connections < 1 or not connections.is_integer():
        yield f"connections {provider['connections']} must be a whole number of at least 1"
    elif (budget := _number(provider["budget_per_second"])) <= 0:
        yield f"budget_per_second {provider['budget_per_second']} must be above 0; to stop it use postfix-queue hold"
    elif budget * ANSWER_SECONDS > connections:
        yield (
            f"budget_per_second {budget:g} needs {math.ceil(budget * ANSWER_SECONDS)} connections where an answer "
            f"takes half a second, and {connections:g} are allowed"
        )
    elif budget * LONGEST_WAIT_SECONDS < connections + 1:
        yield (
            f"with {connections:g} connections budget_per_second must be at least "
            f"{(connections + 1) / LONGEST_WAIT_SECONDS:g}: lower connections or raise the budget"
        )
    if _number(provider.get("messages_per_connection", 0)) < 0:
        yield "messages_per_connection must not be negative; 0 is no limit"
    if not 0 <= _number(provider.get("recipients_share", 1)) <= 1:
        yield f"recipients_share {provider['recipients_share']} must lie between 0 and 1"
    if not provider["domains"]:
        yield "name at least one domain"
    for key in ("domains", "mx_suffixes"):
        for domain in provider.get(key, []):
            if not DOMAIN.fullmatch(str(domain)):
                yield f"'{domain}' in {key} must be a lower-case domain without a dot at its ends"
    yield from (f"back_off: {problem}" for problem in _bad_patterns(provider.get("back_off", [])))


def _time_problems(provider: Provider, lifetime: int, largest_mailing: int) -> Iterator[str]:
    """Whether the provider's share of the largest mailing leaves before Postfix gives it up."""
    recipients = largest_mailing * _number(provider.get("recipients_share", 1))
    budget = _number(provider["budget_per_second"])
    if budget > 0 and recipients / budget > lifetime:
        yield (
            f"{recipients:,.0f} recipients take {recipients / budget / 3600:.0f} h at {budget:g} a second, and after "
            f"{lifetime / 3600:.0f} h they bounce (postfix_mailing_queue_lifetime): raise the budget or send less"
        )


def _table_problems(providers: list[Provider], own_domains: list[str]) -> Iterator[str]:
    """Where entries contradict each other, or a site."""
    names = [provider["name"] for provider in providers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"name '{name}' stands {names.count(name)} times; each provider needs its own"
    owners: dict[str, list[str]] = {}
    for provider in providers:
        for domain in provider["domains"]:
            owners.setdefault(str(domain), []).append(provider["name"])
    for domain, found in sorted(owners.items()):
        if len(found) > 1:
            yield f"domain '{domain}' stands at {' and '.join(found)}; leave it to one"
        if domain in own_domains:
            yield f"domain '{domain}' of {found[0]} is this host's own; remove it"
    suffixes = [(str(suffix), provider["name"]) for provider in providers for suffix in provider.get("mx_suffixes", [])]
    for number, (suffix, name) in enumerate(suffixes):
        for other, owner in suffixes[:number]:
            if f".{suffix}".endswith(f".{other}") or f".{other}".endswith(f".{suffix}"):
                yield f"mx_suffixes '{other}' of {owner} and '{suffix}' of {name} overlap; leave them to one"


def _bad_patterns(patterns: Iterable[Any]) -> Iterator[str]:
    for pattern in patterns:
        try:
            if re.compile(str(pattern)).search(""):
                yield f"'{pattern}' matches every text"
            # Several are tried as one: a flag for the whole pattern may stand only at its beginning.
            re.compile(f"x|(?:{pattern})")
        except re.error as error:
            yield f"'{pattern}' is no regular expression: {error}"


def _number(value: Any) -> float:
    """The value as a number; what is none counts as not a number, which no comparison accepts."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0


class FilterModule:
    """Expose the filter to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"provider_problems": provider_problems}
