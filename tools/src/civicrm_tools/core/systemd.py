"""Ask systemd (systemctl(1)), and be its daemon: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Collection

from civicrm_tools.core.command import Failure
from civicrm_tools.core.run import run

FIRST = 3  # SD_LISTEN_FDS_START
# A start or stop waits for what the unit waits for.
SECONDS = 120


def systemctl(
    *arguments: str, timeout: float = SECONDS, statuses: Collection[int] = (0,)
) -> subprocess.CompletedProcess[str]:
    """Run systemctl as core.run does."""
    return run("systemctl", *arguments, timeout=timeout, statuses=statuses)


def notify(state: str) -> None:
    """Send a state such as READY=1 or WATCHDOG=1; without systemd nobody listens. Raises OSError."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sink:
        sink.connect("\0" + address[1:] if address.startswith("@") else address)
        sink.send(state.encode())


def listening(unit: str) -> socket.socket:
    """Return the one socket that a unit, such as postfix-pace.socket, hands over. Raises Failure without one."""
    return all_listening(unit)[0]


def all_listening(unit: str) -> list[socket.socket]:
    """Return all sockets that a unit hands over, in its order. Raises Failure without one."""
    number = os.environ.get("LISTEN_FDS", "")
    if not number.isdigit() or number == "0":
        raise Failure(f"no socket from systemd: start {unit}")
    return [socket.socket(fileno=FIRST + place) for place in range(int(number))]
