"""What the bounce breaker tells: its state for a person and for Prometheus, and why it judges a mail as it does."""

from __future__ import annotations

import re
import time
from typing import Any

from civicrm_tools.core.metrics import Family, gauge
from civicrm_tools.mail import delivery_report, handover, refusals, verdict
from civicrm_tools.mail.maildir import Folder
from civicrm_tools.mail.providers import Owners
from civicrm_tools.mail.refusals import Limits
from civicrm_tools.mail.return_path import Settings
from civicrm_tools.mail.storms import Recent, Storms, by_host, by_provider
from civicrm_tools.mail.verdict import KINDS, NOBODY, US, Verdict

INCOMING = "Incoming"
QUARANTINE = "Quarantine"
DROPPED = "Quarantine.dropped"
REFUSED = "Refused"
NOTICES = "Notices"
SHOWN = (INCOMING, QUARANTINE, DROPPED, REFUSED, NOTICES)
OUTCOMES = (
    "passed",
    "rewritten",
    "refused",
    "quarantined",
    "noticed",
    "would_refuse",
    "would_quarantine",
    "would_notice",
)


def status(settings: Settings, limits: Limits, storms: Storms, owners: Owners) -> dict[str, Any]:
    """All there is to know, as JSON types. A mail server's domain stands among the providers while it is a storm."""
    recent, open_ = storms.recent(), storms.incidents()
    numbers = by_host(recent) | by_provider(recent)
    return {
        "mode": limits.mode,
        "storm": f"{limits.storm_messages} in {limits.window:g} s and {limits.storm_share:.0%}",
        "providers": {
            name: {
                "open": name in open_,
                "since": open_[name]["since"] if name in open_ else None,
                "why": open_[name]["why"] if name in open_ else "",
                "paused": bool(open_[name]["paused"]) if name in open_ else False,
            }
            | {"refusals" if key == "us" else key: n for key, n in numbers.get(name, Recent())._asdict().items()}
            for name in dict.fromkeys([*owners.names, *open_])
        },
        "sites": {
            site.name: {folder.lower(): Folder(site.maildir, folder).count() for folder in SHOWN}
            for site in settings.sites
        },
        "messages": dict(storms.database.execute("SELECT outcome, messages FROM total").fetchall()),
        "verdicts": {
            f"{subject}/{kind}": messages
            for subject, kind, messages in storms.database.execute("SELECT * FROM verdict_total")
        },
        "shadow": limits.mode == "shadow",
        "now": storms.now,
    }


def describe(state: dict[str, Any]) -> str:
    """What a human reads of status()."""
    lines = [f"mode {state['mode']}; a storm is {state['storm']} of the bounces that are about no address"]
    for name, entry in state["providers"].items():
        what = "normal"
        if entry["open"]:
            since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(entry["since"]))
            what = f"STORM since {since}: {entry['why']}; mailing {'paused' if entry['paused'] else 'not paused'}"
        told = f"{entry['refusals']} refuse us, {entry['address']} addresses do not work, {entry['others']} others"
        lines.append(f"{name}: {what} (recently {told})")
    for name, folders in state["sites"].items():
        lines.append(f"mailbox {name}: " + ", ".join(f"{count} in {folder}" for folder, count in folders.items()))
    if state["verdicts"]:
        lines.append("so far: " + ", ".join(f"{count} {about}" for about, count in state["verdicts"].items()))
    return "\n".join(lines)


def families(settings: Settings, limits: Limits, storms: Storms, owners: Owners) -> list[Family]:
    """Prometheus text. Labels: configured providers, "default" and servers in a storm; sites; outcomes; verdicts."""
    state = status(settings, limits, storms, owners)
    by_name = [({"provider": name}, entry) for name, entry in state["providers"].items()]
    active = not state["shadow"]
    return [
        Family(
            "bounce_breaker_open",
            "gauge",
            "1 while the refusals of us by a provider, or by a mail server's domain, are a storm.",
            [(labels, int(entry["open"])) for labels, entry in by_name],
        ),
        Family(
            "bounce_breaker_unpaused",
            "gauge",
            "1 while the mailing there should be paused and is not.",
            [(labels, int(active and entry["open"] and not entry["paused"])) for labels, entry in by_name],
        ),
        Family(
            "bounce_breaker_recent_bounces",
            "gauge",
            "Bounces within the window, by what they are about.",
            [
                ({**labels, "reason": reason}, entry[key])
                for labels, entry in by_name
                for reason, key in (("us", "refusals"), ("address", "address"), ("other", "others"))
            ],
        ),
        Family(
            "bounce_breaker_messages_total",
            "counter",
            "Messages moved out of Incoming, by what became of them.",
            [({"outcome": outcome}, state["messages"].get(outcome, 0)) for outcome in OUTCOMES],
        ),
        Family(
            "bounce_breaker_verdicts_total",
            "counter",
            "Messages to bounce addresses, by what they are about.",
            [
                ({"subject": subject, "kind": kind}, state["verdicts"].get(f"{subject}/{kind}", 0))
                for subject, kinds in KINDS.items()
                for kind in kinds
            ],
        ),
        gauge("bounce_breaker_shadow", "1 in shadow mode.", state["shadow"]),
        gauge("bounce_breaker_last_run_timestamp_seconds", "When the breaker last ended well.", int(state["now"])),
    ]


def explain(raw: bytes, settings: Settings, limits: Limits, owners: Owners) -> str:
    """What a mail, or what a server said, is about, which rule says so, and what the breaker does with it."""
    if not re.match(rb"(?:From |[!-9;-~]+:[ \t])", raw):
        return _told(verdict.of_reply(" ".join(raw.decode("utf-8", "replace").split())))
    for site in settings.sites:
        bounce = delivery_report.read(raw, site)
        if bounce is None:
            continue
        found = limits.verdict(bounce)
        lines = [
            _told(found),
            f"site: {site.name}",
            f"recipient: {bounce.recipient or 'not named'}, of {owners.of(bounce.recipient)}",
            f"said by: {bounce.host or 'nobody who is named'}, in a storm: {refusals.organisation(bounce.host)}",
            f"code: {bounce.status or 'none'}",
            f"words: {bounce.text[:400] or 'none'}",
        ]
        if found.subject not in (US, NOBODY):
            right = handover.read_right(bounce, found)
            lines.append(f"handed over: {'as it came' if right else 'wrapped in words that CiviCRM reads right'}")
        return "\n".join(lines)
    return "to no bounce address: it passes as it came"


def _told(found: Verdict) -> str:
    does = {US: f"it goes to {REFUSED}, in a storm to {QUARANTINE}", NOBODY: f"it goes to {NOTICES}"}
    return f"verdict: {found}\nrule: {found.rule}\nso: {does.get(found.subject, 'the application gets it')}"
