"""What bench/mass_mailing.py does inside a host: one action a run, its arguments as JSON on stdin, its result as JSON.

Runs on Debian's own Python. Every message of a benchmark goes to a local part that begins with MARK.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import smtplib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SPOOL = Path("/var/spool/postfix")
SLICE = Path("/sys/fs/cgroup/system.slice")
MARK = "mass-mailing-bench-"
# Everything that works for a message: the cost of one is the CPU time of all of these.
UNITS = (
    "postfix.service", "system-postfix.slice", "postfix-pace.service", "receipt-milter.service", "opendkim.service",
    "dovecot.service", "rsyslog.service", "systemd-journald.service", "mtail.service", "bounce-breaker.service",
)  # fmt: skip
BODY = "\r\n".join(["A newsletter has some lines of text, and this is one of them."] * 32)


def message(sender: str, recipient: str, serial: int) -> str:
    """Return a mailing's message of about 2.5 KB, as CiviMail would write it."""
    return (
        f"From: Bench <news@{sender.partition('@')[2]}>\r\nTo: {recipient}\r\nSubject: Benchmark {serial}\r\n"
        f"Precedence: bulk\r\njob_id: 1\r\nX-CiviMail-Bounce: {sender}\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{BODY}\r\n"
    )


def envelope(sender: str, domain: str, serial: int) -> tuple[str, str]:
    """Return a VERP sender and a recipient nobody else has."""
    return sender.replace("SERIAL", str(serial + 1)), f"{MARK}{serial}@{domain}"


def site_user(site: str) -> str:
    """Return the OS user of a site; on a host without sites, somebody who may call sendmail."""
    path = Path("/etc/postfix/diversion.json")
    users = json.loads(path.read_text())["users"] if path.is_file() else {}
    uid = next((int(uid) for uid, name in users.items() if name == site), None)
    return "nobody" if uid is None else pwd.getpwuid(uid).pw_name


def by_sendmail(jobs: list[tuple[int, str]], given: dict[str, Any]) -> None:
    user = site_user(given["site"])
    for serial, domain in jobs:
        sender, recipient = envelope(given["sender"], domain, serial)
        command = ["/usr/sbin/sendmail", "-i", "-f", sender, "--", recipient]
        text = message(sender, recipient, serial).replace("\r\n", "\n")
        subprocess.run(command, input=text, text=True, check=True, user=user, cwd="/")


def by_smtp(jobs: list[tuple[int, str]], given: dict[str, Any]) -> None:
    client = None
    for serial, domain in jobs:
        if client is None:
            client = smtplib.SMTP("127.0.0.1", given["port"], timeout=300)
            if given["login"]:
                client.login(given["login"], given["password"])
        sender, recipient = envelope(given["sender"], domain, serial)
        client.sendmail(sender, [recipient], message(sender, recipient, serial))
        if given["how"] == "new":
            client.quit()
            client = None
    if client:
        client.quit()


def inject(given: dict[str, Any]) -> dict[str, Any]:
    """Hand in `recipients` ([[domain, count], ...], evenly mixed) by `how`: sendmail, new or reused."""
    place = sorted((n / count, domain) for domain, count in given["recipients"] for n in range(1, count + 1))
    jobs = [(given["first"] + n, domain) for n, (_, domain) in enumerate(place)]
    errors: list[str] = []

    def work(part: list[tuple[int, str]]) -> None:
        try:
            (by_sendmail if given["how"] == "sendmail" else by_smtp)(part, given)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(jobs[n :: given["parallel"]],)) for n in range(given["parallel"])]
    start = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"start": start, "seconds": time.time() - start, "errors": errors}


def sunk(given: dict[str, Any]) -> dict[str, Any]:
    """Wait until smtp-sink, which writes its counters to `path`, has `count` messages; give up after `seconds`."""
    start, found, moment = time.time(), -1, 0.0
    while True:
        with Path(given["path"]).open("rb") as counters:
            counters.seek(max(0, counters.seek(0, os.SEEK_END) - 200))
            numbers = re.findall(rb"mesg=(\d+)\r", counters.read())
        now = time.time()
        if (count := int(numbers[-1]) if numbers else 0) != found:
            found, moment = count, now
        if found >= given["count"] or now > start + given["seconds"]:
            return {"count": found, "last": moment}
        time.sleep(0.02)


def position(given: dict[str, Any]) -> dict[str, Any]:
    path = Path(given["path"])
    return {"position": path.stat().st_size if path.is_file() else 0}


def count_lines(given: dict[str, Any]) -> dict[str, Any]:
    """Count the lines of a log from `position` in which each text stands; wait until `count` hold the first one."""
    deadline = time.time() + given["seconds"]
    while True:
        with Path(given["path"]).open("rb") as log:
            log.seek(given["position"])
            lines = log.read().splitlines()
        found = [sum(text.encode() in line for line in lines) for text in given["texts"]]
        if found[0] >= given["count"] or time.time() > deadline:
            return {"lines": found, "end": time.time()}
        time.sleep(0.2)


def cpu(_given: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds so far of all units that work for mail, each by itself too."""
    used = {}
    for unit in UNITS:
        path = SLICE / unit / "cpu.stat"
        if path.is_file():
            used[unit] = int(re.findall(r"usage_usec (\d+)", path.read_text())[0]) / 1e6
    return {"seconds": sum(used.values()), "units": used}


def qmgr(_given: dict[str, Any]) -> dict[str, Any]:
    """Resident bytes and CPU seconds of the queue manager, and files in its queues."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            if text.startswith("Name:\tqmgr\n"):
                fields = (status.parent / "stat").read_text().rpartition(")")[2].split()
                used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                resident = int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) * 1024
                break
        except OSError:
            continue
    else:
        used, resident = 0.0, 0
    files = {
        name: sum(len(files) for _, _, files in os.walk(SPOOL / name)) for name in ("incoming", "active", "deferred")
    }
    return {"resident": resident, "cpu": used, **files}


def clear(_given: dict[str, Any]) -> dict[str, Any]:
    """Delete what the benchmark has left in the queues, and let the queue manager forget it."""
    done = subprocess.run(["postqueue", "-j"], capture_output=True, text=True, check=True)
    ours = [
        entry["queue_id"]
        for entry in map(json.loads, done.stdout.splitlines())
        if any(recipient["address"].startswith(MARK) for recipient in entry["recipients"])
    ]
    if ours:
        subprocess.run(["postsuper", "-d", "-"], input="\n".join(ours), text=True, check=True, capture_output=True)
        subprocess.run(["postfix", "reload"], check=True, capture_output=True)
    return {"deleted": len(ours)}


def timed(*command: str) -> float:
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.monotonic() - start


def sizes(given: dict[str, Any]) -> dict[str, Any]:
    """Time the count of `count` files in a queue that Postfix does not look into. Median of three, seconds."""
    # As Postfix spreads them: 256 directories.
    directory = SPOOL / "corrupt" / "mass-mailing-bench"
    try:
        for n in range(256):
            (directory / f"{n:02X}").mkdir(parents=True, exist_ok=True)
        for n in range(given["count"]):
            os.close(os.open(directory / f"{n % 256:02X}" / f"{n:012X}", os.O_CREAT | os.O_WRONLY, 0o600))
        ours = sorted(timed("postfix-queues-sizes") for _ in range(3))[1]
        # What an untouched Debian has for it.
        find = sorted(timed("find", str(SPOOL), "-type", "f") for _ in range(3))[1]
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)
    return {"ours": ours, "find": find}


def trace(given: dict[str, Any]) -> dict[str, Any]:
    """Time postfix-trace on a log of `count` lines, five for each message, by each kind of key. Seconds."""
    path = Path("/var/log/mass-mailing-bench.log")
    total = given["count"] // 5
    alphabet = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"

    def queue_id(n: int) -> str:
        text = ""
        for _ in range(5):
            n, digit = divmod(n, len(alphabet))
            text = alphabet[digit] + text
        return f"4dCl8S{text}z1w"

    head = "2026-11-20T08:33:45.123456+00:00 crm-int-01"
    try:
        with path.open("w") as log:
            for n in range(total):
                i, sender = queue_id(n), f"civicrm+b.1.{n}.0123456789abcdef@crm.example.org"
                log.write(
                    f"{head} postfix/submission/smtpd[11]: {i}: client=localhost[127.0.0.1], sasl_username=crm\n"
                    f"{head} postfix/cleanup[12]: {i}: message-id=<{n}.bench@crm.example.org>\n"
                    f"{head} postfix/qmgr[13]: {i}: from=<{sender}>, size=2500, nrcpt=1 (queue active)\n"
                    f"{head} postfix-gmail/smtp[14]: {i}: to=<u{n}@gmail.test>, relay=mx.gmail.test[192.0.2.1]:25, "
                    "delay=0.5, delays=0/0/0/0.5, dsn=2.0.0, status=sent (250 2.0.0 Ok)\n"
                    f"{head} postfix/qmgr[13]: {i}: removed\n"
                )
        half = total // 2
        keys = {
            "a queue ID": queue_id(half),
            "a Message-ID": f"{half}.bench@crm.example.org",
            "a VERP address": f"civicrm+b.1.{half}.0123456789abcdef@crm.example.org",
            "a recipient": f"u{half}@gmail.test",
        }
        found = {name: timed("postfix-trace", "--log", str(path), key) for name, key in keys.items()}
        grep = timed("grep", "-c", "-F", keys["a recipient"], str(path))
    finally:
        path.unlink(missing_ok=True)
    return {"ours": found, "grep": grep}


ACTIONS = {f.__name__: f for f in (inject, sunk, position, count_lines, cpu, qmgr, clear, sizes, trace)}


def main() -> int:
    given = json.load(sys.stdin)
    print(json.dumps(ACTIONS[given.pop("action")](given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
