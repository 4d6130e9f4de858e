"""CiviMail's addresses: what they say, and how to write one.

Two generations are in the world's mailboxes and in old logs:

  today  <localpart><verb>.<job>.<queue>.<hash>@<domain>      civicrm+b.2936.7009506.26d7b951968ebe4b@crm.example.org
         verbs b bounce, u unsubscribe, o opt out, e resubscribe, r reply, c confirm, and s subscribe, which
         CiviCRM no longer takes. The dot is a setting of CiviCRM. The hash has 16 hex digits up to
         CiviCRM 5.66, 16 of 0-9a-z since.
  2006   <localpart><word>.<domain id>.<job>.<queue>.<hash>@<domain>, the local part mostly empty, the words as
         WORDS below; a bounce may end in -user=example.net, the person's address; subscribe.<domain id>.<group>.

Both are parsed, only today's is written. CiviCRM compares the local part to the letter, so nothing is trimmed,
unquoted or lowered here; a domain is the same in any case (RFC 5321, 2.4), as it is for Postfix.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

LOCALPART = "civicrm+"
SEPARATOR = "."
# Ids are MySQL's integers, ten digits at most and without leading zeros: a local part stays below RFC 5321's 64.
ID_LIMIT = 10**10
# Longest address that SMTP can carry (RFC 5321, 4.5.3.1.3); one of 2006 with the person's address in it has two.
LENGTH_LIMIT = 512

HASH = re.compile(r"[0-9a-z]{16}")
ID = r"[1-9][0-9]{0,9}"


class Verb(Enum):
    """What a mail to the address asks for; the value is today's letter."""

    BOUNCE = "b"
    UNSUBSCRIBE = "u"
    OPT_OUT = "o"
    RESUBSCRIBE = "e"
    REPLY = "r"
    CONFIRM = "c"
    SUBSCRIBE = "s"


# The words of 2006.
WORDS = {
    "bounce": Verb.BOUNCE,
    "unsubscribe": Verb.UNSUBSCRIBE,
    "optOut": Verb.OPT_OUT,
    "optout": Verb.OPT_OUT,
    "resubscribe": Verb.RESUBSCRIBE,
    "reply": Verb.REPLY,
    "confirm": Verb.CONFIRM,
    "subscribe": Verb.SUBSCRIBE,
}


class Generation(Enum):
    """Which form an address had."""

    TODAY = "today"
    WORDS_2006 = "2006"


@dataclass(frozen=True)
class Address:
    """One address of the contract.

    `job` and `queue` are 0 and `hash` is empty only in a subscribe address of 2006, which names a group instead.
    `recipient` is the person's address where a bounce address of 2006 carries it.
    """

    verb: Verb
    job: int
    queue: int
    hash: str
    domain: str
    generation: Generation = Generation.TODAY
    domain_id: int | None = None
    group: int | None = None
    recipient: str | None = None

    def to(self, verb: Verb) -> Address:
        """The same person's address for another verb, in today's form."""
        return replace(self, verb=verb, generation=Generation.TODAY, domain_id=None, group=None, recipient=None)


@lru_cache(maxsize=64)
def pattern(localpart: str, separator: str) -> re.Pattern[str]:
    """The expression for both generations behind one local part; the domain is compared apart from it."""
    local, sep = re.escape(localpart), re.escape(separator)
    words = "|".join(sorted(WORDS, key=len, reverse=True))
    return re.compile(
        rf"{local}(?P<verb>[buoercs]){sep}(?P<job>{ID}){sep}(?P<queue>{ID}){sep}(?P<hash>[0-9a-z]{{16}})"
        rf"|(?:{local})?(?P<word>{words}){sep}(?P<domain_id>{ID}){sep}(?P<job_2006>{ID}){sep}(?P<queue_2006>{ID})"
        rf"{sep}(?P<hash_2006>[0-9a-z]{{16}})(?:{sep}?-(?P<user>[!-<>-?A-~]+)=(?P<host>[A-Za-z0-9.-]+))?"
        rf"|(?:{local})?subscribe{sep}(?P<domain_id_s>{ID}){sep}(?P<group>{ID})",
        re.ASCII,
    )


def parse(
    address: str | bytes, *, localpart: str = LOCALPART, separator: str = SEPARATOR, domains: Collection[str]
) -> Address | None:
    """What `address` says, or None for anything that is not exactly an address of the contract.

    `domains` are the site's mail domains in lower case. Never raises, whatever is in the string.
    """
    if isinstance(address, bytes):
        try:
            address = address.decode("ascii")
        except UnicodeDecodeError:
            return None
    if not isinstance(address, str) or len(address) > LENGTH_LIMIT or not address.isascii():
        return None
    local, at, domain = address.rpartition("@")
    domain = domain.lower()
    if not at or domain not in domains:
        return None
    found = pattern(localpart, separator).fullmatch(local)
    return _address(found, domain) if found else None


def _address(found: re.Match[str], domain: str) -> Address | None:
    if found["verb"]:
        address = Address(Verb(found["verb"]), int(found["job"]), int(found["queue"]), found["hash"], domain)
    elif found["word"]:
        verb = WORDS[found["word"]]
        if found["user"] and verb is not Verb.BOUNCE:
            return None
        address = Address(
            verb,
            int(found["job_2006"]),
            int(found["queue_2006"]),
            found["hash_2006"],
            domain,
            Generation.WORDS_2006,
            domain_id=int(found["domain_id"]),
            recipient=f"{found['user']}@{found['host']}" if found["user"] else None,
        )
    else:
        domain_id, group = int(found["domain_id_s"]), int(found["group"])
        address = Address(Verb.SUBSCRIBE, 0, 0, "", domain, Generation.WORDS_2006, domain_id, group)
    return address


def format(address: Address, *, localpart: str = LOCALPART, separator: str = SEPARATOR) -> str:
    """The address as today's CiviCRM takes it, whatever generation it was read in.

    Raises ValueError for subscribe, which CiviCRM no longer takes, and for fields that make no address.
    """
    if address.verb is Verb.SUBSCRIBE:
        raise ValueError("CiviCRM takes no subscribe address any more")
    numbers = (address.job, address.queue)
    if not all(isinstance(number, int) and 0 < number < ID_LIMIT for number in numbers):
        raise ValueError(f"job and queue must be from 1 to {ID_LIMIT - 1}: {numbers}")
    if not HASH.fullmatch(address.hash):
        raise ValueError("the hash must be 16 digits or lower-case letters")
    parts = (address.verb.value, *map(str, numbers), address.hash)
    return f"{localpart}{separator.join(parts)}@{address.domain}"


# An address of today behind any local part: what stands before the verb is another at each site.
ANY_SITE = re.compile(
    r"(?P<local>.*?)(?P<verb>[buoercs])\.(?P<job>\d+)\.(?P<queue>\d+)\.(?P<hash>[0-9a-z]{16})@(?P<domain>[^@\s]+)"
)


class Verp(NamedTuple):
    """`job` is the mailing's job, `bounce` the envelope sender of the person's copy."""

    job: int
    bounce: str


def parse_any(address: str) -> Verp | None:
    """Return the mailing's job and the envelope sender in an address of any site, or None for any other address."""
    form = ANY_SITE.fullmatch(address)
    if not form or parse(address, localpart=form["local"], domains=(form["domain"].lower(),)) is None:
        return None
    bounce = f"{form['local']}b.{form['job']}.{form['queue']}.{form['hash']}@{form['domain']}"
    return Verp(int(form["job"]), bounce)
