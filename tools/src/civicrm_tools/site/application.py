"""Handle what a release runs on: the site's commands, its database, its cache and its jobs."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from civicrm_tools.core import mariadb
from civicrm_tools.core.command import Failure
from civicrm_tools.site.layout import ReleaseError, Site, now


def run(site: Site, command: str, release: Path) -> str:
    """Run one of the site's own commands as its user in the release's folder; return what it printed."""
    argv = shlex.split(command.replace("{release}", str(release)))
    if os.geteuid() == 0:
        argv = ["runuser", "-u", site.user, "--", *argv]
    known = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(site.base)}
    env = known | site.environment | {"CIVICRM_RELEASE": str(release)}
    try:
        done = subprocess.run(argv, cwd=release, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise ReleaseError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ReleaseError(f"{command!r} ended with {done.returncode}: {lines[-1] if lines else 'no message'}")
    return done.stdout


def schema(site: Site, release: str | None) -> str | None:
    """Return the version of the database's schema as schema_command says it, or None where there is none to ask."""
    if not site.schema_command or not release:
        return None
    lines = run(site, site.schema_command, site.releases / release).split()
    if len(lines) != 1:
        raise ReleaseError(f"schema_command must print one word, not {len(lines)}")
    return lines[0]


def dump(site: Site, note: str) -> str:
    """Dump the site's database into dumps/ and return the file's name; an incomplete dump raises."""
    site.dumps.mkdir(mode=0o700, exist_ok=True)
    name = f"{now()}-{note}.sql.gz"
    partial = site.dumps / f".{name}.partial"
    partial.unlink(missing_ok=True)
    try:
        mariadb.dump(site.database, partial)
        partial.chmod(0o600)
    except Failure as error:
        partial.unlink(missing_ok=True)
        raise ReleaseError(f"the dump of {site.database} failed: {error}; nothing was changed") from error
    partial.rename(site.dumps / name)
    return name


def restore(site: Site, name: str) -> None:
    """Replace the site's database by a dump that was read to its end before."""
    path = site.dumps / name
    try:
        mariadb.check(path)
    except Failure as error:
        raise ReleaseError(f"the dump {path} cannot be restored: {error}; nothing was changed") from error
    # After a restore that failed half way the database may be gone.
    charset, collation = "utf8mb4", "utf8mb4_unicode_ci"
    with contextlib.suppress(Failure):
        charset, collation = mariadb.charset(site.database)
    try:
        mariadb.load(site.database, path, charset, collation)
    except Failure as error:
        raise ReleaseError(f"restoring {path} failed half way: {error}; run the same command again") from error


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
            raise ReleaseError(
                f"the cache at {site.cache_socket} was not emptied: {answer.decode(errors='replace').strip()}"
            )


@contextlib.contextmanager
def jobs_paused(site: Site) -> Iterator[None]:
    """Stop the site's timers and wait for a running job to end: a mailing must not run into a dump or an upgrade."""

    def active(kind: str) -> list[str]:
        units = [f"{unit}.{kind}" for unit in site.pause_units]
        if not units:
            return []
        done = subprocess.run(["systemctl", "is-active", *units], capture_output=True, text=True)
        return [u for u, state in zip(units, done.stdout.split(), strict=False) if state in ("active", "activating")]

    timers = active("timer")
    if timers:
        subprocess.run(["systemctl", "stop", *timers], check=True)
    try:
        deadline = time.monotonic() + site.pause_seconds
        while running := active("service"):
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"{running[0]} still runs after {site.pause_seconds} s: nothing was changed, try later"
                )
            time.sleep(0.5)
        yield
    finally:
        if timers:
            subprocess.run(["systemctl", "start", *timers], check=True)
