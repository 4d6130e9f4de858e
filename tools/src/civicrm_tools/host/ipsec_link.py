"""Find out in which state the private link is: the guard's table, charon, peers and certificates."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import certificates, files
from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import run as run_program

GUARD_FILE = Path("/etc/ipsec-guard.nft")
# Written by ipsec-guard.service: the SHA-256 of the file that it loaded, then the table as nft lists it.
GUARD_RECORD = Path("/run/ipsec-guard.loaded")
GUARD_TABLE = ("table", "inet", "ipsec_guard")

COMMAND_SECONDS = 10
CERTIFICATE_DAYS = 14


# A command that hangs counts as failed: a daemon that hangs is no better than a dead one.
run = functools.partial(run_program, timeout=COMMAND_SECONDS, statuses=())


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


def probe(own: list[str], addresses: list[str]) -> dict[str, bool]:
    """Return which addresses answer a ping from this host's own inner address; one packet may be lost."""
    alive = set()
    for source in own:
        asked = [address for address in addresses if (":" in address) == (":" in source)]
        if asked:
            # Silence is no failure here, nor is an inner address of our own that is gone: nobody answers it.
            done = run("fping", f"--src={source}", "--retry=1", "--backoff=1", "--timeout=900", *asked)
            alive |= {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" is alive")}
    return {address: address in alive for address in addresses}


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
