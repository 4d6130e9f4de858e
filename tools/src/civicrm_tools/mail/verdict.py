"""Say what a refusal is about: the recipient's address, us, their server, the network, or nothing at all.

This is the one reading of refusals; whoever needs it asks here. The order:

1. a provider's own code, such as OFR_506 or TSS04;
2. an enhanced status code that leaves no doubt, such as 5.1.8 or 5.7.26 (RFC 3463, RFC 5248, IANA's registry);
3. what the code and the words agree upon; words alone where the code says nothing;
4. words about us against a code about the address and the other way round, if they stand alone;
5. the code alone, then the reply code alone (RFC 5321).

A refusal of the connection, EHLO or MAIL FROM is never about the recipient, who was not named yet. The code in the
reply comes before the one in a report's Status, which relays make up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

from civicrm_tools.mail.verdict_address import ADDRESS as ADDRESS_WORDS
from civicrm_tools.mail.verdict_codes import ENHANCED, OWN, RANGES
from civicrm_tools.mail.verdict_us import OTHERS
from civicrm_tools.mail.verdict_us import US as US_WORDS

ADDRESS, US, THEIRS, NETWORK, NOBODY = "address", "us", "theirs", "network", "nobody"
# Every kind that there is; the tables use no other.
KINDS = {
    ADDRESS: ("gone", "full", "closed", "other"),
    US: ("reputation", "rate", "connections", "policy", "authentication", "ptr", "content", "size"),
    THEIRS: ("system", "protocol", "relay", "greylisting", "tls"),
    NETWORK: ("unreachable", "dns", "loop", "expired"),
    NOBODY: ("delay", "reply", "notice", "receipt"),
}
# Kinds whose words outweigh a code as general as 5.7.1.
STRONG = ("relay", "greylisting", "tls")
# Kinds that say we send too fast, or too much for what is thought of us.
SLOWER = ("rate", "connections", "reputation")

# Enough for any refusal; patterns run over no more.
LIMIT = 1500
# What weighs less than any other words.
GENERAL = 100
STATUS = re.compile(r"(?<![\d.])([45]\.\d{1,3}\.\d{1,3})(?!\.?\d)")
REPLY = re.compile(r"(?<![\d.])([245]\d\d)(?=[ \-#=]|$)")
# Addresses say nothing, whatever words are in them.
ADDRESSES = re.compile(r"<?[^\s<>@:;,]+@[^\s<>@,;:]+>?")
WORDS = re.compile(r"[^\W\d_]+|\d+")
OWN_WORDS = re.compile(r"[\w.#:-]*\w")
# What Postfix logs of a delivery, and writes into its reports (smtp(8)).
SAID = re.compile(
    r"(?:host|connect to) (?P<host>[^\s\[]+)\[[^\]]*\](?::\d+)?[: ]+"
    r"(?P<how>said|(?:server )?refused to talk to me)?:? *"
)
PHASE = re.compile(r" ?\(in reply to (?:end of )?(?P<phase>[A-Z]+(?: FROM| TO)?)[^)]*\)\s*$")
BEFORE_RECIPIENT = ("CONNECT", "EHLO", "HELO", "MAIL", "MAIL FROM")
# RFC 5321, 4.2.2 and RFC 7504: of a reply code that nothing else explains.
REPLIES = {
    "421": (THEIRS, "system"), "521": (ADDRESS, "gone"), "550": (ADDRESS, "other"), "551": (ADDRESS, "gone"),
    "552": (ADDRESS, "full"), "553": (ADDRESS, "other"), "554": (US, "policy"), "556": (ADDRESS, "gone"),
    "571": (US, "policy"), "541": (US, "policy"), "570": (US, "policy"), "525": (ADDRESS, "closed"),
}  # fmt: skip
# RFC 3463, 2: by the code's second number.
SUBJECTS = {
    "1": (ADDRESS, "other"), "2": (ADDRESS, "other"), "3": (THEIRS, "system"), "4": (NETWORK, "unreachable"),
    "5": (THEIRS, "protocol"), "6": (US, "content"), "7": (US, "policy"),
}  # fmt: skip
BY_REPLY = "the reply code, and nothing else known"
BY_NOTHING = "nothing known"


class Verdict(NamedTuple):
    """What a refusal is about, and which rule says so, for a person who asks why."""

    subject: str
    kind: str
    rule: str

    def __str__(self) -> str:
        return f"{self.subject}/{self.kind}"

    @property
    def vague(self) -> bool:
        """Whether nothing known was found."""
        return self.rule in (BY_REPLY, BY_NOTHING)

    @property
    def slower(self) -> bool:
        """Whether it asks us to send less."""
        return self.subject == US and self.kind in SLOWER


class Phrase(NamedTuple):
    """Words of the tables, one alternative each; of several the one with the largest `weight` counts."""

    words: str
    weight: int
    subject: str
    kind: str

    def end(self, text: str, place: int) -> int:
        """Where the phrase ends in a text of words between single blanks, if it stands at `place`; else 0."""
        if "*" not in self.words:
            return place + len(self.words) if text.startswith(f"{self.words} ", place) else 0
        match = _pattern(self.words).match(text, place)
        return match.end() if match else 0


@cache
def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(words.replace(" * ", r" (?:\S+ ){0,5}?") + "(?= )")


class Code(NamedTuple):
    """What an enhanced code is about. subject: empty where it says nothing."""

    subject: str
    kind: str
    firm: bool


def rows(table: str) -> Iterator[tuple[str, str]]:
    """(form, verdict) of each line of a table."""
    for line in filter(None, table.splitlines()):
        form, verdict, _source, _year = line.split(" | ")
        yield form, verdict


@cache
def _phrases() -> dict[str, list[Phrase]]:
    """{first word: phrases}."""
    found: dict[str, list[Phrase]] = {}
    for form, verdict in rows(ADDRESS_WORDS + US_WORDS + OTHERS):
        subject, kind = verdict.split()
        for words in product(*(word.split("/") for word in form.removeprefix("~ ").split())):
            weight = len(words) - words.count("*")
            # What is about somebody tells more than how the delivery ended: "user unknown ... connection timed out".
            weight += 3 * (subject in (ADDRESS, US))
            weight -= GENERAL * form.startswith("~")
            phrase = Phrase(" ".join(words), weight, subject, kind)
            found.setdefault(words[0], []).append(phrase)
    return found


@cache
def _codes() -> dict[str, Code]:
    found = {}
    for form, verdict in rows(ENHANCED + RANGES):
        firm = verdict.startswith("!")
        subject, _, kind = verdict.removeprefix("!").strip().removeprefix("?").partition(" ")
        found[form] = Code(subject, kind, firm)
    return found


@cache
def _own() -> dict[str, list[tuple[re.Pattern[str], str, str, str]]]:
    """{first letters: (pattern, host, subject, kind)}."""
    found: dict[str, list[tuple[re.Pattern[str], str, str, str]]] = {}
    for form, verdict in rows(OWN):
        begin, pattern = form.split(" ", 1)
        pattern, _, host = pattern.partition(" at ")
        subject, kind = verdict.split()
        found.setdefault(begin[:3], []).append((re.compile(pattern, re.IGNORECASE), host, subject, kind))
    return found


def judge(text: str, code: str = "", status: str = "", host: str = "", phase: str = "") -> Verdict:
    """Say what a refusal is about.

    text: what the server said, one line; code: the reply code, and status: the enhanced code, where they are known from
    elsewhere; host: who said it; phase: the command it was said to, such as RCPT TO, or CONNECT. All may be empty.
    """
    return _judge(text[:LIMIT], code, status, host.lower(), phase.upper())


@lru_cache(maxsize=512)
def _judge(text: str, code: str, status: str, host: str, phase: str) -> Verdict:
    plain = ADDRESSES.sub(" ", text)
    if own := _own_code(plain, host):
        return own
    name, meaning = _enhanced(plain, status)
    if meaning.firm:
        return Verdict(meaning.subject, meaning.kind, f"code {name}")
    found = list(_found(" ".join([*WORDS.findall(plain.lower()), ""])))
    verdict = _weigh(name, meaning, found) or _by_number(plain, name, code)
    if phase in BEFORE_RECIPIENT and verdict.subject == ADDRESS:
        return Verdict(US, "policy", f"said to {phase}, before the recipient was named")
    return verdict


def _own_code(plain: str, host: str) -> Verdict | None:
    table = _own()
    for word in OWN_WORDS.findall(plain):
        for pattern, at, subject, kind in table.get(word[:3].lower(), ()):
            if pattern.fullmatch(word) and (not at or f".{host}".endswith(f".{at}")):
                return Verdict(subject, kind, f"provider's code {word}")
    return None


def _enhanced(plain: str, status: str) -> tuple[str, Code]:
    """The enhanced code that says most: a firm one, else the first in the text that says anything, else Status."""
    table = _codes()
    nothing = Code("", "", False)
    told = [*dict.fromkeys(STATUS.findall(plain)), *([status] if status else [])]
    known = [(name, table.get(name[2:]) or table.get(f"{name[2:-1]}x") or _general(name)) for name in told]
    for name, meaning in known:
        if meaning.firm:
            return name, meaning
    return next(((name, meaning) for name, meaning in known if meaning.subject), (told[0] if told else "", nothing))


def _general(name: str) -> Code:
    subject, kind = SUBJECTS.get(name[2:3], ("", ""))
    return Code(subject, kind, False)


def _found(normal: str) -> Iterator[tuple[int, int, Phrase]]:
    """Where the tables' words stand in a text of lower-case words; those inside of longer ones are left out."""
    table, found, place = _phrases(), [], 0
    for word in normal.split(" "):
        for phrase in table.get(word, ()):
            if end := phrase.end(normal, place):
                found.append((place, end, phrase))
        place += len(word) + 1
    for begin, end, phrase in found:
        if not any(b <= begin and end <= e and e - b > end - begin for b, e, _ in found):
            yield begin, end, phrase


def _weigh(name: str, meaning: Code, found: list[tuple[int, int, Phrase]]) -> Verdict | None:
    """The verdict of code and words together; None where neither says anything."""
    # At the same length words about us win: a person on hold by mistake is worse than one asked again.
    phrases = sorted((p for _, _, p in found), key=lambda p: (-p.weight, p.subject != US))
    agreed = next((p for p in phrases if p.subject == meaning.subject), None)
    if agreed:
        return Verdict(agreed.subject, _kind(agreed, meaning), f'code {name} and the words "{agreed.words}"')
    against = {ADDRESS: (US,), US: (ADDRESS,)}.get(meaning.subject, (ADDRESS, US, THEIRS, NETWORK))
    # Words as general as "rejected" do not outweigh a code that is about somebody.
    strong = [p for p in phrases if p.weight > 0 or meaning.subject not in (ADDRESS, US)]
    other = next((p for p in strong if p.subject in against or p.kind in STRONG), None)
    if other:
        return Verdict(other.subject, other.kind, f'the words "{other.words}"' + (f" against {name}" if name else ""))
    return Verdict(meaning.subject, meaning.kind, f"code {name}") if meaning.subject else None


def _kind(phrase: Phrase, meaning: Code) -> str:
    """The kind where code and words agree on the subject: that of the code, unless it is a general one."""
    general = ("gone", "closed", "other", "policy", "system", "content")
    return phrase.kind if meaning.kind in general else meaning.kind


def _by_number(plain: str, name: str, code: str) -> Verdict:
    """The verdict where only the reply code is left."""
    told = REPLY.search(plain)
    code = told[1] if told else code
    if code in REPLIES and not (name.startswith("4.") or code == "421"):
        subject, kind = REPLIES[code]
        return Verdict(subject, kind, BY_REPLY)
    return Verdict(THEIRS, "system", BY_NOTHING)


def of_reply(reply: str, status: str = "", host: str = "", phase: str = "") -> Verdict:
    """Judge what Postfix logs of a delivery: "host mx[192.0.2.1] said: 550 ... (in reply to RCPT TO command)"."""
    if ends := PHASE.search(reply):
        phase, reply = ends["phase"], reply[: ends.start()]
    if said := SAID.search(reply):
        host, reply = said["host"], reply[said.end() :]
        if said["how"] and said["how"] != "said":
            phase = "CONNECT"
    return judge(reply, status=status, host=host, phase=phase)
