"""Recognise what belongs to one reader, in a text or an address, and refuse it.

CiviMail's addresses in both generations, hashes, tokens, and query parameters that name a contact or a mailing's queue
entry. What is not sure is refused: a human looks at it.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

# Names of query parameters that tell one reader from another, and of those that only count clicks.
PERSONAL = (
    "checksum|cid|contact|contact_id|cs|email|h|hash|id_contact|jid|key|mail|mid|qid|recipient|sid|subscriber|token|uid"
)
TRACKING = re.compile(r"(?:utm|mtm|pk|mc|hsa)_\w+|fbclid|gclid|dclid|msclkid|igshid|mkt_tok|_hs\w+", re.IGNORECASE)

# Of ASCII; most of a newsletter is.
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")

IDENTIFIER = r"[0-9]{1,10}"
SEPARATOR = r"[^0-9A-Za-z\s@]{1,3}"
WORDS = "bounce|unsubscribe|optout|resubscribe|reply|confirm"
# What no published text may hold. CiviMail's addresses in both generations, whatever stands before the verb: wider than
# what CiviCRM accepts, as an address in other letters still names the reader.
FORBIDDEN = {
    "a token in braces": re.compile(r"\{[^{}]*\}"),
    "an address of CiviMail": re.compile(
        rf"[buoercs]{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}[0-9a-z]{{16}}"
        rf"|(?:{WORDS}){SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}[0-9a-z]{{16}}"
        rf"|subscribe{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}",
        re.IGNORECASE,
    ),
    # 16 or more letters and digits of one case, with both in them; an onion service's name is none.
    "a hash": re.compile(
        r"(?<![0-9a-z])(?![a-z2-7]{56}\.onion\b)(?=[a-z]*[0-9])(?=[0-9]*[a-z])[0-9a-z]{16}"
        r"|(?<![0-9A-Z])(?=[A-Z]*[0-9])(?=[0-9]*[A-Z])[0-9A-Z]{16}"
    ),
    "a parameter that names a reader": re.compile(rf"[?&;#](?:{PERSONAL})(?:\[[^]]*\])?=", re.IGNORECASE),
}


class Refused(Exception):
    """Why one newsletter is not published."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


def decoded(text: str) -> str:
    """Return `text` without percent encoding, however often it was applied; raises Refused past any sense."""
    for _ in range(8):
        plain = unquote(text)
        if plain == text:
            return text
        text = plain
    raise Refused("percent encoding upon percent encoding")


def forbidden(text: str) -> list[str]:
    """Return the names of what no published text may hold and this one does."""
    try:
        plain = decoded(text)
    except Refused as refusal:
        return refusal.reasons
    forms = dict.fromkeys((text, plain, visible(plain)))
    return [name for name, pattern in FORBIDDEN.items() if any(pattern.search(form) for form in forms)]


def visible(text: str) -> str:
    """Return what a reader sees of a text: nothing is hidden by soft hyphens, joiners or other forms of a letter."""
    if text.isascii() and (text.isprintable() or not INVISIBLE.search(text)):
        return text
    whole = unicodedata.normalize("NFKC", text)
    return "".join(c for c in whole if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())


def clean_link(url: str | None, hosts: list[str] | None = None) -> str | None:
    """Return an address that is the same for every reader, or None where there is none.

    hosts: the only ones allowed, and no query with them; None: any, without parameters that count clicks. What belongs
    to the CRM is none: tracked links, forms and addresses with a checksum lead there.
    """
    url = (url or "").strip()
    if not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
        plain = decoded(url)
    except (ValueError, Refused):
        return None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or port == 0:
        return None
    if forbidden(url) or "civicrm" in plain.lower():
        return None
    if hosts is not None:
        return (
            url
            if parts.scheme == "https" and parts.netloc in hosts and not parts.query and not parts.fragment
            else None
        )
    query = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in query if not TRACKING.fullmatch(name)]
    return url if kept == query else urlunsplit(parts._replace(query=urlencode(kept)))


def judge(*texts: str) -> None:
    """Raise Refused for what stands in none of the texts of a page."""
    reasons = dict.fromkeys(reason for text in texts for reason in forbidden(text))
    if reasons:
        raise Refused(*reasons)
