"""Say whether the private link works and fails closed, and repair it.

Looks at the guard's table, charon, each peer's SAs, an answer from each peer's inner addresses through the tunnel,
and the days left of the certificates. --repair loads a missing guard, initiates a missing CHILD_SA, reauthenticates a
silent peer, and restarts charon as the last resort; a charon that was stopped by hand stays stopped. Exit status:
0 all is well, 1 something is not, 2 it could not be checked. Needs root.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import certificates, files, metrics
from civicrm_tools.core.command import Failure
from civicrm_tools.core.locks import locked
from civicrm_tools.core.metrics import Family

CONFIG = Path("/etc/ipsec-health.json")
STATE = Path("/run/ipsec-health.json")
GUARD_FILE = Path("/etc/ipsec-guard.nft")
# Written by ipsec-guard.service: the SHA-256 of the file that it loaded, then the table as nft lists it.
GUARD_RECORD = Path("/run/ipsec-guard.loaded")
GUARD_TABLE = ("table", "inet", "ipsec_guard")

COMMAND_SECONDS = 10
PROBE_SECONDS = 2.0
# A peer with SAs that does not answer: longer than dead peer detection takes, so that charon comes first.
SILENT_SECONDS = 45
REAUTHENTICATION_SECONDS = 30
CERTIFICATE_DAYS = 14

ECHO_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
ECHO_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}

METRICS = {
    "ipsec_peer_up": "Whether the peer has SAs and answers through the tunnel.",
    "ipsec_peer_answers": "Whether the peer's inner address answers through the tunnel.",
    "ipsec_certificate_expiry_days": "Days until the certificate expires.",
    "ipsec_guard_loaded": "Whether the guard's table is the one of its file.",
    "ipsec_guard_dropped_packets_total": "Packets that would have travelled in clear.",
    "ipsec_repairs_total": "Repairs since boot; a peer that stays away counts once.",
    "ipsec_last_check_timestamp_seconds": "When the link was last checked.",
}


class HealthError(Failure):
    """What could not be checked, in one line for the operator."""


@dataclass(frozen=True)
class Config:
    """peers: name -> its inner addresses, IPv4 and IPv6; own: this host's. certificates: label -> PEM file."""

    own: list[str]
    peers: dict[str, list[str]]
    certificates: dict[str, Path]
    metrics_directory: Path | None
    hold_off_seconds: float

    @classmethod
    def load(cls, path: Path) -> Config:
        return files.read_json(
            path,
            lambda raw: cls(
                own=list(raw["own"]),
                peers={name: list(addresses) for name, addresses in raw["peers"].items()},
                certificates={label: Path(file) for label, file in raw["certificates"].items()},
                metrics_directory=Path(raw["metrics_directory"]) if raw["metrics_directory"] else None,
                hold_off_seconds=float(raw["hold_off_seconds"]),
            ),
        )


@dataclass
class Peer:
    """What is known of a peer. answers: inner address -> whether it answered through the tunnel."""

    established: bool = False
    installed: bool = False
    connecting: bool = False
    answers: dict[str, bool] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.established and self.installed and all(self.answers.values())


@dataclass
class Report:
    """guard: loaded, missing or differs. charon: answers, or what systemd says of it (failed, inactive, ...)."""

    guard: str
    charon: str
    peers: dict[str, Peer]
    certificates: dict[str, float]
    dropped: dict[str, int]

    @property
    def healthy(self) -> bool:
        return (
            self.guard == "loaded"
            and self.charon == "answers"
            and all(peer.up for peer in self.peers.values())
            and all(days >= CERTIFICATE_DAYS for days in self.certificates.values())
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "guard": self.guard,
            "charon": self.charon,
            "peers": {name: vars(peer) | {"up": peer.up} for name, peer in self.peers.items()},
            "certificates": self.certificates,
            "dropped": self.dropped,
        }


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that hangs counts as failed, as a daemon that hangs is no better than a dead one."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {COMMAND_SECONDS} s")
    except FileNotFoundError as error:
        raise HealthError(f"{command[0]} is not installed") from error


def parse_event(line: str) -> dict[str, Any]:
    """Return one line of `swanctl --raw` as nested dictionaries of strings."""
    stack: list[dict[str, Any]] = [{}]
    for match in re.finditer(r"}|([^\s={}]+) {|([^\s={}]+)=(\[[^\]]*\]|[^\s{}]*)", line):
        opened, key, value = match.groups()
        if opened:
            stack.append(stack[-1].setdefault(opened, {}))
        elif key:
            stack[-1][key] = value
        elif len(stack) > 1:
            stack.pop()
    return stack[0]


def list_sas() -> list[tuple[str, dict[str, Any]]] | None:
    """Return (connection, IKE_SA) for each IKE_SA, or None if charon does not answer."""
    done = run("swanctl", "--list-sas", "--raw")
    if done.returncode != 0:
        return None
    events = [parse_event(line)["event"] for line in done.stdout.splitlines() if line.startswith("list-sa event ")]
    return [(name, sa) for event in events for name, sa in event.items()]


def has_installed_child(sa: dict[str, Any]) -> bool:
    return any(child.get("state") == "INSTALLED" for child in sa.get("child-sas", {}).values())


def peer_states(names: list[str], sas: list[tuple[str, dict[str, Any]]]) -> dict[str, Peer]:
    """One established IKE_SA with an installed CHILD_SA is enough: crossing initiations leave two."""
    peers = {name: Peer() for name in names}
    for name, sa in sas:
        if name in peers:
            peer = peers[name]
            peer.established |= sa.get("state") == "ESTABLISHED"
            peer.installed |= sa.get("state") == "ESTABLISHED" and has_installed_child(sa)
            peer.connecting |= sa.get("state") == "CONNECTING"
    return peers


def charon_state() -> str:
    """Return systemd's word for charon when it does not answer: active, failed, inactive, activating, ..."""
    return run("systemctl", "show", "--property=ActiveState", "--value", "strongswan.service").stdout.strip()


def guard_state() -> str:
    """Compare the kernel's table with the one that was loaded from the file as it is now."""
    listed = run("nft", "--stateless", "list", *GUARD_TABLE)
    if listed.returncode != 0:
        return "missing"
    try:
        record, table = GUARD_RECORD.read_text().split("\n", 1)
        digest = hashlib.sha256(GUARD_FILE.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return "differs"
    return "loaded" if record.split()[:1] == [digest] and table == listed.stdout else "differs"


def guard_counters() -> dict[str, int]:
    """Return packets by counter, such as out_inner_source."""
    done = run("nft", "--json", "list", "counters", *GUARD_TABLE)
    if done.returncode != 0:
        return {}
    items = (entry.get("counter") for entry in json.loads(done.stdout)["nftables"])
    return {counter["name"]: counter["packets"] for counter in items if counter}


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def echo_request(family: int, identifier: int) -> bytes:
    """Return an ICMP or ICMPv6 echo request; the kernel fills in the checksum of ICMPv6."""
    packet = struct.pack("!BBHHH", ECHO_REQUEST[family], 0, 0, identifier, 1)
    if family == socket.AF_INET:
        packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
    return packet


def is_reply(family: int, packet: bytes, identifier: int) -> bool:
    if family == socket.AF_INET:
        packet = packet[(packet[0] & 0x0F) * 4 :]  # raw IPv4 sockets deliver the IP header too
    return len(packet) >= 8 and packet[0] == ECHO_REPLY[family] and packet[4:6] == struct.pack("!H", identifier)


def probe(own: list[str], addresses: list[str]) -> dict[str, bool]:
    """Return which addresses answer an echo request from this host's own inner address, within PROBE_SECONDS."""
    answers = dict.fromkeys(addresses, False)
    identifier = os.getpid() & 0xFFFF
    sockets = {}
    for source in own:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if ":" in source else socket.IPPROTO_ICMP
        try:
            sockets[family] = socket.socket(family, socket.SOCK_RAW, protocol)
            sockets[family].bind((source, 0))
        except OSError:
            sockets.pop(family, None)  # the inner address is gone: nobody answers it
    deadline = time.monotonic() + PROBE_SECONDS
    again = 0.0  # one packet may be lost: ask each second
    while not all(answers.values()) and (left := deadline - time.monotonic()) > 0:
        if time.monotonic() >= again:
            again = time.monotonic() + 1
            for address in [a for a, answered in answers.items() if not answered]:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                try:
                    sockets[family].sendto(echo_request(family, identifier), (address, 0))
                except (KeyError, OSError):
                    continue  # the guard refused it, or there is no route: no answer
        for ready in select.select(list(sockets.values()), [], [], min(left, 1))[0]:
            packet, sender = ready.recvfrom(2048)
            if sender[0] in answers and is_reply(ready.family, packet, identifier):
                answers[sender[0]] = True
    for each in sockets.values():
        each.close()
    return answers


def days_left(path: Path, now: datetime.datetime) -> float:
    """Return the days until a PEM file's certificate expires; one that cannot be read is as bad as an expired one."""
    try:
        return certificates.days_left(path.read_text(), now) or 0.0
    except (OSError, ValueError, Failure):
        return 0.0


def check(config: Config) -> Report:
    sas = list_sas()
    peers = peer_states(list(config.peers), sas or [])
    asked = [address for name, peer in peers.items() if peer.installed for address in config.peers[name]]
    answered = probe(config.own, asked) if asked else {}
    for name, peer in peers.items():
        peer.answers = {address: answered.get(address, False) for address in config.peers[name]}
    now = datetime.datetime.now(datetime.UTC)
    return Report(
        guard=guard_state(),
        charon="answers" if sas is not None else charon_state(),
        peers=peers,
        certificates={label: days_left(path, now) for label, path in config.certificates.items()},
        dropped=guard_counters(),
    )


@dataclass
class State:
    """What a run must know of those before it, since boot. Times are seconds of the monotonic clock."""

    repairs: dict[str, int] = field(default_factory=dict)
    down_since: dict[str, float] = field(default_factory=dict)
    silent_since: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    charon: str = "answers"

    @classmethod
    def load(cls) -> State:
        try:
            return files.read_json(STATE, lambda raw: cls(**raw))
        except files.Unreadable:
            return cls()

    def save(self) -> None:
        files.write_json(STATE, vars(self))

    def held_off(self, what: str, now: float, seconds: float) -> bool:
        """Whether something was done less than `seconds` ago; if not, it counts as done now."""
        if now - self.last.get(what, -seconds) < seconds:
            return True
        self.last[what] = now
        return False

    def count(self, action: str) -> None:
        self.repairs[action] = self.repairs.get(action, 0) + 1


def say(line: str) -> None:
    # systemd reads the level: repairs pass the unit's filter, its own "Started" and "Finished" do not.
    print(("<5>" if "JOURNAL_STREAM" in os.environ else "") + line, flush=True)


def repair_guard(report: Report, state: State) -> None:
    if report.guard == "loaded":
        return
    # The unit has no ExecStop: a restart loads the table in one transaction.
    done = run("systemctl", "restart", "ipsec-guard.service")
    before, report.guard, report.dropped = report.guard, guard_state(), guard_counters()
    failed = done.stderr.strip() or "it still does"
    say(
        f"guard: {before}: "
        + (f"loaded {GUARD_FILE}" if report.guard == "loaded" else f"could not be loaded: {failed}")
    )
    state.count("guard")


def repair_charon(report: Report, state: State, config: Config, now: float) -> None:
    before, state.charon = state.charon, report.charon
    if report.charon == "inactive" and before != "inactive":
        say("charon: stopped by hand, left alone; start it with 'systemctl start strongswan'")
    # Once mute may be a restart that has just begun; systemd's own restarts come first.
    broken = report.charon == "failed" or (report.charon == "active" and before == "active")
    if broken and not state.held_off("restart", now, config.hold_off_seconds):
        run("systemctl", "reset-failed", "strongswan.service")
        run("systemctl", "restart", "--no-block", "strongswan.service")
        say(f"charon: {'failed' if report.charon == 'failed' else 'does not answer'}: restarted")
        state.count("restart")


def repair_peer(name: str, peer: Peer, state: State, config: Config, now: float) -> None:
    if peer.up and name in state.down_since:
        say(f"peer {name}: up again after {now - state.down_since.pop(name):.0f} s")
    if not peer.installed:
        first = name not in state.down_since
        state.down_since.setdefault(name, now)
        state.silent_since.pop(name, None)
        if peer.connecting:
            if first:
                say(f"peer {name}: no CHILD_SA: charon is connecting")
            return
        # A negative timeout: do not wait for the outcome, the next run sees it.
        done = run("swanctl", "--initiate", "--child", name, "--timeout", "-1")
        if "not found" in done.stderr:
            run("swanctl", "--load-all", "--noprompt")
            say(f"peer {name}: charon did not know the connection: loaded")
        if first:
            say(f"peer {name}: no CHILD_SA: initiated")
            state.count("initiate")
    elif any(peer.answers.values()):
        state.silent_since.pop(name, None)
    elif now - state.silent_since.setdefault(name, now) >= SILENT_SECONDS:
        state.down_since.setdefault(name, state.silent_since[name])
        if not state.held_off(f"reauthenticate {name}", now, config.hold_off_seconds):
            # Make before break: if the peer is fine and only refuses to answer, nothing is lost.
            run("swanctl", "--rekey", "--ike", name, "--reauth")
            say(
                f"peer {name}: no answer through the tunnel for {now - state.silent_since[name]:.0f} s: reauthenticated"
            )
            state.count("reauthenticate")


def repair(report: Report, state: State, config: Config, now: float) -> None:
    repair_guard(report, state)
    repair_charon(report, state, config, now)
    if report.charon == "answers":
        for name, peer in report.peers.items():
            repair_peer(name, peer, state, config, now)


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


def reauthenticate(names: list[str]) -> list[str]:
    """Prove that the loaded keys work: one new IKE_SA with a CHILD_SA for each peer, made before the old one goes.

    Returns the names of peers for which none came within REAUTHENTICATION_SECONDS; their old SAs stay.
    """
    before = {sa["uniqueid"] for _, sa in list_sas() or []}
    for name in names:
        if run("swanctl", "--rekey", "--ike", name, "--reauth").returncode != 0:
            run("swanctl", "--initiate", "--child", name, "--timeout", "-1")  # there was no SA to replace
    deadline = time.monotonic() + REAUTHENTICATION_SECONDS
    while True:
        new = [(name, sa) for name, sa in list_sas() or [] if sa["uniqueid"] not in before]
        states = peer_states(names, new)
        missing = [name for name in names if not states[name].installed]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repair", action="store_true", help="repair what is broken and write metrics; says only that")
    parser.add_argument(
        "--reauthenticate", nargs="+", metavar="PEER", help="replace the SAs of these peers by newly authenticated ones"
    )
    options = parser.parse_args(argv)
    try:
        config = Config.load(CONFIG)
        if options.reauthenticate:
            missing = reauthenticate(options.reauthenticate)
            for name in missing:
                print(f"ipsec-health: peer {name}: no new SA; the keys may not fit, the old SA stays", file=sys.stderr)
            return 1 if missing else 0
        if not options.repair:
            report = check(config)
            print(json.dumps(report.as_dict(), indent=2) if options.json else describe(report))
            return 0 if report.healthy else 1
        # No check and its repair may overlap with another.
        with locked(STATE.with_suffix(".lock")):
            state, report = State.load(), check(config)
            repair(report, state, config, time.monotonic())
            state.save()
        if config.metrics_directory:
            found = families(report, state.repairs, config, time.time())
            metrics.write(config.metrics_directory / "ipsec.prom", found)
        return 0 if report.healthy else 1
    except (Failure, OSError) as error:
        print(f"ipsec-health: {error}", file=sys.stderr)
        return 2
