"""Write the numbers of one site of the donation API for Prometheus: donation-intake-metrics SITE FOLDER. Needs root.

Counters come from the site's own file, so nothing in it is believed but whole numbers under known names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from civicrm_tools.core import files

CONFIG = Path("/etc/donation-intake")
STATE = Path("/var/lib/donation-intake")
REFUSALS = (
    "campaign_unknown", "currency_unknown", "field_invalid", "field_missing", "field_unknown", "internal_error",
    "json_malformed", "key_reused", "media_type_unsupported", "method_not_allowed", "not_found", "origin_not_allowed",
    "switched_off", "too_large", "unavailable",
)  # fmt: skip


def read_counters(path: Path) -> dict[str, int]:
    """The site's counters; empty where there is no such file yet, or it is not one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            counts = json.loads(file.read(8192))
        return {name: n for name, n in counts.items() if type(n) is int and n >= 0}
    except (OSError, ValueError, AttributeError):
        return {}


def spool(path: Path, now: float) -> tuple[int, int]:
    """Number of donations that wait, and the age of the oldest in seconds; names begin with microseconds since 1970."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    first = names[0].partition("-")[0] if names else ""
    return len(names), max(0, int(now - int(first) / 1e6)) if first.isdigit() else 0


def lines(site: str, config: Path, state: Path, now: float) -> Iterator[str]:
    """The textfile; every counter exists at zero."""
    counts = read_counters(state / site / "counters.json")
    length, oldest = spool(state / site / "spool", now)
    version = json.loads((config / f"{site}.json").read_text())["campaignsVersion"]
    yield "# TYPE donation_intake_accepted_total counter"
    for status in ("queued", "spooled"):
        value = counts.get(f"accepted_{status}", 0)
        yield f'donation_intake_accepted_total{{site="{site}",status="{status}"}} {value}'
    yield "# TYPE donation_intake_refused_total counter"
    for code in REFUSALS:
        yield f'donation_intake_refused_total{{site="{site}",code="{code}"}} {counts.get(f"refused_{code}", 0)}'
    for name, kind, value in (
        ("replayed_total", "counter", counts.get("replayed", 0)),
        ("drained_total", "counter", counts.get("drained", 0)),
        ("spool_length", "gauge", length),
        ("spool_oldest_seconds", "gauge", oldest),
        ("switch_on", "gauge", int(not (config / f"{site}.off").exists())),
    ):
        yield f"# TYPE donation_intake_{name} {kind}"
        yield f'donation_intake_{name}{{site="{site}"}} {value}'
    yield "# TYPE donation_intake_campaigns_info gauge"
    yield f'donation_intake_campaigns_info{{site="{site}",version="{version}"}} 1'


def main(argv: list[str] | None = None) -> int:
    """Write FOLDER/donation_intake_SITE.prom, whole or not at all; exit status 1 where the site cannot be read."""
    parser = argparse.ArgumentParser(prog="donation-intake-metrics", description=__doc__)
    parser.add_argument("site")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    try:
        text = "".join(f"{line}\n" for line in lines(arguments.site, CONFIG, STATE, time.time()))
    except (OSError, ValueError, KeyError) as error:
        print(f"donation-intake-metrics: {error}", file=sys.stderr)
        return 1
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files.write(arguments.folder / f"donation_intake_{arguments.site}.prom", text, sync=False)
    return 0
