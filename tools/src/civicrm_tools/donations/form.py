"""Read a job: exactly the fields and texts of a donation, whoever pushed it (fields.json).

Whoever has the password of a queue's writer can push anything. What comes out of here is built anew, field by field,
of texts that were checked: no key and no structure in it is a stranger's.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("fields.json")
MAX_BYTES = 65536
REASON_MAX = 500
# What is not the donor's: set by the donation API.
JOB = {
    "id": re.compile(r"[A-Za-z0-9_-]{1,64}"),
    "site": re.compile(r"[a-z][a-z0-9-]{0,30}"),
    "campaigns_version": re.compile(r"[A-Za-z0-9]{1,64}"),
}
GROUPS = {"contact": True, "contact.address": False}  # objects in a donation, and whether they must be there


class NotAJob(Exception):
    """The text is no donation. The message names the field and the rule, and repeats nothing of it."""


@cache
def table() -> dict[str, Any]:
    return dict(json.loads(TABLE.read_text()))


def characters(name: str) -> str:
    """Return one of the table's lists of characters as the inside of a class of a regular expression."""
    pairs = [pair.partition("-") for pair in table()[name]]
    return "".join(f"\\U{int(a, 16):08x}-\\U{int(b or a, 16):08x}" for a, _, b in pairs)


@cache
def unseen() -> re.Pattern[str]:
    """What no text may hold: controls, what turns the writing direction, tags, and what nobody sees."""
    joiner = f"(?<![{characters('joined')}])[{characters('joiners')}]"
    return re.compile(f"[\\ud800-\\udfff{characters('forbidden')}{characters('invisible')}]|{joiner}")


def visible(text: str) -> str:
    """Return a stranger's text for a terminal or a log: in one line, and what nobody sees as its code point."""
    return unseen().sub(lambda found: f"\\u{ord(found[0]):04x}" if found[0] not in "<>" else found[0], text)


def read(text: str, queue: str) -> dict[str, Any]:
    """Return the job in a text of the queue's list. Raises NotAJob."""
    if len(text) > MAX_BYTES:
        raise NotAJob(f"it is longer than {MAX_BYTES} characters")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAJob("it is not JSON") from None
    fields = ("id", "site", "received_at", "test", "campaigns_version", "donation")
    _check_names(given, "", fields, ("tries", "reason"))
    job: dict[str, Any] = {name: _text(given[name], name, pattern) for name, pattern in JOB.items()}
    if job["site"] != queue:
        raise NotAJob(f"site: it is of another site than {queue}")
    job["received_at"] = _whole(given["received_at"], "received_at", 2**33)
    if not isinstance(given["test"], bool):
        raise NotAJob("test: it must be true or false")
    job["test"] = given["test"]
    if "tries" in given:
        job["tries"] = _whole(given["tries"], "tries", 1000)
    if "reason" in given:
        if not isinstance(given["reason"], str):
            raise NotAJob("reason: it must be a text")
        job["reason"] = given["reason"][:REASON_MAX]
    job["donation"] = _donation(given["donation"])
    return job


def _donation(given: Any) -> dict[str, Any]:
    donation = _group(given, "donation", "")
    contact = donation["contact"]
    if not (contact.get("first_name") or contact.get("last_name")):
        raise NotAJob("contact.last_name: one of both names is needed")
    return donation


def _group(given: Any, name: str, prefix: str) -> dict[str, Any]:
    """Read the fields of an object, and those of the objects in it."""
    rules = {key[len(prefix) :]: rule for key, rule in table()["fields"].items() if key.startswith(prefix)}
    inner = {key[len(prefix) :]: must for key, must in GROUPS.items() if key.startswith(prefix) and key != prefix[:-1]}
    plain = {key: rule for key, rule in rules.items() if "." not in key}
    groups = {key: must for key, must in inner.items() if "." not in key}
    required = [key for key, rule in plain.items() if rule["required"]] + [key for key, must in groups.items() if must]
    _check_names(given, prefix or f"{name}.", required, [*plain, *groups])
    read_: dict[str, Any] = {key: _value(given[key], prefix + key, rule) for key, rule in plain.items() if key in given}
    for key in groups:
        if key in given:
            read_[key] = _group(given[key], prefix + key, f"{prefix}{key}.")
    return read_


def _value(value: Any, name: str, rule: dict[str, Any]) -> str:
    if rule["kind"] == "match":
        return _text(value, name, re.compile(rule["limit"]))
    if not isinstance(value, str):
        raise NotAJob(f"{name}: it must be a text")
    if unseen().search(value):
        raise NotAJob(f"{name}: it holds a character that is forbidden or that nobody sees")
    if rule["kind"] == "email":
        return _text(value, name, re.compile(rule["limit"]))
    # What was left empty in the form is an empty text.
    if len(value) > rule["limit"] or (value and not value.strip()) or (not value and rule["required"]):
        raise NotAJob(f"{name}: it must be 1 to {rule['limit']} characters")
    return value


def _check_names(given: Any, prefix: str, required: Any, optional: Any) -> None:
    if not isinstance(given, dict):
        raise NotAJob(f"{prefix.rstrip('.') or 'it'}: it must be an object")
    for name in required:
        if name not in given:
            raise NotAJob(f"{prefix}{name}: it is missing")
    for name in given:
        if name not in required and name not in optional:
            shown = name if re.fullmatch(r"[A-Za-z0-9_]{1,40}", name) else "?"
            raise NotAJob(f"{prefix}{shown}: it is not a field of a donation")


def _text(value: Any, name: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise NotAJob(f"{name}: it must be a text of the form {pattern.pattern}")
    return value


def _whole(value: Any, name: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise NotAJob(f"{name}: it must be a whole number below {limit}")
    return value
