"""Handle what a release runs on: the site's commands, its database, its cache and its jobs."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from civicrm_tools.core import mariadb
from civicrm_tools.core.command import Failure, about
from civicrm_tools.core.run import last_line
from civicrm_tools.core.run import run as run_program
from civicrm_tools.core.systemd import systemctl
from civicrm_tools.site.layout import Site, now

# An upgrade of a large database takes hours.
COMMAND_SECONDS = 86400


def run(site: Site, command: str, release: Path) -> str:
    """Run one of the site's own commands as its user in the release's directory; return what it printed."""
    argv = shlex.split(command.replace("{release}", str(release)))
    if os.geteuid() == 0:
        argv = ["runuser", "-u", site.user, "--", *argv]
    known = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(site.base)}
    env = known | site.environment | {"CIVICRM_RELEASE": str(release)}
    done = run_program(*argv, timeout=COMMAND_SECONDS, statuses=(), environment=env, directory=release)
    if done.returncode != 0:
        said = last_line(done.stdout + done.stderr) or "no message"
        raise Failure(f"{command!r} ended with {done.returncode}: {said}")
    return done.stdout


def schema(site: Site, release: str | None) -> str | None:
    """Return the version of the database's schema as schema_command says it, or None where there is none to ask."""
    if not site.schema_command or not release:
        return None
    lines = run(site, site.schema_command, site.releases / release).split()
    if len(lines) != 1:
        raise Failure(f"schema_command must print one word, not {len(lines)}")
    return lines[0]


def dump(site: Site, note: str) -> str:
    """Dump the site's database into dumps/ and return the file's name; an incomplete dump raises."""
    site.dumps.mkdir(mode=0o700, exist_ok=True)
    name = f"{now()}-{note}.sql.gz"
    partial = site.dumps / f".{name}.partial"
    partial.unlink(missing_ok=True)
    try:
        with about(f"the dump of {site.database} failed", "nothing was changed"):
            mariadb.dump(site.database, partial)
    except Failure:
        partial.unlink(missing_ok=True)
        raise
    partial.chmod(0o600)
    partial.rename(site.dumps / name)
    return name


def restore(site: Site, name: str) -> None:
    """Replace the site's database by a dump that was read to its end before."""
    path = site.dumps / name
    with about(f"the dump {path} cannot be restored", "nothing was changed"):
        mariadb.check(path)
    # After a restore that failed half way the database may be gone.
    charset, collation = "utf8mb4", "utf8mb4_unicode_ci"
    with contextlib.suppress(Failure):
        charset, collation = mariadb.charset(site.database)
    with about(f"restoring {path} failed half way", "run the same command again"):
        mariadb.load(site.database, path, charset, collation)


def empty_cache(site: Site) -> None:
    """Have Redis forget what the other release and database left; a cache that does not run has forgotten already."""
    if not site.cache_socket:
        return
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(site.cache_socket)
        client.sendall(b"FLUSHALL\r\n")
        answer = client.recv(100)
        if not answer.startswith(b"+OK"):
            raise Failure(
                f"the cache at {site.cache_socket} was not emptied: {answer.decode(errors='replace').strip()}"
            )


@contextlib.contextmanager
def jobs_paused(site: Site) -> Iterator[None]:
    """Stop the site's timers and wait for a running job to end: a mailing must not run into a dump or an upgrade."""

    def active(kind: str) -> list[str]:
        units = [f"{unit}.{kind}" for unit in site.pause_units]
        if not units:
            return []
        said = systemctl("is-active", *units, statuses=()).stdout.split()
        return [u for u, state in zip(units, said, strict=False) if state in ("active", "activating")]

    timers = active("timer")
    if timers:
        systemctl("stop", *timers)
    try:
        deadline = time.monotonic() + site.pause_seconds
        while running := active("service"):
            if time.monotonic() > deadline:
                raise Failure(f"{running[0]} still runs after {site.pause_seconds} s: nothing was changed, try later")
            time.sleep(0.5)
        yield
    finally:
        if timers:
            systemctl("start", *timers)
