"""What every command here has in common: errors in one line, exit statuses, a question, a bar while a person waits."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

# The rule that every command follows; sysexits.h where another program asks for it (divert-submission).
DONE = 0  # done, or all is well; also where there was nothing to do, and a list of nothing
FAILED = 1  # it could not be done, or could not be told
USAGE = 2  # wrong arguments
NO = 3  # it was looked, and the answer is no: nothing is there that was asked for, or what was checked is not well
PANIC = 4  # ended because somebody called a panic
INTERRUPTED = 130  # Ctrl-C or SIGTERM

AGE = re.compile(r"(?P<number>\d+)(?P<unit>[smhdw]?)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


Thing = TypeVar("Thing")


class Failure(Exception):
    """What went wrong and what to do, in one line for the operator; `status` is the exit status, None the command's."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """Help keeps the lines of the module's docstring; a mistake in the arguments is one line."""

    def __init__(self, *, prog: str, description: str | None = None, **options: Any) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message} (see {self.prog} --help)", USAGE)


def run(
    name: str,
    body: Callable[[Sequence[str] | None], int],
    argv: Sequence[str] | None,
    *,
    also: tuple[type[Exception], ...] = (),
    failed: int = FAILED,
) -> int:
    """Run a command's body and return its exit status; whatever it raises for the operator is one line on stderr.

    also: exceptions of a library that the operator may meet, such as sqlite3.Error. failed: the exit status of a
    failure that has none of its own.
    """
    try:
        return body(argv)
    except Failure as failure:
        return complain(name, str(failure), failed if failure.status is None else failure.status)
    except PermissionError as error:
        named = f"cannot read or write {error.filename}: run it as root"
        return complain(name, named if error.filename else str(error), failed)
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return complain(name, str(error), failed)
    except also as error:
        return complain(name, str(error), failed)
    except KeyboardInterrupt:
        return complain(name, "interrupted", INTERRUPTED)


def complain(name: str, message: str, status: int) -> int:
    tell(name, message)
    return status


def tell(name: str, message: str) -> None:
    """Say a line on stderr, in the command's name."""
    # An argument may hold bytes that are no text.
    print(f"{name}: {message}".encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)


def end_by_signals(name: str) -> None:
    """Let SIGTERM, SIGINT and SIGHUP end a command like an error, so that it cleans up; exit status FAILED."""

    def end(number: int, _frame: object) -> None:
        sys.exit(f"{name}: stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)


@contextlib.contextmanager
def about(what: str, then: str = "") -> Iterator[None]:
    """Begin the message of whatever fails with what was being done, and end it with what holds now."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{what}: {failure}{f'; {then}' if then else ''}", failure.status) from failure


def need_root() -> None:
    """Raise Failure for anyone else: Postfix's commands would each say it in their own words, halfway through."""
    if os.geteuid() != 0:
        raise Failure("only root may do this: use sudo")


def operator() -> str:
    """The login name of the person at the keyboard, also behind sudo; "root" for a timer or a script."""
    login = os.environ.get("SUDO_USER")
    if not login:
        try:
            login = os.getlogin()
        except OSError:
            login = pwd.getpwuid(os.getuid()).pw_name
    return login


def seconds(text: str) -> int:
    """Seconds in "90", "90s", "15m", "2h", "5d" or "1w", as Postfix writes times; argparse's type for such options."""
    found = AGE.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no time such as 90s, 15m, 2h or 5d")
    return int(found["number"]) * SECONDS[found["unit"]]


def in_words(duration: float) -> str:
    """A duration in seconds as a person says it: 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    for size, big, small, part in ((3600, "min", "s", 60), (86400, "h", "min", 3600)):
        if whole < size:
            return f"{whole // part} {big}" + (f" {rest} {small}" if (rest := whole % part // (part // 60)) else "")
    return f"{whole // 86400} d" + (f" {rest} h" if (rest := whole % 86400 // 3600) else "")


def messages(number: int) -> str:
    return f"{number:,} message{'' if number == 1 else 's'}"


def confirm(question: str, yes: bool) -> None:
    """Go on only if --yes was given or the person at the terminal types yes; raises Failure otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("nobody is there to ask: give --yes", USAGE)
    print(f"{question} Type yes to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise Failure("nothing was changed")


def counted(things: Iterable[Thing], doing: str) -> Iterator[Thing]:
    """Pass things on, and tell the person at a terminal how many there were so far."""
    shown = sys.stderr.isatty()
    for number, thing in enumerate(things, 1):
        if shown and number % 1000 == 0:
            print(f"\r\x1b[K{doing}: {number:,}", end="", file=sys.stderr, flush=True)
        yield thing
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Bar:
    """A progress bar on stderr where a person waits, and nothing at all where stderr is no terminal."""

    WIDTH = 30

    def __init__(self, total: int) -> None:
        self.total = max(total, 1)
        self.shown = sys.stderr.isatty()
        self.start = time.monotonic()

    def show(self, done: int, note: str = "") -> None:
        if self.shown:
            filled = self.WIDTH * min(done, self.total) // self.total
            bar = "#" * filled + "." * (self.WIDTH - filled)
            print(f"\r\x1b[K[{bar}] {done:,} of {self.total:,}  {note}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
