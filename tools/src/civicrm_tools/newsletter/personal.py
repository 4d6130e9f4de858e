"""Recognise what belongs to one reader, in a text or an address, and refuse it.

CiviMail's addresses in both generations, hashes, tokens, and query parameters that name a contact or a mailing's queue
entry. What is not sure is refused: a human looks at it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

# Names of query parameters that tell one reader from another, and of those that only count clicks.
PERSONAL = (
    "checksum|cid|contact|contact_id|cs|email|h|hash|id_contact|jid|key|mail|mid|qid|recipient|sid|subscriber|token|uid"
)
TRACKING = re.compile(r"(?:utm|mtm|pk|mc|hsa)_\w+|fbclid|gclid|dclid|msclkid|igshid|mkt_tok|_hs\w+", re.IGNORECASE)

IDENTIFIER = r"[0-9]{1,10}"
SEPARATOR = r"[^0-9A-Za-z\s@]{1,3}"
WORDS = "bounce|unsubscribe|optout|resubscribe|reply|confirm"
# What no published text may hold, besides hashes. CiviMail's addresses in both generations, whatever stands before the
# verb: wider than what CiviCRM accepts, as an address in other letters still names the reader.
FORBIDDEN = {
    "a token in braces": re.compile(r"\{(?:[^{}\w]|[\d_])*+[^\W\d_][^{}]*+\}"),
    "an address of CiviMail": re.compile(
        rf"[buoercs]{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}[0-9a-z]{{16}}"
        rf"|(?:{WORDS}){SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}{SEPARATOR}[0-9a-z]{{16}}"
        rf"|subscribe{SEPARATOR}{IDENTIFIER}{SEPARATOR}{IDENTIFIER}",
        re.IGNORECASE,
    ),
    "a parameter that names a reader": re.compile(rf"[?&;#](?:{PERSONAL})(?:\[[^]]*\])?=", re.IGNORECASE),
}

REASONS = 10  # of one newsletter, so that a line stays a line
HASH_CHARACTERS = 16  # CiviMail's; checksums and keys are longer
# Letters and digits of one case; an onion service's name is no hash.
RUN = re.compile(r"(?<![0-9a-z])(?![a-z2-7]{56}\.onion\b)[0-9a-z]{16,}|(?<![0-9A-Z])[0-9A-Z]{16,}")
IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[0-9A-Z]{11,30}")  # ISO 13616
# How much more often a letter stands in words of English, German, French, Spanish and Italian than in random letters:
# the logarithm to base 2, in tenths, from a to z.
WEIGHTS = (10, -14, -4, 2, 20, -14, -9, -4, 10, -33, -17, 2, -4, 11, 6, -6, -30, 9, 9, 9, 2, -14, -17, -37, -23, -20)
WEIGHT = dict(zip(string.ascii_lowercase, WEIGHTS, strict=True))


class Refused(Exception):
    """Why one newsletter is not published."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


def is_printable(text: str) -> bool:
    """Whether nothing in a text controls a terminal or turns its direction.

    What joins or parts letters and emoji is part of writing; what Python does not know yet may be a new emoji.
    """
    return not any(unicodedata.category(c) in ("Cc", "Cs") or c in "\u202d\u202e" for c in text)


def is_hash(run: str) -> bool:
    """Whether letters and digits without a gap may be a hash, and are no words with a number and no bank account.

    Of 1,000 random hashes of CiviMail one passes for words, and 5 have no digit.
    """
    parts = re.findall(r"[a-z]+|[0-9]+", run.lower())
    letters = "".join(part for part in parts if not part.isdigit())
    if not letters or letters == run.lower():
        return False
    if IBAN.fullmatch(run) and int("".join(str(int(c, 36)) for c in run[4:] + run[:4])) % 97 == 1:
        return False
    if len(parts) > (2 if len(run) == HASH_CHARACTERS else 3) or set(letters) <= set("abcdef"):
        return True
    return sum(WEIGHT[letter] for letter in letters) <= -40


def decoded(text: str) -> str:
    """Return `text` without percent encoding, however often it was applied; raises Refused past any sense."""
    for _ in range(8):
        plain = unquote(text)
        if plain == text:
            return text
        text = plain
    raise Refused("percent encoding upon percent encoding")


def forbidden(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield (what it is, where it is) for all that no published text may hold and this one does; may raise Refused."""
    plain = decoded(text)
    # What a reader does not see may not hide it: soft hyphens, joiners, other forms of a letter.
    visible = "".join(
        c for c in unicodedata.normalize("NFKC", plain) if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace()
    )
    for form in dict.fromkeys((text, plain, visible)):
        for name, pattern in FORBIDDEN.items():
            yield from ((name, found) for found in pattern.finditer(form))
        yield from (("a hash", found) for found in RUN.finditer(form) if is_hash(found[0]))


def clean_link(url: str | None, hosts: list[str] | None = None) -> str | None:
    """Return an address that is the same for every reader, or None where there is none.

    hosts: the only ones allowed, and no query with them; None: any, without parameters that count clicks. What belongs
    to the CRM is none: tracked links, forms and addresses with a checksum lead there.
    """
    url = (url or "").strip()
    if not is_printable(url) or re.search(r"\s", url) or "\\" in url:
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
    if any(forbidden(url)) or "civicrm" in plain.lower():
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


def judge(places: dict[str, str]) -> None:
    """Raise Refused for what stands in none of the texts of a page; places: {what the text is: the text}."""
    reasons: dict[str, str] = {}  # by word; what is part of another one, such as an address's hash, needs none
    for place, text in places.items():
        for name, found in forbidden(text):
            if not any(found[0] in known for known in reasons):
                reasons[found[0]] = f"{name}: {shown(found[0])} in {place}{before(found)}"
            if len(reasons) == REASONS:
                raise Refused(*reasons.values())
    if reasons:
        raise Refused(*reasons.values())


def shown(word: str) -> str:
    """Return a refused word as a person finds it again: a token or a parameter whole, of others only the beginning."""
    whole = re.fullmatch(r"\{[\w\s.$]{1,50}\}|\W\w{1,20}=", word)
    return f"{' '.join(word.split()) if whole else word[:4] + '...'} ({len(word)} characters)"


def before(found: re.Match[str]) -> str:
    """Return the last plain words before a refused one, as where it stands; no hash or number is among them."""
    text = found.string[max(0, found.start() - 200) : found.start()]
    words = re.findall(r"(?<!\S)[^\W\d_]{1,15}(?=[\s,.;]|:\s|$)", text)[-3:]
    return f' after "{" ".join(words)}"' if words else ""
