"""What bench/return_path.py does inside a host: one action a run, its arguments as JSON on stdin, its result as JSON.

Runs on Debian's own Python. The subject of each report of a benchmark ends with MARK and its serial in brackets.
"""

from __future__ import annotations

import imaplib
import json
import os
import re
import smtplib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "return-path-bench"
SLICE = Path("/sys/fs/cgroup/system.slice")
BATCH = 50  # messages between two expunges, as CiviCRM has it
PAUSE = 0.2  # seconds between two looks
DSN = """\
From: MAILER-DAEMON@mx.provider.test
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="cut"

--cut
Content-Type: text/plain

This is the mail system at mx.provider.test. Your message could not be delivered.

<{person}>: host mx.provider.test said: {text}

--cut
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.provider.test

Final-Recipient: rfc822; {person}
Action: failed
Status: {status}
Remote-MTA: dns; mx.provider.test
Diagnostic-Code: smtp; {text}

--cut
Content-Type: message/rfc822

Return-Path: <{bounce}>
From: News <news@{domain}>
To: {person}
Subject: January
Precedence: bulk
X-CiviMail-Bounce: {bounce}

{body}
--cut--
"""
AWAY = """\
From: {person}
Auto-Submitted: auto-replied
Precedence: auto_reply
Content-Type: text/plain

I am on vacation and out of the office until Monday.
"""
LEAVE = "From: {person}\nContent-Type: text/plain\n\nPlease unsubscribe me.\n"
BODY = "A newsletter has some lines of text, and this is one of them.\n" * 16
UNKNOWN, FULL = ("5.1.1", "550 5.1.1 no such user"), ("5.2.2", "552 5.2.2 mailbox full, quota exceeded")
# Subject, verb of the address, text, and of a delivery report its status and the provider's words.
KINDS: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    "unknown": ("Undelivered Mail Returned to Sender", "b", DSN, UNKNOWN),
    "quota": ("Undelivered Mail Returned to Sender", "b", DSN, FULL),
    "vacation": ("Out of office", "b", AWAY, ("", "")),
    "unsubscribe": ("unsubscribe", "u", LEAVE, ("", "")),
    "forged": ("Undelivered Mail Returned to Sender", "b", DSN, UNKNOWN),
}


def report(serial: int, kind: str, queued: list[str], domain: str) -> tuple[str, str, str]:
    """Return sender, recipient and text of a report on one person's copy: job, queue ID, hash, address."""
    job, queue, digest, person = queued
    if kind == "forged":
        digest = f"{serial:016x}"
    subject, verb, text, (status, said) = KINDS[kind]
    to, bounce = (f"civicrm+{v}.{job}.{queue}.{digest}@{domain}" for v in (verb, "b"))
    top = f"To: {to}\nSubject: {subject} [{MARK} {serial}]\nMessage-ID: <{MARK}-{serial}@{domain}.outside.test>\n"
    rest = text.format(person=person, bounce=bounce, domain=domain, status=status, text=said, body=BODY)
    return (person if kind == "unsubscribe" else ""), to, (top + rest).replace("\n", "\r\n")


def send(given: dict[str, Any]) -> dict[str, Any]:
    """Hand in a report of each of `kinds`, on `queued` copies in turn, over so many kept connections with TLS."""
    errors: list[str] = []

    def work(begin: int) -> None:
        try:
            context = ssl.create_default_context()
            # As most of the world's mail servers: encrypted, to whoever it is.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with smtplib.SMTP(given["server"], 25, timeout=120) as client:
                client.starttls(context=context)
                for n in range(begin, len(given["kinds"]), given["parallel"]):
                    queued = given["queued"][n % len(given["queued"])]
                    client.sendmail(*report(n, given["kinds"][n], queued, given["domain"]))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(given["parallel"])]
    start = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"start": start, "end": time.time(), "errors": errors}


def files(user: str, *folders: str) -> int:
    """Count the messages of some folders ("" is INBOX), or of all, by their files."""
    maildir = Path("/srv/mail") / user / "Maildir"
    found = [maildir / name for name in folders] or [maildir, *maildir.glob(".*")]
    return sum(1 for folder in found for part in ("new", "cur") for _ in os.scandir(folder / part))


def pids(unit: str) -> list[str]:
    try:
        return (SLICE / unit / "cgroup.procs").read_text().split()
    except OSError:
        return []


class Watch:
    """Resident memory and CPU of units that work for the mail, looked at until `done` says so or time is up."""

    # The largest process of a unit counts; of Dovecot only those that read for a client.
    UNITS = (("bounce-breaker.service", "bounce-breaker", ""), ("dovecot.service", "imap", "imap"))

    def __init__(self, job: str) -> None:
        self.units = (*self.UNITS, (job, "job", ""))
        self.seen: dict[str, list[tuple[float, int]]] = {name: [] for _, name, _ in self.units}
        self.cpu: dict[str, list[float]] = {}

    def look(self) -> None:
        for unit, name, command in self.units:
            sizes = [0]
            for pid in pids(unit):
                try:
                    text = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue  # it has just ended
                if not command or text.startswith(f"Name:\t{command}\n"):
                    sizes += [int(size) for size in re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)]
            if max(sizes):
                self.seen[name].append((time.time(), max(sizes)))
        for unit in (
            "postfix.service",
            "dovecot.service",
            "bounce-breaker.service",
            "mariadb.service",
            self.units[-1][0],
        ):
            try:
                used = int(re.findall(r"usage_usec (\d+)", (SLICE / unit / "cpu.stat").read_text())[0]) / 1e6
            except OSError:
                continue
            self.cpu.setdefault(unit, []).append(used)

    def until(self, done: Callable[[], bool], deadline: float) -> bool:
        while not (well := done()) and time.time() < deadline:
            self.look()
            time.sleep(PAUSE)
        return well

    def result(self, start: float) -> dict[str, Any]:
        """Peaks in kB within the first quarter of the time, and in all of it; CPU seconds of each unit."""
        quarter = start + (time.time() - start) / 4
        memory = {
            name: [max((size for when, size in seen if when < quarter), default=0), max(size for _, size in seen)]
            for name, seen in self.seen.items()
            if seen
        }
        return {"memory": memory, "cpu": {unit: used[-1] - used[0] for unit, used in self.cpu.items()}}


def mailboxes(user: str) -> list[str]:
    listed = subprocess.run(["doveadm", "mailbox", "list", "-u", user], capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def arrive(given: dict[str, Any]) -> dict[str, Any]:
    """Wait until `count` messages more than `before` are in the mailbox, whatever folder they are in.

    With `impatient`, deferred mail is tried again at once: for what is not measured.
    """
    start, watch, wanted, moments = time.time(), Watch(given["unit"]), given["before"] + given["count"], [0.0, 0.0]

    def there() -> bool:
        nonlocal wanted
        found, now = files(given["user"]), time.time()
        if found >= wanted - given["count"] // 100:
            moments[0] = moments[0] or now
        if found < wanted:
            if given["impatient"] and now > start + 10:
                subprocess.run(["postqueue", "-f"], check=False, timeout=60)
            return False
        # Others' mail comes, too: the files' number is quick, their subjects tell.
        missing: int = given["count"] - sum(map(len, serials(given)["folders"].values()))
        wanted, moments[1] = found + missing, now
        return missing <= 0

    well = watch.until(there, start + given["seconds"])
    return {"well": well, "most": moments[0], "end": moments[1], **watch.result(start)}


def count(given: dict[str, Any]) -> dict[str, Any]:
    return {"count": files(given["user"])}


def drain(given: dict[str, Any]) -> dict[str, Any]:
    """Let the breaker look, then run the site's job, again and again, until nothing waits."""
    start, watch, runs, failed, breaker = time.time(), Watch(given["unit"]), 0, 0, 0.0
    deadline, left = start + given["seconds"], -1
    while left and time.time() < deadline:
        before, moment = left, time.time()
        subprocess.run(["bounce-breaker", "run"], check=True, timeout=300)
        breaker += time.time() - moment
        job = subprocess.Popen(["systemctl", "start", given["unit"]])

        def ended(job: subprocess.Popen[bytes] = job) -> bool:
            return job.poll() is not None

        if not watch.until(ended, deadline):
            subprocess.run(["systemctl", "stop", given["unit"]], check=True, timeout=120)
        failed += job.wait(60) != 0
        runs, left = runs + 1, files(given["user"], "", ".Incoming")
        if left == before:
            break  # a run that got nowhere; the next would not either
    end = time.time()
    told = {"start": start, "end": end, "left": left, "runs": runs, "failed": failed, "breaker": breaker}
    return told | watch.result(start)


def one_by_one(given: dict[str, Any]) -> dict[str, Any]:
    """Move the benchmark's messages from INBOX to a folder with CiviCRM's commands, and do nothing with them. Seconds.

    With `lists`, CiviCRM's look at the whole mailbox before each message is among them.
    """
    end = time.time() + given["seconds"]
    with imaplib.IMAP4_SSL("localhost", 993, ssl_context=ssl.create_default_context(), timeout=60) as client:
        client.login(given["user"], given["password"])
        client.create(given["folder"])
        client.select("INBOX")
        numbers = client.uid("SEARCH", "HEADER", "Subject", MARK)[1][0].split()
        start, done = time.time(), 0
        for first in range(0, len(numbers), BATCH):
            batch = numbers[first : first + BATCH]
            for number in batch:
                if given["lists"]:
                    waiting = client.search(None, "UNDELETED")[1][0].split()
                    client.fetch(b",".join(waiting[:BATCH]).decode(), "RFC822.SIZE")
                    client.uid("SEARCH", "UNDELETED")
                obey(client, "FETCH", number, "RFC822")
            for number in batch:
                obey(client, "STORE", number, "+FLAGS", "(\\Seen)")
                obey(client, "COPY", number, given["folder"])
                obey(client, "STORE", number, "+FLAGS", "(\\Deleted)")
            client.expunge()
            done += len(batch)
            if time.time() > end:
                break
        return {"seconds": time.time() - start, "messages": done}


def obey(client: imaplib.IMAP4, *command: Any) -> None:
    if (answer := client.uid(*command))[0] != "OK":
        raise RuntimeError(f"{command}: {answer}")


def back(given: dict[str, Any]) -> dict[str, Any]:
    """Put what is in the benchmark's folder into INBOX again."""
    move = ["doveadm", "move", "-u", given["user"], "INBOX", "mailbox", given["folder"], "all"]
    subprocess.run(move, check=True, capture_output=True, timeout=600)
    return {}


def serials(given: dict[str, Any]) -> dict[str, Any]:
    """Return the serials in each folder of a mailbox."""
    found = {}
    for folder in mailboxes(given["user"]):
        fetch = ["doveadm", "fetch", "-u", given["user"], "hdr.subject", "mailbox", folder, "header", "Subject", MARK]
        out = subprocess.run(fetch, capture_output=True, text=True, check=True, timeout=600).stdout
        found[folder] = [int(serial) for serial in re.findall(rf"\[{MARK} (\d+)\]", out)]
    return {"folders": found}


def clean(given: dict[str, Any]) -> dict[str, Any]:
    """Delete the benchmark's messages from Postfix's queue and some mailboxes, and remove its folder."""
    waiting = subprocess.run(["postqueue", "-j"], capture_output=True, text=True, check=True, timeout=60).stdout
    ours = re.compile(rf"civicrm\+[bu]\.({'|'.join(given['jobs']) or 'none'})\.")
    for entry in map(json.loads, waiting.splitlines()):
        if any(ours.match(recipient["address"]) for recipient in entry["recipients"]):
            subprocess.run(["postsuper", "-d", entry["queue_id"]], check=False, capture_output=True, timeout=60)
    for user in given["users"]:
        for folder in mailboxes(user):
            expunge = ["doveadm", "expunge", "-u", user, "mailbox", folder, "header", "Subject", MARK]
            subprocess.run(expunge, check=True, capture_output=True, timeout=600)
        if given["folder"] in mailboxes(user):
            subprocess.run(["doveadm", "mailbox", "delete", "-u", user, given["folder"]], check=True, timeout=60)
    return {}


ACTIONS = {f.__name__: f for f in (send, arrive, count, drain, one_by_one, back, serials, clean)}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(ACTIONS[asked.pop("action")](asked)))
