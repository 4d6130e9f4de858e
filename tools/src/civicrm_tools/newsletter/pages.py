"""Write the archive's pages and index, and remember what became of each newsletter."""

from __future__ import annotations

import contextlib
import datetime
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import files
from civicrm_tools.core.locks import locked
from civicrm_tools.newsletter.markup import sanitised, token_replacer
from civicrm_tools.newsletter.personal import Refused, is_printable, judge

SUBJECT_CHARACTERS = 300

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
        return files.read_record(path, cls)


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


def publish(config: Config, mailing: dict[str, str]) -> dict[str, str]:
    """Write one newsletter's page and return its entry; raises Refused and then writes nothing."""
    try:
        date = datetime.date.fromisoformat(mailing["date"]).isoformat()
    except ValueError as error:
        raise Refused("no date such as 2026-01-31") from error
    subject = " ".join(token_replacer(config.tokens)(mailing["subject"]).split())
    if not subject or len(subject) > SUBJECT_CHARACTERS:
        raise Refused(f"a subject of {len(subject)} characters: it must have 1 to {SUBJECT_CHARACTERS}")
    if not is_printable(subject):
        raise Refused("a control character, or one that turns the writing direction, in the subject")
    judge({"the subject": subject})
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
