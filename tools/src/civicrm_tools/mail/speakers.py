"""Tell for whom who submits a message may speak: what is signed, and what is refused.

The signer signs for the address in X-Signed-As (`SenderHeaders` of opendkim.conf(5)), which receipt-milter writes into
each message by this module, over whatever it brings along. From is read strictly here: an address that another parser
might find in it is signed for nobody. smtpd(8) hands over the envelope's sender as the client typed it, and takes
quotes, routes and a trailing dot for the plain address: what is none here may be another's there, and is refused.

Who submits is a site, by its uid or login; root, who speaks for all; another user who may submit, for this host; a
relay client, for its listed addresses; this host's Postfix, for the host. Mail of a site that reaches nobody is neither
signed nor refused: the application notices nothing (docs/mail-policy.md).
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import files

CONFIGURATION = Path("/etc/postfix/speakers.json")
# In no signing table. By the second the switch of mailings knows what is diverted (submitted.pcre).
NOBODY, NOBODY_KNOWS = "nobody@unsigned.invalid", "nobody@diverted.invalid"
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
DOMAIN = r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
BARE = re.compile(rf"\s*({ATOM})@({DOMAIN})\s*")
ANGLE = re.compile(rf"[^<>@]*<({ATOM})@({DOMAIN})>\s*")
# What may stand between the letters of a domain, for who reads on.
BETWEEN = re.compile(r'[\s"\\]+')

Address = tuple[str, str]


@dataclass(frozen=True)
class Submitter:
    """kind: uid, login, relay (SMTP without a login), host (Postfix itself) or hidden (diverted: nobody may know)."""

    kind: str
    name: str = ""


ROOT = Submitter("uid", "0")


@dataclass(frozen=True)
class Judgement:
    """signed_as: the address to sign for, or NOBODY; refused: why the message is, or empty; silent: whether a bounce
    would reach somebody else."""

    signed_as: str = NOBODY
    refused: str = ""
    silent: bool = False


@dataclass(frozen=True)
class Speakers:
    """hostname: this host; users: uid -> site; domains: site -> domains that it may use;
    silent: names of the sites that reach nobody; relay: addresses of relay clients."""

    hostname: str
    users: dict[str, str]
    domains: dict[str, list[str]]
    silent: list[str]
    relay: list[str]

    def judge(self, submitter: Submitter, sender: str, froms: Iterable[bytes]) -> Judgement:
        """sender: the envelope's, without brackets; froms: the values of all From headers."""
        site = self.users.get(submitter.name) if submitter.kind == "uid" else submitter.name
        if submitter.kind == "hidden":
            return Judgement(NOBODY_KNOWS)
        if submitter.kind in ("uid", "login") and site in self.silent:
            return Judgement()
        froms = list(froms)
        found = [address(value) for value in froms]
        signed_as = NOBODY
        if len(found) == 1 and found[0] and self.may(submitter, found[0]):
            signed_as = "@".join(found[0])
        # Strangers on loopback and relay clients are told by Postfix whom they may write to, and as whom.
        if submitter.kind in ("uid", "login"):
            who = f"{site or submitter.name} may not send as"
            typed = sender.encode(errors="replace")
            for one, silent in ((envelope(typed), True), *((f, False) for f in found)):
                if one and one[1] in self.ours and not self.may(submitter, one):
                    return Judgement(refused=f"{who} {'@'.join(one)}", silent=silent)
            # Root speaks for all, however it spells them.
            if submitter != ROOT and sender and not envelope(typed):
                return Judgement(refused=f"{who} {sender}, which is not plainly an address", silent=True)
            for value in froms:
                if not address(value) and (domain := self.named(submitter, value)):
                    return Judgement(refused=f"{who} somebody at {domain}, whom From names and not plainly")
        return Judgement(signed_as)

    @property
    def ours(self) -> set[str]:
        """Domains that somebody here speaks for."""
        relayed = {one.rpartition("@")[2] for one in self.relay}
        return {self.hostname, *relayed, *(domain for names in self.domains.values() for domain in names)}

    def may(self, submitter: Submitter, wanted: Address) -> bool:
        local, domain = wanted
        if submitter.kind == "relay":
            return f"{local}@{domain}".lower() in self.relay
        if submitter.kind == "host":
            return domain == self.hostname
        if submitter == ROOT:
            return True
        site = self.users.get(submitter.name) if submitter.kind == "uid" else submitter.name
        if site and domain in self.domains.get(site, []):
            return True
        # cron and mail() write in the name of the site's user; a service of the host as anybody's.
        return domain == self.hostname and submitter.kind == "uid" and (not site or local == _user(submitter.name))

    def named(self, submitter: Submitter, value: bytes) -> str:
        """A domain of ours that stands in a header and that the submitter has not for its own, or empty."""
        if submitter == ROOT:
            return ""
        site = self.users.get(submitter.name) if submitter.kind == "uid" else submitter.name
        own = self.domains.get(site, []) if site else [self.hostname]
        text = value.decode("latin-1").lower()
        readings = {text, _plain(text), BETWEEN.sub("", text), BETWEEN.sub("", _plain(text, quotes=True))}
        for domain in sorted(self.ours.difference(own)):
            alone = re.compile(rf"(?<![a-z0-9.-]){re.escape(domain)}(?![a-z0-9-]|[.][a-z0-9])")
            if any(alone.search(reading) for reading in readings):
                return domain
        return ""


def envelope(value: bytes) -> Address | None:
    """(local part, domain in lower case) of the envelope's sender, which has neither comments nor a name."""
    found = BARE.fullmatch(value.decode("latin-1"))
    return (found[1], found[2].lower()) if found else None


def address(value: bytes) -> Address | None:
    """(local part, domain in lower case) of a From header; None if it is not plainly one."""
    text = _plain(value.decode("latin-1"))
    found = BARE.fullmatch(text) or ANGLE.fullmatch(text)
    return (found[1], found[2].lower()) if found else None


def _plain(text: str, quotes: bool = False) -> str:
    """A structured header without its comments (RFC 5322, 3.2.2) and, unless `quotes`, quoted strings, in one pass."""
    kept: list[str] = []
    depth, quoted, escaped = 0, False, False
    for letter in text:
        if escaped:
            escaped = False
            if quotes and quoted:
                kept.append(letter)
        elif letter == "\\" and (depth or quoted):
            escaped = True
        elif quoted:
            quoted = letter != '"'
            if quotes:
                kept.append(letter)
        elif letter == "(":
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
        elif depth:
            continue
        elif letter == '"':
            quoted = True
        else:
            kept.append(letter)
    return "".join(kept)


def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except KeyError:
        return ""


def load(path: Path = CONFIGURATION) -> Speakers:
    """Raises Failure."""
    return files.read_json(path, lambda raw: Speakers(**raw))
