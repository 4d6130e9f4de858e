"""Run a program, and say in one line what went wrong. Nothing else here starts programs."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from civicrm_tools.core.command import Failure

WORDS = 300
TOO_LATE = 124  # as timeout(1) has it
# ssh has said before why.
SUMMARIES = ("rsync error:", "rsync: connection unexpectedly closed")
# How Postfix' programs begin a line.
PREFIX = re.compile(r"^\S+: (?:fatal|warning|error): ")


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

    timeout in seconds; text: its standard input; statuses: those that are no failure, () for any, TOO_LATE among them;
    apart: in a session of its own, which a terminal's Ctrl-C does not reach. Arguments and input may hold secrets and
    are in no message. Raises ProgramFailed.
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
        if not statuses:
            return subprocess.CompletedProcess(command, TOO_LATE, "", f"no answer within {timeout:g} s")
        raise ProgramFailed(f"{command[0]} did not end within {timeout:g} s") from error
    except OSError as error:
        raise ProgramFailed(f"cannot run {command[0]}: {error.strerror}") from error
    if statuses and done.returncode not in statuses:
        raise ended(command, done.returncode, done.stderr if done.stderr.strip() else done.stdout)
    return done


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that is spoken to, or read, while it runs. options: those of subprocess. Raises ProgramFailed."""
    try:
        return subprocess.Popen(command, **options)
    except OSError as error:
        raise ProgramFailed(f"cannot run {command[0]}: {error.strerror}") from error


def account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise Failure(f"user {user} does not exist") from error


def as_user(user: str) -> dict[str, Any]:
    """Return what `start` takes to make root's child a user, with nobody's groups but its own. Raises Failure."""
    who = account(user)
    same = who.pw_uid == os.geteuid()
    return {} if same else {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def ended(command: Sequence[str], status: int, said: str) -> ProgramFailed:
    """Return the failure of a program that ended with a status that is none of success."""
    return ProgramFailed(f"{command[0]} ended with {status}: {last_line(said) or 'no message'}")


def last_line(text: str) -> str:
    """Return the last line that says something, cut to a readable length; of rsync the one before its summary."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(SUMMARIES)]
    return PREFIX.sub("", (telling or lines or [""])[-1])[:WORDS]
