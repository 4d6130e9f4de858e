"""Run a program to its end, always with a time limit, and say in one line what went wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from civicrm_tools.core.command import Failure

WORDS = 300
# ssh has said before why.
SUMMARIES = ("rsync error:", "rsync: connection unexpectedly closed")


class ProgramFailed(Failure):
    """A program is missing, failed or took too long. One line: its name and its last words, never its arguments."""


def run(
    *command: str,
    timeout: float,
    text: str = "",
    statuses: Collection[int] = (0,),
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    apart: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Return what a program printed, as text, and its exit status.

    timeout in seconds; text: its standard input; statuses: those that are no failure, () for any; apart: in a session
    of its own, which a terminal's Ctrl-C does not reach. Arguments and input may hold secrets and are in no message.
    Raises ProgramFailed.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if environment is None else dict(environment),
            cwd=directory,
            start_new_session=apart,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(f"{command[0]} did not end within {timeout:g} s") from error
    except OSError as error:
        raise ProgramFailed(f"cannot run {command[0]}: {error.strerror}") from error
    if statuses and done.returncode not in statuses:
        said = last_line(done.stderr) or last_line(done.stdout) or "no message"
        raise ProgramFailed(f"{command[0]} ended with {done.returncode}: {said}")
    return done


def last_line(text: str) -> str:
    """Return the last line that says something, cut to a readable length; of rsync the one before its summary."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(SUMMARIES)]
    return (telling or lines or [""])[-1][:WORDS]
