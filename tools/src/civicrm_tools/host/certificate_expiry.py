"""Say how long the certificates run that the daemons of this host really show.

Asks each address with openssl, as a client would: so a daemon that still shows its old certificate, a wrong one, and a
name that nobody serves are found, which no look at the files finds. Whom it asks: /etc/certificate-expiry.json.
Exit status: 0 all are shown, trusted and run for 14 days; 3 one is not; 1 it could not be checked.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from civicrm_tools.core import certificates, command, files, metrics
from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.core.run import run

NAME = "certificate-expiry"
CONFIG = Path("/etc/certificate-expiry.json")
ENOUGH_DAYS = 14
ANSWER_SECONDS = 15
AT_ONCE = 8


@dataclass(frozen=True)
class Endpoint:
    """Where a certificate is shown. server_name: sent as SNI, and the name that has to stand in it."""

    server_name: str
    address: str
    port: int
    starttls: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        return {"name": self.server_name, "port": str(self.port)}


@dataclass(frozen=True)
class Shown:
    """What an endpoint showed. days: left, None if nothing was shown; problem: one line, empty if all is well."""

    days: float | None
    trusted: bool
    problem: str


def load(path: Path) -> list[Endpoint]:
    """Return what is to be asked. Raises Failure."""

    def build(raw: dict[str, Any]) -> list[Endpoint]:
        return [Endpoint(e["server_name"], e["address"], int(e["port"]), e.get("starttls")) for e in raw["shown"]]

    return files.read_json(path, build)


def ask(endpoint: Endpoint, now: datetime.datetime) -> Shown:
    """Return what the endpoint shows to a client that asks for its server_name."""
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    name = ["-servername", endpoint.server_name, "-verify_hostname", endpoint.server_name]
    starttls = ["-starttls", endpoint.starttls] if endpoint.starttls else []
    asked = ["s_client", "-connect", f"{address}:{endpoint.port}", *name, *starttls]
    # Any status: a server that accepts and then says nothing ends with its time.
    answer = run("openssl", *asked, timeout=ANSWER_SECONDS, statuses=())
    pem = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", answer.stdout, re.DOTALL)
    if not pem:
        return Shown(None, False, reason(answer.stderr))
    days = certificates.days_left(pem[0], now)
    if days is None:
        return Shown(None, False, "what was shown is no certificate")
    # The first one: after the session a TLS 1.3 server's tickets repeat it.
    verdict = re.search(r"Verify return code: (\d+) \((.*)\)", answer.stdout)
    trusted = verdict is not None and verdict[1] == "0"
    problem = "" if trusted else f"not trusted: {verdict[2] if verdict else 'no verdict'}"
    return Shown(days, trusted, problem or ("" if days >= ENOUGH_DAYS else f"less than {ENOUGH_DAYS} days"))


def ask_all(endpoints: list[Endpoint], now: datetime.datetime) -> dict[Endpoint, Shown]:
    """Return what all endpoints show, some of them asked at once."""
    from concurrent.futures import ThreadPoolExecutor  # half of the command's memory, which --help does without

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(endpoints, pool.map(lambda endpoint: ask(endpoint, now), endpoints), strict=True))


def reason(stderr: str) -> str:
    """Return openssl's own word in one line: that of the system (Connection refused) comes first."""
    found = re.search(r"(?:connect:errno=\d+|:system library:[^:]*:([^:\n]+))", stderr)
    lines = [line for line in stderr.splitlines() if line.strip()]
    return (found and found[1]) or (lines[-1].strip()[:200] if lines else "nothing was shown")


def families(found: dict[Endpoint, Shown], timestamp: float) -> list[Family]:
    """Return what the endpoints showed as metrics."""
    days = [(e.labels, shown.days) for e, shown in found.items() if shown.days is not None]
    seen = [(e.labels, shown.days is not None) for e, shown in found.items()]
    trusted = [(e.labels, shown.trusted) for e, shown in found.items()]
    help_of_days = "Days until the certificate shown expires; missing where none was shown."
    return [
        Family("certificate_shown", "gauge", "Whether a certificate was shown.", seen),
        Family(
            "certificate_trusted", "gauge", "Whether this host trusts the certificate shown for that name.", trusted
        ),
        Family("certificate_expiry_days", "gauge", help_of_days, days),
        gauge("certificate_expiry_last_run_timestamp_seconds", "When the daemons were last asked.", int(timestamp)),
    ]


def as_json(found: dict[Endpoint, Shown]) -> str:
    """Return [{name, address, port, days, trusted, problem}]; days to two places, null where nothing was shown."""
    rows = [
        {"name": e.server_name, "address": e.address, "port": e.port,
         "days": None if shown.days is None else round(shown.days, 2),
         "trusted": shown.trusted, "problem": shown.problem}
        for e, shown in found.items()
    ]  # fmt: skip
    return json.dumps(rows, indent=2)


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write metrics to FILE instead of printing a table")
    parser.add_argument("--json", action="store_true", help="as JSON: [{name, address, port, days, trusted, problem}]")
    options = parser.parse_args(argv)
    now = datetime.datetime.now(datetime.UTC)
    found = ask_all(load(CONFIG), now)
    if options.output:
        metrics.write(options.output, families(found, now.timestamp()))
    if options.json:
        print(as_json(found))
    for endpoint, shown in {} if options.json else found.items():
        days = "no certificate" if shown.days is None else f"{shown.days:.0f} days left"
        if shown.problem or not options.output:
            print(f"{endpoint.server_name}:{endpoint.port}: {days}{f': {shown.problem}' if shown.problem else ''}")
    return command.NO if any(shown.problem for shown in found.values()) else command.DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
