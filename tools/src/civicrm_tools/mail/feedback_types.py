"""What each kind of feedback report means for us: whether it is acted on, shown to a person, or only counted."""

from __future__ import annotations

import re
from typing import NamedTuple

# Opt the person out without asking anybody; show it to a person, who decides; count it.
ACT, SHOW, COUNT = "act", "show", "count"


class Meaning(NamedTuple):
    """`verdict` is ACT, SHOW or COUNT. `complaint`: counts in the rate by which providers judge a sender."""

    verdict: str
    complaint: bool
    words: str


# Registered with IANA: https://www.iana.org/assignments/marf-parameters (2026-11). Drafts: those before RFC 5965,
# draft-shafranovich-feedback-report. The others are what providers and programs write.
TYPES = {
    "abuse": Meaning(ACT, True, "the person pressed spam"),  # RFC 5965, 7.3
    "fraud": Meaning(SHOW, False, "taken for phishing"),  # RFC 5965, 7.3
    "virus": Meaning(SHOW, False, "a virus was found"),  # RFC 5965, 7.3
    "other": Meaning(SHOW, False, "none of the registered types"),  # RFC 5965, 7.3
    "not-spam": Meaning(COUNT, False, "praise: taken out of the junk folder"),  # RFC 6430
    "auth-failure": Meaning(COUNT, False, "SPF, DKIM or DMARC failed, somebody else's forgery included"),  # RFC 6591
    "opt-out": Meaning(ACT, False, "the person wants no more mail"),  # drafts
    "opt-out-list": Meaning(ACT, False, "the person wants no more mail of this list"),  # drafts
    "miscategorized": Meaning(COUNT, False, "in the wrong folder"),  # drafts
    "dkim": Meaning(COUNT, False, "a signature failed"),
    "spf": Meaning(COUNT, False, "SPF failed"),
    "dmarc": Meaning(COUNT, False, "DMARC failed"),
    "xarf": Meaning(SHOW, False, "about a server: a scan, a break-in"),  # X-ARF, http://www.xarf.org
    # Abuse in other words.
    "complaint": Meaning(ACT, True, "the person pressed spam"),
    "spam": Meaning(ACT, True, "the person pressed spam"),
    "junk": Meaning(ACT, True, "the person pressed spam"),
    "unsolicited": Meaning(ACT, True, "the person pressed spam"),
    # Opt-out in other words.
    "optout": Meaning(ACT, False, "the person wants no more mail"),
    "unsubscribe": Meaning(ACT, False, "the person wants no more mail"),
}
UNKNOWN = Meaning(SHOW, False, "a type that nobody registered")  # RFC 5965, 3.3: as "other"
CAUTION = (COUNT, SHOW, ACT)

# In quotation, in HTML's or a mail program's bold, with a comment before it (RFC 5322, 3.2.2) or folded.
FIELD = re.compile(
    r"^[ \t>|*]{0,40}Feedback-Type\*?[ \t]*:(?:\s|\([^()\n]{0,200}\)|[\"*])*([A-Za-z][A-Za-z_-]{0,40})",
    re.IGNORECASE | re.MULTILINE,
)


def named(text: str) -> set[str]:
    """The types that a text names at the beginning of a line, in lower case."""
    if "feedback-type" not in text.lower():
        return set()
    return {found.lower().replace("_", "-") for found in FIELD.findall(text)}


def most_cautious(types: set[str]) -> str:
    """Of several types the one that forbids most; empty for none."""
    return min(types, key=lambda name: (CAUTION.index(meaning(name).verdict), name), default="")


def meaning(name: str) -> Meaning:
    return TYPES.get(name, UNKNOWN)
