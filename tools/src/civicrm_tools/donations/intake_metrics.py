"""Write the numbers of one site of the donation API for Prometheus: donation-intake-metrics SITE DIRECTORY. Needs root.

Writes DIRECTORY/donation_intake_SITE.prom, whole or not at all. Counters come from the site's own file, so nothing in
it is believed but whole numbers under known names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command, files, metrics, paths
from civicrm_tools.core.command import DONE
from civicrm_tools.core.metrics import Family
from civicrm_tools.donations.switch import DIRECTORY as CONFIG
from civicrm_tools.donations.switch import switch

NAME = "donation-intake-metrics"
STATE = Path("/var/lib/donation-intake")
REFUSALS = (
    "campaign_unknown", "currency_unknown", "field_invalid", "field_missing", "field_unknown", "internal_error",
    "json_malformed", "key_reused", "media_type_unsupported", "method_not_allowed", "not_found", "origin_not_allowed",
    "signature_invalid", "switched_off", "too_large", "unavailable",
)  # fmt: skip

COUNTERS = {
    "proved_total": "Donations handed on when their payment proved them.",
    "odd_total": "Donations whose payment proves another one, or another amount.",
    "undone_total": "Payments taken back after their donation was handed on.",
    "pending_evicted_total": "Unproved donations forgotten as there were too many.",
    "pending_expired_total": "Unproved donations forgotten after their days.",
    "notices_total": "Signed notices of the payment provider.",
    "lookups_total": "Questions to the payment provider.",
    "lookups_failed_total": "Questions to which it gave no answer.",
}


def read_counters(path: Path) -> dict[str, int]:
    """The site's counters; empty where there is no such file yet, or it is not one."""
    try:
        counts = json.loads(paths.read(path, 8192))
        return {name: n for name, n in counts.items() if type(n) is int and n >= 0}
    except (OSError, ValueError, AttributeError):
        return {}


def spool(path: Path, now: float) -> tuple[int, int]:
    """Number of donations that wait, and the age of the oldest in seconds; names begin with microseconds since 1970."""
    names = sorted(name for name in paths.names(path) if not name.startswith("."))
    first = names[0].partition("-")[0] if names else ""
    return len(names), max(0, int(now - int(first) / 1e6)) if first.isdigit() else 0


def families(site: str, config: Path, state: Path, now: float) -> list[Family]:
    """Return a site's metrics; every counter exists at zero. Raises OSError and Unreadable."""
    counts = read_counters(state / site / "counters.json")
    length, oldest = spool(state / site / "spool", now)
    version = files.read_json(config / f"{site}.json", lambda raw: str(raw["campaignsVersion"]))
    accepted = [
        ({"site": site, "status": status}, counts.get(f"accepted_{status}", 0))
        for status in ("pending", "queued", "spooled")
    ]
    refused = [({"site": site, "code": code}, counts.get(f"refused_{code}", 0)) for code in REFUSALS]
    waiting = read_counters(state / site / "pending.json")
    oldest_pending = max(0, int(now) - waiting["since"]) if waiting.get("since") else 0
    is_on = not switch(config, site).exists()
    return [
        Family("donation_intake_accepted_total", "counter", "Donations accepted.", accepted),
        Family("donation_intake_refused_total", "counter", "Requests refused.", refused),
        *(
            Family(f"donation_intake_{name}", kind, text, [({"site": site}, value)])
            for name, kind, text, value in (
                ("replayed_total", "counter", "Requests that had been accepted before.", counts.get("replayed", 0)),
                ("drained_total", "counter", "Donations sent from the spool to the queue.", counts.get("drained", 0)),
                *((n, "counter", text, counts.get(n.removesuffix("_total"), 0)) for n, text in COUNTERS.items()),
                ("pending_length", "gauge", "Donations that wait for their proof.", waiting.get("length", 0)),
                ("pending_odd", "gauge", "Those whose payment is another's.", waiting.get("odd", 0)),
                ("pending_oldest_seconds", "gauge", "Age of the oldest that waits for its proof.", oldest_pending),
                ("spool_length", "gauge", "Donations in the spool.", length),
                ("spool_oldest_seconds", "gauge", "Age of the oldest donation in the spool.", oldest),
                ("switch_on", "gauge", "Whether the site takes donations.", is_on),
            )
        ),
        Family(
            "donation_intake_campaigns_info",
            "gauge",
            "The site's list of campaigns.",
            [({"site": site, "version": version}, 1)],
        ),
    ]


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("site")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args(argv)
    found = families(options.site, CONFIG, STATE, time.time())
    metrics.write(options.directory / f"donation_intake_{options.site}.prom", found)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv, also=(ValueError,))
