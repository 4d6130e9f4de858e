"""One process at a time, by flock(2): the kernel lets go when the holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from civicrm_tools.core.command import Failure

POLL_SECONDS = 0.1


class Busy(Failure):
    """Another process holds the lock. One line, with its process ID as far as it is known."""


@contextlib.contextmanager
def locked(path: Path, *, wait: float | None = None, busy: str = "") -> Iterator[None]:
    """Hold a lock file, which is made, with its directory for root alone (0700), where it is missing.

    wait: seconds; None as long as it takes, 0 not at all. busy: what to say when another holds it. Raises Busy and
    OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not _taken(descriptor, wait):
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            known = f" (process {holder})" if holder.isdigit() else ""
            raise Busy((busy or f"another process holds {path}") + known)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int, wait: float | None) -> bool:
    if wait is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
