"""Publish completed newsletters as static pages that name no reader.

The application's command is asked for what is new; each newsletter is written anew from a short list of allowed markup,
and refused if anything that belongs to one reader is left. Pages and index then go to the web host by rsync.

  run           ask, publish, send: what the timer does, as root; it works as the archive's own user
  list          what is published, refused (with the reasons) and withdrawn
  withdraw ID   put a note in the place of a page, for good; also ends the report of a refused newsletter

Exit status: 0 all well, also with refused newsletters; 1 the reason stands on standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any

from civicrm_tools import LAUNCHER
from civicrm_tools.core import command, metrics, ssh
from civicrm_tools.core.command import DONE, Failure
from civicrm_tools.core.metrics import gauge
from civicrm_tools.core.run import account, as_user, start
from civicrm_tools.newsletter.markup import need_reader
from civicrm_tools.newsletter.pages import Config, archive, publish, replace, write_page
from civicrm_tools.newsletter.personal import Refused

NAME = "newsletter-archive"
CONFIG = Path("/etc/newsletter-archive.json")
ANSWER_BYTES = 64 * 1024 * 1024

METRICS = {
    "published": "Newsletters on the public pages.",
    "refused": "Newsletters that were not published.",
    "last_success_timestamp_seconds": "When a run last ended well.",
}


def checked(mailing: Any) -> dict[str, str]:
    """Return {id, date, subject, html} of one answer, all text; raises Failure without an id that names it."""
    number = mailing.get("id") if isinstance(mailing, dict) else None
    if isinstance(number, bool) or not re.fullmatch(r"[1-9][0-9]{0,9}", str(number)):
        raise Failure("the archive command answered a mailing without an id: a whole number above 0")
    return {"id": str(number)} | {key: str(mailing.get(key) or "") for key in ("date", "subject", "html")}


def send(config: Config) -> None:
    """Bring pages and index to the web host. Nothing is deleted there: the key could not."""
    target, host = config.target, config.target["host"]
    shell = ssh.remote_shell(config.key, target["port"], config.known_hosts, "newsletter-archive-target")
    # Names in order: pages arrive before the index that leads to them, each in one step.
    options = ["--recursive", "--times", "--omit-dir-times", "--timeout=60"]
    goal = ssh.location(target["user"], host, ".")
    ssh.rsync("sending the pages", host, shell, *options, f"{config.directory}/site/", goal)


# Commands


def known(config: Config) -> int:
    """Print the ids that need not be asked for again, JSON. Refused ones are: a later version may take them."""
    with archive(config) as state:
        print(json.dumps(sorted(int(number) for number in [*state.published, *state.withdrawn])))
    return DONE


def take(config: Config) -> int:
    """Publish what the command answered, JSON on standard input, send it and print the numbers as JSON."""
    try:
        answer = json.load(sys.stdin)
        mailings = [checked(mailing) for mailing in answer["mailings"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Failure('the archive command must answer {"mailings": [{"id", "date", "subject", "html"}]}') from error
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
                    command.tell(NAME, f"newsletter {number} is refused: {refusal}")
                state.refused[number] = refusal.reasons
                replace(kept, mailing["html"], 0o600)
            else:
                state.refused.pop(number, None)
                kept.unlink(missing_ok=True)
            state.write()
        numbers = {"published": len(state.published), "refused": len(state.refused)}
    send(config)
    print(json.dumps(numbers))
    return DONE


def withdraw(config: Config, number: str) -> int:
    with archive(config) as state:
        entry = state.published.pop(number, None)
        if not entry and number not in state.refused:
            raise Failure(f"newsletter {number} is neither published nor refused")
        if entry:
            write_page(config, entry["file"], config.title, '<p>Withdrawn. <a href="./">All newsletters</a></p>')
        state.refused.pop(number, None)
        (config.directory / "refused" / f"{number}.html").unlink(missing_ok=True)
        state.withdrawn.append(number)
    send(config)
    return DONE


def show(config: Config, as_json: bool) -> int:
    with archive(config) as state:
        if as_json:
            found = {"published": state.published, "refused": state.refused, "withdrawn": state.withdrawn}
            print(json.dumps(found, indent=2))
            return DONE
        for number, entry in sorted(state.published.items(), key=lambda item: item[1]["file"]):
            print(f"{number}\tpublished\t{entry['file']}\t{entry['subject']}")
        for number, reasons in sorted(state.refused.items()):
            print(f"{number}\trefused\t{'; '.join(reasons)}")
        for number in state.withdrawn:
            print(f"{number}\twithdrawn")
        if not (state.published or state.refused or state.withdrawn):
            command.tell(NAME, "there is no newsletter yet")
    return DONE


def call(argv: list[str], user: str, stdin: str, environment: dict[str, str] | None = None) -> str:
    """Run a program as a user and return what it printed; its own words go to our standard error."""
    base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode(errors="replace"))
        given.seek(0)
        env = base | {"HOME": "/"} | (environment or {})
        # No more of its answer is read than it may print.
        process = start(argv, stdin=given, stdout=PIPE, cwd="/", env=env, **as_user(user))
    with process:
        output = process.stdout.read(ANSWER_BYTES + 1) if process.stdout else b""
        if len(output) > ANSWER_BYTES:
            process.kill()
            raise Failure(f"{argv[0]} printed more than {ANSWER_BYTES} bytes")
    if process.returncode != 0:
        raise Failure(f"{argv[0]} ended with {process.returncode}")
    return output.decode(errors="replace")


def run(config: Config, config_path: Path) -> int:
    """Ask as the application's user, publish as the archive's: neither reads what the other holds."""
    own = [sys.executable, "-I", str(LAUNCHER), NAME, "--config", str(config_path)]
    numbers = None
    try:
        need_reader()
        ids = json.loads(call([*own, "known"], config.user, ""))
        question = json.dumps({"action": "list", "known": ids}) + "\n"
        answer = call(config.command, config.command_user, question, config.command_environment)
        numbers = json.loads(call([*own, "take"], config.user, answer))
    finally:
        write_metrics(config.metrics_file, numbers)
    return DONE


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
        raise Failure(f"run this as root or as {user}")
    os.setgroups([])
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    os.umask(0o022)


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"settings; {CONFIG} unless given")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | list | withdraw ID")
    for name in ("run", "known", "take"):
        commands.add_parser(name)
    listing = commands.add_parser("list", help="what became of each newsletter")
    listing.add_argument("--json", action="store_true", help="as JSON: published, refused and withdrawn")
    commands.add_parser("withdraw").add_argument("id")
    options = parser.parse_args(argv)
    config = Config.read(options.config)
    if options.command == "run":
        return run(config, options.config)
    become(config.user)
    if options.command == "withdraw":
        return withdraw(config, options.id)
    if options.command == "list":
        return show(config, options.json)
    return {"known": known, "take": take}[options.command](config)


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
