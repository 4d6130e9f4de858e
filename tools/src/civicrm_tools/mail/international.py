"""Addresses that are not ASCII: a domain has an ASCII form, its A-labels; a local part has none.

Internationalized domains are those of IDNA 2008 (RFC 5890) after the mapping of UTS #46: `straße.example` and
`strasse.example` are two domains. Python's own codec knows IDNA 2003, where they were one.
"""

from __future__ import annotations

import re

from civicrm_tools.core.command import Failure

# In letters. No name in the DNS has more than 253 in ASCII.
LONGEST = 1000
# UTS #46, 2.3: what else separates labels.
DOT = re.compile("[.\u3002\uff0e\uff61]")
# The domain behind the last @, also in a pattern of an operator or in an SMTP command.
DOMAIN = re.compile(r"@([^@<>\s]+)(?=[^@]*$)")


def a_labels(domain: str) -> str:
    """Return a domain in ASCII, or as it is where it has no such form. Raises Failure if the library is missing."""
    if domain.isascii() or len(domain) > LONGEST:
        return domain
    try:
        import idna
    except ImportError as error:
        raise Failure("python3-idna is not installed: apt install python3-idna") from error
    try:
        return ".".join(
            label if label.isascii() else idna.encode(label, uts46=True).decode("ascii") for label in DOT.split(domain)
        )
    except UnicodeError:
        return domain


def in_ascii(address: str) -> str:
    """Return an address with its domain in ASCII where it has such a form; the local part stays as it is."""
    return address if address.isascii() else DOMAIN.sub(lambda found: f"@{a_labels(found[1])}", address)
