#!/usr/bin/env python3
"""Measure the host tools on this machine, and write docs/benchmarks/tools.md. It needs no lab.

Starts: seconds and memory of `NAME --help` of each command, installed as the role host_tools does it. Speed: what
takes long, beside the programs of --base COMMIT, in turn on the same data; the best of some runs counts. Both builds
have to find the same.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, table, write_page

BASE = "38425cd"  # the last build with its programs in roles/*/files
AIM_SECONDS, AIM_MIB = 0.15, 20
LINES, LOOKUP_LINES, DONATIONS, NEWSLETTERS, RETURNED = 1_000_000, 200_000, 2_000, 300, 5_000
RUNS = 5
LIMIT = 600  # seconds for one run; none comes near

# Small, as a process begins with the peak of the one that starts it.
STARTER = """
import os, sys, time
seconds, size = [], []
for _ in range(int(sys.argv[1])):
    begin = time.perf_counter()
    nothing = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=[nothing])
    _, status, usage = os.wait4(pid, 0)
    seconds.append(time.perf_counter() - begin)
    size.append(usage.ru_maxrss)
    if status:
        sys.exit(f"{sys.argv[2:]} ended with {status}")
print(min(seconds), min(size))
"""
LOOKUP = """
import json, sys, time
from pathlib import Path
library, module, log, keys = sys.argv[1:]
sys.path.insert(0, library)
lookup = getattr(__import__(module, fromlist=["lookup"]), "lookup")
begin = time.perf_counter()
found = lookup([Path(log)], message_ids=set(json.loads(keys)))
seconds = time.perf_counter() - begin
print(json.dumps([seconds, sorted([k, p.sender, p.message_id, p.recipients] for k, p in found.items())]))
"""
WORKER = """
import importlib, sys
from pathlib import Path
library, package, folder = sys.argv[1:]
sys.path.insert(0, library)
config = importlib.import_module(f"{package}.config")
config.DIRECTORY = config.FOLDER = Path(folder)  # the older build has the latter
sys.exit(importlib.import_module(f"{package}.worker").main(["bench"]))
"""
# A CiviCRM that knows everybody and answers at once, to whichever build asks.
API = """
import json, sys
KNOWN = {"Contribution": [], "Address": [{"id": "1"}], "Campaign": [{"id": "1"}]}
print('{"ready":true}', flush=True)
for line in sys.stdin:
    entity, action, given = json.loads(line)
    asked = given.get("email")
    person = [{"contact_id": "1", "email": asked if isinstance(asked, str) else (asked or {"IN": [""]})["IN"][0]}]
    print(json.dumps({"values": KNOWN.get(entity, person) if action == "get" else [{"id": "1"}]}), flush=True)
"""


@dataclass(frozen=True)
class Build:
    """Programs of one commit. program: how a command is called; libraries: where its packages lie."""

    program: Callable[[str], list[str]]
    libraries: dict[str, tuple[Path, str]]  # subject: path for imports, name


@dataclass(frozen=True)
class Compared:
    what: str
    base: float
    now: float
    unit: str
    aim: str

    def row(self) -> list[str]:
        digits = 2 if self.unit == "s" else 0
        figures = [f"{value:.{digits}f} {self.unit}" for value in (self.base, self.now)]
        return [self.what, *figures, f"{self.now / self.base:.2f}", self.aim]


def run(*command: str | Path, text: str = "", **environment: str) -> tuple[float, str]:
    """Run a command; returns its seconds and what it printed. Exits with its end if it fails."""
    begin = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), input=text, capture_output=True, text=True, timeout=LIMIT, env=os.environ | environment
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))[:200]} failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def compiled(*folders: Path) -> None:
    run(sys.executable, "-m", "compileall", "-q", *folders)


@contextmanager
def builds(base: str) -> Iterator[dict[str, Build]]:
    """Give the programs of a commit, in a worktree, and our own as they are installed; both with bytecode."""
    with tempfile.TemporaryDirectory() as work:
        tree, ours = Path(work, "base"), Path(work, "civicrm-tools")
        run("git", "-C", ROOT, "worktree", "add", "--detach", tree, base)
        try:
            for part in ("bin", "src"):
                shutil.copytree(ROOT / "tools" / part, ours / part, ignore=shutil.ignore_patterns("__pycache__"))
            compiled(ours / "src", *(tree / "roles").glob("*/files/usr/local/lib"))
            mail, donations = (
                tree / f"roles/{role}/files/usr/local/lib/{role.replace('_', '-')}"
                for role in ("mail_tools", "donation_worker")
            )
            new = ours / "src"
            yield {
                "base": Build(
                    lambda name: [str(next(tree.glob(f"roles/*/files/usr/local/*bin/{name}")))],
                    {"mail": (mail, "mail_tools.mail_log"), "donations": (donations, "donation_worker")},
                ),
                "now": Build(
                    lambda name: [str(ours / "bin/civicrm-tools"), name],
                    {
                        "mail": (new, "civicrm_tools.mail.deliveries"),
                        "donations": (new, "civicrm_tools.donations"),
                    },
                ),
            }
        finally:
            run("git", "-C", ROOT, "worktree", "remove", "--force", tree)


def best(pair: dict[str, Build], measure: Callable[[Build], tuple[float, Any]]) -> tuple[float, float]:
    """Return the least seconds of the base and of today, measured in turn. Exits if they find different things."""
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    found: dict[str, Any] = {}
    for _ in range(RUNS):
        for name, build in pair.items():
            taken, found[name] = measure(build)
            seconds[name].append(taken)
    if found["base"] != found["now"]:
        sys.exit(f"bench: the builds differ:\n{str(found['base'])[:500]}\n{str(found['now'])[:500]}")
    return min(seconds["base"]), min(seconds["now"])


# What is measured


def starts(build: Build) -> list[list[str]]:
    """Return a row for each command: seconds and MiB of its --help."""
    _, listing = run(*build.program("")[:1])
    rows = []
    for name in (line.split()[0] for line in listing.splitlines()):
        _, said = run(sys.executable, "-IS", "-c", STARTER, "5", *build.program(name), "--help")
        seconds, kib = map(float, said.split())
        over = seconds > AIM_SECONDS or kib / 1024 > AIM_MIB
        rows.append([name, f"{seconds:.2f}", f"{kib / 1024:.1f}", "over the aim" if over else ""])
    return rows


def write_log(path: Path, lines: int) -> None:
    """Write a log of messages with five lines each, of mailing after mailing."""
    with path.open("w") as sink:
        for n in range(lines // 5):
            queue_id = f"4jW{n:07}X7zLWbx"
            head = "2026-11-20T08:33:45.123456+00:00 crm-int-01"
            sender = f"civicrm+b.{n // 50_000 + 1}.{n}.0123456789abcdef@crm.example.org"
            sink.write(
                f"{head} postfix/pickup[812]: {queue_id}: uid=997 from=<{sender}>\n"
                f"{head} postfix/cleanup[901]: {queue_id}: message-id=<20261120083345.{n}@crm.example.org>\n"
                f"{head} postfix/qmgr[499]: {queue_id}: from=<{sender}>, size=41900, nrcpt=1 (queue active)\n"
                f"{head} postfix-gmail/smtp[1024]: {queue_id}: to=<person{n}@gmail.test>, relay=mx.gmail.test"
                f"[192.0.2.1]:25, delay=1.2, delays=0.1/0/0.4/0.7, dsn=2.0.0, status=sent (250 2.0.0 OK {n})\n"
                f"{head} postfix/qmgr[499]: {queue_id}: removed\n"
            )


def traces(pair: dict[str, Build], work: Path, lines: int) -> Iterator[Compared]:
    """postfix-trace by each kind of key, of a message in the middle."""
    log, n = work / "mail.log", lines // 10
    write_log(log, lines)
    with log.open() as source:
        queue_id = next(found[1] for line in source if (found := re.search(rf": (\w+): message-id=<.*\.{n}@", line)))
    keys = {
        "queue ID": queue_id,
        "Message-ID": f"20261120083345.{n}@crm.example.org",
        "VERP address": f"civicrm+u.{n // 50_000 + 1}.{n}.0123456789abcdef@crm.example.org",
        "person": f"person{n}@gmail.test",
    }
    for kind, key in keys.items():
        took = best(pair, lambda build, key=key: run(*build.program("postfix-trace"), "--log", log, key))  # type: ignore[misc]
        yield Compared(f"`postfix-trace`, {lines:,} lines, by {kind}", *took, "s", "at most 0.5")


def lookups(pair: dict[str, Build], work: Path, lines: int) -> Iterator[Compared]:
    """What abuse reports do: the messages of one Message-ID, and of a day's reports at once."""
    log = work / "lookup.log"
    write_log(log, lines)

    def look(build: Build, keys: list[str]) -> tuple[float, Any]:
        library, module = build.libraries["mail"]
        _, said = run(sys.executable, "-I", "-c", LOOKUP, library, module, log, json.dumps(keys))
        seconds, found = json.loads(said)
        return seconds, found

    for count in (1, 50):
        step = lines // 5 // (count + 1)
        keys = [f"20261120083345.{step * (n + 1)}@crm.example.org" for n in range(count)]
        took = best(pair, lambda build, keys=keys: look(build, keys))  # type: ignore[misc]
        yield Compared(f"`abuse-report`'s look-up, {lines:,} lines, Message-IDs: {count}", *took, "s", "at most 1")


def donation(n: int) -> str:
    contact = {"first_name": "Ada", "last_name": "Lovelace", "email": f"ada{n}@example.org", "country": "DE"}
    given = {"amount": "25.00", "currency": "EUR", "campaign": "general", "payment_reference": f"ch_{n}"}
    job = {"id": f"id-{n}", "site": "bench", "received_at": 1795176591, "test": False, "campaigns_version": "v1"}
    return json.dumps(job | {"donation": given | {"contact": contact}})


def donations(pair: dict[str, Build], work: Path, count: int) -> Compared:
    """Let the worker empty a queue of Redis into a fake CiviCRM that answers at once."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "src")]
    module = importlib.import_module("redis_server")
    (work / "redis").mkdir()
    user = {"name": "worker", "password_sha256": hashlib.sha256(b"pw").hexdigest(), "rules": "~donations:* +@all"}
    redis = module.RedisServer(work / "redis", [user])
    (work / "api.py").write_text(API)

    def work_off(build: Build) -> tuple[float, Any]:
        redis.reset()
        redis.fill("donations:bench", [donation(n) for n in range(count)])
        settings = {
            "queue": "bench", "worker": "main", "user": me(), "enabled": True,
            "redis_host": "127.0.0.1", "redis_port": redis.port, "redis_user": "worker", "redis_password": "pw",
            "api_command": [sys.executable, str(work / "api.py")], "api_timeout_seconds": 5, "api_idle_seconds": 60,
            "api_max_calls": 10 * count, "tries_max": 3, "retry_seconds": 0, "retry_max_seconds": 1,
            "trxn_prefix": "", "financial_type": "Donation", "payment_instrument": "Credit Card", "test": False,
            "campaigns_version": "v1",
        }  # fmt: skip
        (work / "bench.json").write_text(json.dumps(settings))
        library, package = build.libraries["donations"]
        begin = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-I", "-c", WORKER, library, package, work], stdout=subprocess.DEVNULL
        )
        done: dict[str, str] = {}
        try:
            while done.get("created") != str(count) and worker.poll() is None and time.perf_counter() < begin + LIMIT:
                time.sleep(0.01)
                done = redis.hash("donations:bench:stats")
            seconds = time.perf_counter() - begin
        finally:
            worker.terminate()
            worker.wait()
        return seconds, {name: done.get(name) for name in ("created", "failures", "buried")}

    try:
        base, now = best(pair, work_off)
    finally:
        redis.stop()
    return Compared("`donation-worker`, donations", count / base, count / now, "/s", "at least 1")


def newsletters(pair: dict[str, Build], work: Path, count: int) -> Compared:
    """Let the archive publish newsletters of 20 kB; they are sent nowhere."""
    row = '<tr><td><a href="https://example.org/a?utm_source=x">Read <b>on</b></a> &amp; give {contact.name}</td></tr>'
    html = f"<html><body><table>{row * 200}</table><img src='https://example.org/i.png' alt='us'></body></html>"
    sent = [{"id": n + 1, "date": "2026-01-31", "subject": f"No {n}", "html": html} for n in range(count)]
    commands = work / "bin"
    commands.mkdir()
    (commands / "rsync").write_text("#!/bin/sh\n")
    (commands / "rsync").chmod(0o755)
    settings = {
        "command": ["true"], "command_user": "root", "command_environment": {}, "user": me(), "title": "News",
        "language": "en", "directory": str(work / "archive"), "tokens": {"contact.name": "reader"},
        "image_hosts": [], "target": {"host": "::1", "user": "x", "port": 22}, "key": "/k", "known_hosts": "/h",
        "metrics_file": str(work / "archive.prom"),
    }  # fmt: skip
    (work / "archive.json").write_text(json.dumps(settings))

    def publish(build: Build) -> tuple[float, Any]:
        shutil.rmtree(work / "archive", ignore_errors=True)
        (work / "archive").mkdir()
        # With our own Python, which has nh3.
        take = [sys.executable, *build.program("newsletter-archive"), "--config", str(work / "archive.json"), "take"]
        return run(*take, text=json.dumps({"mailings": sent}), PATH=f"{commands}:{os.environ['PATH']}")

    base, now = best(pair, publish)
    return Compared("`newsletter-archive`, pages", count / base, count / now, "/s", "at least 1")


def returned(pair: dict[str, Build], work: Path, count: int) -> Iterator[Compared]:
    """Let the breaker and the complaint reader take mailboxes of reports as the world writes them, by CPU."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "src")]
    made: Any = importlib.import_module("reports")
    settings: Path = importlib.import_module("unit_return_path").write_settings(work)
    # Where the older build looks for them.
    older = {"providers": [{"name": "gmail", "domains": ["gmail.com"]}]}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | older))
    mailbox = work / "crm" / "Maildir"
    folders = {"bounces": mailbox / ".Incoming", "complaints": work / "fbl"}

    def bounce(n: int) -> Any:
        if n % 10 == 7:
            away = {"Auto_Submitted": "auto-replied", "Delivered_To": made.verp(queue=n)}
            return made.plain("I am on vacation and out of the office.", Subject="Out of office", **away)
        if n % 10 == 8:
            return made.plain("unsubscribe", To=made.verp("u", queue=n), Delivered_To=made.verp("u", queue=n))
        full = {"status": "5.2.2", "text": "552 5.2.2 mailbox full"} if n % 10 == 9 else {}
        return made.dsn(f"p{n}@gmail.com", queue=n, **full)

    shapes = [made.arf] * 6 + [made.nested, made.inline, made.attached, made.damaged]
    messages: dict[str, Callable[[int], Any]] = {"bounces": bounce}
    messages["complaints"] = lambda n: shapes[n % 10](made.newsletter(queue=n))

    def take(build: Build, kind: str, *command: str) -> tuple[float, Any]:
        for folder in (mailbox, work / "fbl"):
            shutil.rmtree(folder, ignore_errors=True)
        for state in work.glob("*.db*"):
            state.unlink()
        for part in ("tmp", "new", "cur"):
            for folder in (mailbox, folders[kind]):
                (folder / part).mkdir(parents=True, exist_ok=True)
        for n in range(1, count + 1):
            (folders[kind] / "new" / f"{1700000000 + n}.M1P{n}.mx").write_bytes(messages[kind](n))
        before = os.times()
        library = str(build.libraries["mail"][0])
        _, said = run(*build.program(command[0]), "--config", settings, *command[1:], PYTHONPATH=library)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        return seconds, (len(said.splitlines()) if kind == "complaints" else len(list(folders[kind].glob("new/*"))))

    for what, kind, *command in (
        ("`bounce-breaker`, messages a second of CPU", "bounces", "bounce-breaker", "run"),
        ("`abuse-report`, messages a second of CPU", "complaints", "abuse-report", "--json", str(work / "fbl")),
    ):
        base, now = best(pair, lambda build, kind=kind, command=command: take(build, kind, *command))  # type: ignore[misc]
        yield Compared(what, count / base, count / now, "/s", "at least 1.5")


def page(rows: list[list[str]], compared: list[Compared], base: str) -> None:
    lines = [
        f"Python {sys.version.split()[0]}; the best of some runs.",
        "",
        "## Starts",
        "",
        f"`NAME --help`, from the program's start to its end. Aim: at most {AIM_SECONDS} s and {AIM_MIB} MiB.",
        "",
        *table(["command", "seconds", "MiB", ""], rows),
        "",
        "## Speed",
        "",
        f"Beside the programs of commit {base}, in turn on the same data; both found the same.",
        "",
        *table(["", base, "now", "ratio", "aim of the ratio"], [one.row() for one in compared]),
    ]
    print("bench: wrote", write_page("tools", "Benchmark: host tools", lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="COMMIT", default=BASE, help="compare with this commit (%(default)s)")
    parser.add_argument("--divide", type=int, default=1, metavar="N", help="sizes by N: a trial, no page is written")
    options = parser.parse_args()
    if not importlib.util.find_spec("nh3"):
        sys.exit("bench: this Python has no nh3, which the newsletter archive needs: 'make setup', and run it by make")
    with builds(options.base) as pair, tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = starts(pair["now"])
        compared = [*traces(pair, work, LINES // options.divide), *lookups(pair, work, LOOKUP_LINES // options.divide)]
        compared.append(donations(pair, work, DONATIONS // options.divide))
        compared.append(newsletters(pair, work, NEWSLETTERS // options.divide))
        compared += returned(pair, work, RETURNED // options.divide)
    for row in [*rows, *(one.row() for one in compared)]:
        print("bench:", *row)
    if options.divide == 1:
        page(rows, compared, options.base)


if __name__ == "__main__":
    main()
