"""Say whether the private link works and fails closed, and repair it.

Looks at the guard's table, charon, each peer's SAs, an answer from each peer's inner addresses through the tunnel,
and the days left of the certificates. --repair loads a missing guard, initiates a missing CHILD_SA, reauthenticates a
silent peer, and restarts charon as the last resort; a charon that was stopped by hand stays stopped. Exit status:
0 all is well, 3 something is not, 1 it could not be checked. Needs root.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command, metrics
from civicrm_tools.core.locks import locked
from civicrm_tools.core.metrics import Family
from civicrm_tools.host import ipsec_repair
from civicrm_tools.host.ipsec_link import Config, Report, check

NAME = "ipsec-health"
CONFIG = Path("/etc/ipsec-health.json")

METRICS = {
    "ipsec_peer_up": "Whether the peer has SAs and answers through the tunnel.",
    "ipsec_peer_answers": "Whether the peer's inner address answers through the tunnel.",
    "ipsec_certificate_expiry_days": "Days until the certificate expires.",
    "ipsec_guard_loaded": "Whether the guard's table is the one of its file.",
    "ipsec_guard_dropped_packets_total": "Packets that would have travelled in clear.",
    "ipsec_repairs_total": "Repairs since boot; a peer that stays away counts once.",
    "ipsec_last_check_timestamp_seconds": "When the link was last checked.",
}


def families(report: Report, repairs: dict[str, int], config: Config, timestamp: float) -> list[Family]:
    """Return what the check found as metrics."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in METRICS}
    for name, peer in report.peers.items():
        samples["ipsec_peer_up"].append(({"peer": name}, peer.up))
        for address in config.peers[name]:
            family = "ipv6" if ":" in address else "ipv4"
            labels = {"peer": name, "family": family}
            samples["ipsec_peer_answers"].append((labels, peer.answers[address]))
    for label, days in report.certificates.items():
        samples["ipsec_certificate_expiry_days"].append(({"certificate": label}, days))
    samples["ipsec_guard_loaded"].append(({}, report.guard == "loaded"))
    for counter, packets in sorted(report.dropped.items()):
        direction, _, reason = counter.partition("_")
        labels = {"direction": direction, "reason": reason}
        samples["ipsec_guard_dropped_packets_total"].append((labels, packets))
    for action in ("guard", "initiate", "reauthenticate", "restart"):
        samples["ipsec_repairs_total"].append(({"action": action}, repairs.get(action, 0)))
    samples["ipsec_last_check_timestamp_seconds"].append(({}, round(timestamp)))
    return [
        Family(name, "counter" if name.endswith("_total") else "gauge", text, samples[name])
        for name, text in METRICS.items()
    ]


def describe(report: Report) -> str:
    lines = [f"guard: {report.guard}", f"charon: {report.charon}"]
    for name, peer in report.peers.items():
        silent = [address for address, answered in peer.answers.items() if not answered]
        problem = "no IKE_SA" if not peer.established else "no CHILD_SA" if not peer.installed else ""
        problem = problem or (f"no answer from {', '.join(silent)}" if silent else "")
        lines.append(f"peer {name}: {problem or 'up'}")
    lines += [f"certificate {label}: {days:.0f} days left" for label, days in report.certificates.items()]
    lines += [f"dropped {counter}: {packets}" for counter, packets in sorted(report.dropped.items()) if packets]
    return "\n".join(lines)


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repair", action="store_true", help="repair what is broken and write metrics; says only that")
    parser.add_argument(
        "--reauthenticate", nargs="+", metavar="PEER", help="replace the SAs of these peers by newly authenticated ones"
    )
    options = parser.parse_args(argv)
    config = Config.load(CONFIG)
    if options.reauthenticate:
        missing = ipsec_repair.reauthenticate(options.reauthenticate)
        for name in missing:
            command.tell(NAME, f"peer {name}: no new SA; the keys may not fit, the old SA stays")
        return command.NO if missing else command.DONE
    if options.repair:
        report = repair(config)
    else:
        report = check(config)
        print(json.dumps(report.as_dict(), indent=2) if options.json else describe(report))
    return command.DONE if report.healthy else command.NO


def repair(config: Config) -> Report:
    """Check and repair, one process at a time, and write the metrics."""
    with locked(ipsec_repair.STATE.with_suffix(".lock")):
        state, report = ipsec_repair.State.load(), check(config)
        ipsec_repair.repair(report, state, config, time.monotonic())
        state.save()
    if config.metrics_directory:
        found = families(report, state.repairs, config, time.time())
        metrics.write(config.metrics_directory / "ipsec.prom", found)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
