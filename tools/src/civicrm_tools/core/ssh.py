"""ssh to a host whose key is pinned, as rsync's remote shell: no prompt, no other key, no host that is not known."""

from __future__ import annotations

import shlex
from pathlib import Path

from civicrm_tools.core.command import about
from civicrm_tools.core.run import run

# A first copy over a slow line; rsync itself ends after its own time of silence.
RSYNC_SECONDS = 86400


def remote_shell(key: Path, port: int, known_hosts: Path, alias: str) -> str:
    """Return rsync's --rsh. alias: the name in known_hosts; the one key there counts, whatever the host's address."""
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        f"HostKeyAlias={alias}",
        "ConnectTimeout=15",
        "ServerAliveInterval=15",
    )
    return shlex.join(["ssh", "-F", "/dev/null", "-i", str(key), "-p", str(port), *(f"-o{one}" for one in options)])


def location(user: str, host: str, path: str) -> str:
    """Return USER@HOST:PATH as rsync reads it: an IPv6 address in brackets."""
    return f"{user}@{f'[{host}]' if ':' in host else host}:{path}"


def rsync(what: str, host: str, shell: str, *arguments: str) -> None:
    """Run rsync by a remote shell. what: to be said before what went wrong. Raises Failure."""
    with about(f"{what} ({host})"):
        run("rsync", f"--rsh={shell}", *arguments, timeout=RSYNC_SECONDS)
