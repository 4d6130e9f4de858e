"""Publish completed newsletters as static pages that name no reader.

The application's command is asked for what is new; each newsletter is written anew from a short list of allowed markup,
and refused if anything that belongs to one reader is left. Pages and index then go to the web host by rsync.

  run           ask, publish, send: what the timer does, as root; it works as the archive's own user
  list          what is published, refused (with the reasons) and withdrawn
  withdraw ID   put a note in the place of a page, for good; also ends the report of a refused newsletter

Exit status: 0 all well, also with refused newsletters; 1 the reason stands on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import html
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from civicrm_tools import LAUNCHER
from civicrm_tools.core import files, metrics, ssh
from civicrm_tools.core.command import Failure
from civicrm_tools.core.locks import locked
from civicrm_tools.core.metrics import gauge
from civicrm_tools.core.run import last_line

CONFIG = Path("/etc/newsletter-archive.json")
ANSWER_BYTES = 64 * 1024 * 1024
HTML_CHARACTERS = 1_000_000
SUBJECT_CHARACTERS = 300
# Processor time for one newsletter: html.parser takes quadratic time for some nonsense.
READ_SECONDS = 10.0

# What a page may consist of. Every other element loses its tags, or all that is in it.
KEPT = re.compile(
    r"a|b|blockquote|code|dd|div|dl|dt|em|h[1-6]|i|li|ol|p|pre|small|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul"
)
VOID = ("br", "hr")
DROPPED = re.compile(
    r"applet|audio|button|canvas|form|frameset|head|iframe|map|math|noembed|noframes|noscript|object|option"
    r"|script|select|style|svg|template|textarea|title|video|xmp"
)
# Text on both sides of these is one word to a reader.
INLINE = re.compile(r"a|abbr|b|big|code|em|font|i|img|mark|s|small|span|strong|sub|sup|tt|u|wbr")

# Names of query parameters that tell one reader from another, and of those that only count clicks.
PERSONAL = (
    "checksum|cid|contact|contact_id|cs|email|h|hash|id_contact|jid|key|mail|mid|qid|recipient|sid|subscriber|token|uid"
)
TRACKING = re.compile(r"(?:utm|mtm|pk|mc|hsa)_\w+|fbclid|gclid|dclid|msclkid|igshid|mkt_tok|_hs\w+", re.IGNORECASE)

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

STYLE = """body { max-width: 42rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; }
:root { color-scheme: light dark; }
img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; }
td, th { vertical-align: top; text-align: left; }
"""

PAGE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
{body}
</body>
</html>
"""


METRICS = {
    "published": "Newsletters on the public pages.",
    "refused": "Newsletters that were not published.",
    "last_success_timestamp_seconds": "When a run last ended well.",
}


class ArchiveError(Failure):
    """Why a run ends, in one sentence."""


class Refused(Exception):
    """Why one newsletter is not published."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True)
class Config:
    """/etc/newsletter-archive.json. target: host, user, port; tokens: {name without braces: text in its place}."""

    command: list[str]
    command_user: str
    command_environment: dict[str, str]
    user: str
    title: str
    language: str
    directory: Path
    tokens: dict[str, str]
    image_hosts: list[str]
    target: dict[str, Any]
    key: Path
    known_hosts: Path
    metrics_file: Path

    @classmethod
    def read(cls, path: Path) -> Config:
        def build(raw: dict[str, Any]) -> Config:
            raw = {name: raw[name] for name in cls.__dataclass_fields__}
            paths = {name: Path(raw[name]) for name in ("directory", "key", "known_hosts", "metrics_file")}
            return cls(**raw | paths)

        return files.read_json(path, build)


# What may not be published


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
    # What a reader does not see may not hide it: soft hyphens, joiners, other forms of a letter.
    visible = "".join(
        c for c in unicodedata.normalize("NFKC", plain) if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace()
    )
    return [name for name, pattern in FORBIDDEN.items() if any(pattern.search(form) for form in (text, plain, visible))]


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


class Sanitiser(HTMLParser):
    """Write a newsletter anew from allowed markup alone; nothing of the original passes as it was."""

    def __init__(self, tokens: Callable[[str], str], image_hosts: list[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.tokens, self.image_hosts = tokens, image_hosts
        self.output: list[str] = []
        self.visible: list[str] = []
        self.open: list[str] = []
        self.counts: Counter[str] = Counter()
        self.inside: list[str] = []  # an element that is dropped, and those of its name in it

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.inside:
            self.inside += [tag] if tag == self.inside[0] else []
        elif DROPPED.fullmatch(tag):
            self.inside.append(tag)
        elif tag == "img":
            self._image(dict(attrs))
        else:
            self._separate(tag)
            attributes = self._attributes(tag, dict(attrs))
            if tag in VOID:
                self.output.append(f"<{tag}>")
            elif KEPT.fullmatch(tag) and not (tag == "a" and not attributes):
                self.output.append(f"<{tag}{attributes}>")
                self.open.append(tag)
                self.counts[tag] += 1

    # In HTML the slash of <p/> means nothing.
    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        if self.inside:
            if tag == self.inside[0]:
                self.inside.pop()
            return
        self._separate(tag)
        while self.counts[tag]:
            last = self._close()
            if last == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self.inside:
            text = self.tokens(data)
            self.visible.append(text)
            self.output.append(html.escape(text))

    def finish(self) -> str:
        """Return what was written, every element closed."""
        self.close()
        while self.open:
            self._close()
        return "".join(self.output)

    def _close(self) -> str:
        last = self.open.pop()
        self.counts[last] -= 1
        self.output.append(f"</{last}>")
        return last

    def _separate(self, tag: str) -> None:
        if not INLINE.fullmatch(tag):
            self.visible.append("\n")

    def _attributes(self, tag: str, given: dict[str, str | None]) -> str:
        if tag == "a":
            link = clean_link(given.get("href"))
            return f' href="{html.escape(link)}" rel="nofollow noopener noreferrer"' if link else ""
        if tag in ("td", "th"):
            spans = ((name, given.get(name) or "") for name in ("colspan", "rowspan"))
            return "".join(f' {name}="{value}"' for name, value in spans if re.fullmatch(r"[1-9][0-9]?", value))
        return ""

    def _image(self, given: dict[str, str | None]) -> None:
        """Keep a picture of an allowed host; of another, a tracking pixel among them, only what it is called."""
        described = self.tokens(given.get("alt") or "")
        source = clean_link(given.get("src"), self.image_hosts)
        self.visible.append(described)
        escaped = html.escape(described)
        self.output.append(f'<img src="{html.escape(source)}" alt="{escaped}">' if source else escaped)


def token_replacer(tokens: dict[str, str]) -> Callable[[str], str]:
    """Return a function that puts words for any reader in the place of {tokens}; unknown ones stay."""
    if not tokens:
        return lambda text: text
    pattern = re.compile(
        r"\{\s*(" + "|".join(re.escape(name) for name in sorted(tokens, key=len, reverse=True)) + r")\s*\}"
    )
    return lambda text: pattern.sub(lambda found: tokens[found[1]], text)


def sanitised(source: str, tokens: dict[str, str], image_hosts: list[str]) -> str:
    """Return a newsletter's HTML as it may be published; raises Refused with the reasons where it may not."""
    if len(source) > HTML_CHARACTERS:
        raise Refused(f"more than {HTML_CHARACTERS} characters")
    sanitiser = Sanitiser(token_replacer(tokens), image_hosts)
    try:
        with limited(READ_SECONDS):
            sanitiser.feed(source)
            output = sanitiser.finish()
    except (AssertionError, ValueError, IndexError, RecursionError) as error:
        raise Refused("markup that cannot be read") from error
    # What a reader sees, and once more what was really written.
    judge("".join(sanitiser.visible), html.unescape(output))
    if not "".join(sanitiser.visible).strip():
        raise Refused("no text")
    return output


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Refused after this much processor time: one newsletter must not hold up the others."""

    def end(_signal: int, _frame: Any) -> None:
        raise Refused("markup that takes too long to read")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(*texts: str) -> None:
    """Raise Refused for what stands in none of the texts of a page."""
    reasons = dict.fromkeys(reason for text in texts for reason in forbidden(text))
    if reasons:
        raise Refused(*reasons)


# Pages


@dataclass
class State:
    """What became of each newsletter, by its id: published {date, subject, file}, refused [reasons], withdrawn."""

    path: Path
    published: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> State:
        try:
            return files.read_json(path, lambda raw: cls(path, **raw))
        except files.Missing:
            return cls(path)

    def write(self) -> None:
        kept = {"published": self.published, "refused": self.refused, "withdrawn": self.withdrawn}
        replace(self.path, json.dumps(kept, indent=1, sort_keys=True) + "\n", 0o640)


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step: nobody reads half of it. One that is the same keeps its time."""
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            return
    files.write(path, text.encode(errors="replace"), mode=mode)


def checked(mailing: Any) -> dict[str, str]:
    """Return {id, date, subject, html} of one answer, all text; raises ArchiveError without an id that names it."""
    number = mailing.get("id") if isinstance(mailing, dict) else None
    if isinstance(number, bool) or not re.fullmatch(r"[1-9][0-9]{0,9}", str(number)):
        raise ArchiveError("the archive command answered a mailing without an id: a whole number above 0")
    return {"id": str(number)} | {key: str(mailing.get(key) or "") for key in ("date", "subject", "html")}


def publish(config: Config, mailing: dict[str, str]) -> dict[str, str]:
    """Write one newsletter's page and return its entry; raises Refused and then writes nothing."""
    try:
        date = datetime.date.fromisoformat(mailing["date"]).isoformat()
    except ValueError as error:
        raise Refused("no date such as 2026-01-31") from error
    subject = " ".join(token_replacer(config.tokens)(mailing["subject"]).split())
    if not subject or len(subject) > SUBJECT_CHARACTERS or not subject.isprintable():
        raise Refused(f"no subject of up to {SUBJECT_CHARACTERS} printable characters")
    judge(subject)
    content = sanitised(mailing["html"], config.tokens, config.image_hosts)
    entry = {"date": date, "subject": subject, "file": f"{date}-{mailing['id']}.html"}
    home = f'<p><a href="./">{html.escape(config.title)}</a></p>'
    head = f'<h1>{html.escape(subject)}</h1>\n<p><time datetime="{date}">{date}</time></p>'
    write_page(config, entry["file"], subject, f"{home}\n{head}\n<div>\n{content}\n</div>")
    return entry


def write_page(config: Config, name: str, title: str, body: str) -> None:
    text = PAGE.format(language=html.escape(config.language), title=html.escape(title), body=body)
    replace(config.directory / "site" / name, text)


def write_index(config: Config, state: State) -> None:
    newest = sorted(state.published.items(), key=lambda item: (item[1]["date"], int(item[0])), reverse=True)
    lines = [
        f'<li><time datetime="{entry["date"]}">{entry["date"]}</time> '
        f'<a href="{entry["file"]}">{html.escape(entry["subject"])}</a></li>'
        for _, entry in newest
    ]
    body = f"<h1>{html.escape(config.title)}</h1>\n" + (
        "\n".join(["<ul>", *lines, "</ul>"]) if lines else "<p>None yet.</p>"
    )
    replace(config.directory / "site" / "style.css", STYLE)
    write_page(config, "index.html", config.title, body)


@contextlib.contextmanager
def archive(config: Config) -> Iterator[State]:
    """Hold the archive alone, and write its index and state in the end."""
    (config.directory / "site").mkdir(mode=0o755, exist_ok=True)
    (config.directory / "refused").mkdir(mode=0o700, exist_ok=True)
    with locked(config.directory / "lock"):
        state = State.read(config.directory / "state.json")
        try:
            yield state
        finally:
            write_index(config, state)
            state.write()


def send(config: Config) -> None:
    """Bring pages and index to the web host. Nothing is deleted there: the key could not."""
    target, host = config.target, config.target["host"]
    shell = ssh.remote_shell(config.key, target["port"], config.known_hosts, "newsletter-archive-target")
    # Names in order: pages arrive before the index that leads to them, each in one step.
    rsync = ["rsync", "--recursive", "--times", "--omit-dir-times", "--timeout=60", f"--rsh={shell}"]
    done = subprocess.run(
        [*rsync, f"{config.directory}/site/", ssh.location(target["user"], host, ".")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        said = last_line(done.stderr.decode(errors="replace"))
        raise ArchiveError(f"rsync to {host} ended with {done.returncode}: {said}")


# Commands


def known(config: Config) -> int:
    """Print the ids that need not be asked for again, JSON. Refused ones are: a later version may take them."""
    with archive(config) as state:
        print(json.dumps(sorted(int(number) for number in [*state.published, *state.withdrawn])))
    return 0


def take(config: Config) -> int:
    """Publish what the command answered, JSON on standard input, send it and print the numbers as JSON."""
    try:
        answer = json.load(sys.stdin)
        mailings = [checked(mailing) for mailing in answer["mailings"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveError(
            'the archive command must answer {"mailings": [{"id", "date", "subject", "html"}]}'
        ) from error
    with archive(config) as state:
        for mailing in mailings:
            number = mailing["id"]
            kept = config.directory / "refused" / f"{number}.html"
            if number in state.published or number in state.withdrawn:
                continue
            try:
                state.published[number] = publish(config, mailing)
            except Refused as refusal:
                if state.refused.get(number) != refusal.reasons:
                    print(f"newsletter-archive: newsletter {number} is refused: {refusal}", file=sys.stderr)
                state.refused[number] = refusal.reasons
                replace(kept, mailing["html"], 0o600)
            else:
                state.refused.pop(number, None)
                kept.unlink(missing_ok=True)
            state.write()
        numbers = {"published": len(state.published), "refused": len(state.refused)}
    send(config)
    print(json.dumps(numbers))
    return 0


def withdraw(config: Config, number: str) -> int:
    with archive(config) as state:
        entry = state.published.pop(number, None)
        if not entry and number not in state.refused:
            raise ArchiveError(f"newsletter {number} is neither published nor refused")
        if entry:
            write_page(config, entry["file"], config.title, '<p>Withdrawn. <a href="./">All newsletters</a></p>')
        state.refused.pop(number, None)
        (config.directory / "refused" / f"{number}.html").unlink(missing_ok=True)
        state.withdrawn.append(number)
    send(config)
    return 0


def show(config: Config) -> int:
    with archive(config) as state:
        for number, entry in sorted(state.published.items(), key=lambda item: item[1]["file"]):
            print(f"{number}\tpublished\t{entry['file']}\t{entry['subject']}")
        for number, reasons in sorted(state.refused.items()):
            print(f"{number}\trefused\t{'; '.join(reasons)}")
        for number in state.withdrawn:
            print(f"{number}\twithdrawn")
    return 0


def account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise ArchiveError(f"user {user} does not exist") from error


def call(argv: list[str], user: str, stdin: str, environment: dict[str, str] | None = None) -> str:
    """Run a program as a user and return what it printed; its own words go to our standard error."""
    who = account(user)
    same = who.pw_uid == os.geteuid()
    identity: dict[str, Any] = {} if same else {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode(errors="replace"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=subprocess.PIPE,
                cwd="/",
                env=base | {"HOME": "/"} | (environment or {}),
                **identity,
            )
        except OSError as error:
            raise ArchiveError(f"{argv[0]}: {error}") from error
    with process:
        output = process.stdout.read(ANSWER_BYTES + 1) if process.stdout else b""
        if len(output) > ANSWER_BYTES:
            process.kill()
            raise ArchiveError(f"{argv[0]} printed more than {ANSWER_BYTES} bytes")
    if process.returncode != 0:
        raise ArchiveError(f"{argv[0]} ended with {process.returncode}")
    return output.decode(errors="replace")


def run(config: Config, config_path: Path) -> int:
    """Ask as the application's user, publish as the archive's: neither reads what the other holds."""
    own = [sys.executable, "-I", str(LAUNCHER), "newsletter-archive", "--config", str(config_path)]
    numbers, result = None, 1
    try:
        ids = json.loads(call([*own, "known"], config.user, ""))
        question = json.dumps({"action": "list", "known": ids}) + "\n"
        answer = call(config.command, config.command_user, question, config.command_environment)
        numbers = json.loads(call([*own, "take"], config.user, answer))
        result = 0
    finally:
        write_metrics(config.metrics_file, numbers)
    return result


def write_metrics(path: Path, numbers: dict[str, int] | None) -> None:
    """Leave the numbers of this run, or the last ones with a failure, for node_exporter."""
    before = metrics.read(path)
    values = {name: before.get((f"newsletter_archive_{name}", frozenset()), 0.0) for name in METRICS}
    if numbers is not None:
        values |= numbers | {"last_success_timestamp_seconds": int(time.time())}
    metrics.write(path, [gauge(f"newsletter_archive_{name}", text, values[name]) for name, text in METRICS.items()])


def become(user: str) -> None:
    """Go on as the archive's user; only root and that user can."""
    who = account(user)
    if who.pw_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        raise ArchiveError(f"run this as root or as {user}")
    os.setgroups([])
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    os.umask(0o022)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"settings; {CONFIG} unless given")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | list | withdraw ID")
    for name in ("run", "list", "known", "take"):
        commands.add_parser(name)
    commands.add_parser("withdraw").add_argument("id")
    options = parser.parse_args(argv)
    try:
        config = Config.read(options.config)
        if options.command == "run":
            return run(config, options.config)
        become(config.user)
        if options.command == "withdraw":
            return withdraw(config, options.id)
        return {"list": show, "known": known, "take": take}[options.command](config)
    except (Failure, OSError) as error:
        print(f"newsletter-archive: {error}", file=sys.stderr)
        return 1
