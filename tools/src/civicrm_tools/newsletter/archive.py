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
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from civicrm_tools import LAUNCHER
from civicrm_tools.core import metrics, ssh
from civicrm_tools.core.command import Failure
from civicrm_tools.core.metrics import gauge
from civicrm_tools.core.run import last_line
from civicrm_tools.newsletter.markup import need_reader
from civicrm_tools.newsletter.pages import Config, archive, publish, replace, write_page
from civicrm_tools.newsletter.personal import Refused

CONFIG = Path("/etc/newsletter-archive.json")
ANSWER_BYTES = 64 * 1024 * 1024

METRICS = {
    "published": "Newsletters on the public pages.",
    "refused": "Newsletters that were not published.",
    "last_success_timestamp_seconds": "When a run last ended well.",
}


class ArchiveError(Failure):
    """Why a run ends, in one sentence."""


def checked(mailing: Any) -> dict[str, str]:
    """Return {id, date, subject, html} of one answer, all text; raises ArchiveError without an id that names it."""
    number = mailing.get("id") if isinstance(mailing, dict) else None
    if isinstance(number, bool) or not re.fullmatch(r"[1-9][0-9]{0,9}", str(number)):
        raise ArchiveError("the archive command answered a mailing without an id: a whole number above 0")
    return {"id": str(number)} | {key: str(mailing.get(key) or "") for key in ("date", "subject", "html")}


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


def show(config: Config, as_json: bool) -> int:
    with archive(config) as state:
        if as_json:
            found = {"published": state.published, "refused": state.refused, "withdrawn": state.withdrawn}
            print(json.dumps(found, indent=2))
            return 0
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
        need_reader()
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
    for name in ("run", "known", "take"):
        commands.add_parser(name)
    listing = commands.add_parser("list", help="what became of each newsletter")
    listing.add_argument("--json", action="store_true", help="as JSON: published, refused and withdrawn")
    commands.add_parser("withdraw").add_argument("id")
    options = parser.parse_args(argv)
    try:
        config = Config.read(options.config)
        if options.command == "run":
            return run(config, options.config)
        become(config.user)
        if options.command == "withdraw":
            return withdraw(config, options.id)
        if options.command == "list":
            return show(config, options.json)
        return {"known": known, "take": take}[options.command](config)
    except (Failure, OSError) as error:
        print(f"newsletter-archive: {error}", file=sys.stderr)
        return 1
