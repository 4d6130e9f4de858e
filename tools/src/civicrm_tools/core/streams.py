"""A program's output compressed into a file, and a compressed file into a program: any size, in little memory."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import BinaryIO, NamedTuple, Protocol

from civicrm_tools.core.run import ProgramFailed, ended, last_line, start

CHUNK = 1 << 20
# Level 3 costs a third of the default's time and a tenth more space.
COMPRESSION = 3


class Compressed(NamedTuple):
    """What a file holds: its size in bytes, its SHA-256, and what a program said that ended with a tolerated status."""

    size: int
    sha256: str
    warning: str


class Digest:
    """A writer that knows the size and SHA-256 of what went through it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self.raw.write(data)

    def flush(self) -> None:
        self.raw.flush()


def compress(
    argv: Sequence[str],
    target: Path,
    inspect: Callable[[bytes], None] = lambda _: None,
    tolerated: Sequence[int] = (),
) -> Compressed:
    """Run a program and write its output, compressed, into a new file, which is synced.

    inspect: gets each piece of the output. The same output makes the same file. Raises ProgramFailed, also for a
    target that cannot be written; the file is left to the caller.
    """
    with tempfile.TemporaryFile() as stderr, target.open("xb") as raw:
        process = start(argv, stdin=DEVNULL, stdout=PIPE, stderr=stderr)
        assert process.stdout is not None
        digest = Digest(raw)
        try:
            with gzip.GzipFile(filename="", fileobj=digest, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
                while chunk := process.stdout.read(CHUNK):
                    inspect(chunk)
                    packed.write(chunk)
            os.fsync(raw.fileno())
        except OSError as error:
            raise ProgramFailed(f"cannot write {target}: {error.strerror}") from error
        finally:
            if process.poll() is None and sys.exc_info()[0]:
                process.kill()
            process.stdout.close()
            code = process.wait()
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
    if code != 0 and code not in tolerated:
        raise ended(argv, code, said)
    return Compressed(digest.size, digest.sha256.hexdigest(), last_line(said) if code else "")


class Filter(Protocol):
    """Changes a stream: gets it piece by piece, returns what goes on, and at the end what it has held back."""

    def __call__(self, chunk: bytes) -> bytes: ...

    def end(self) -> bytes: ...


def feed(source: Path, argv: Sequence[str], change: Filter) -> None:
    """Run a program with a compressed file as its input. Raises ProgramFailed and, for a damaged file, OSError."""
    with tempfile.TemporaryFile() as stderr:
        process = start(argv, stdin=PIPE, stdout=DEVNULL, stderr=stderr)
        assert process.stdin is not None
        try:
            with gzip.open(source, "rb") as packed, process.stdin as pipe:
                while chunk := packed.read(CHUNK):
                    pipe.write(change(chunk))
                pipe.write(change.end())
        except BrokenPipeError:
            pass  # The program has ended early: its own message tells why.
        finally:
            code = process.wait()
        stderr.seek(0)
        if code != 0:
            raise ended(argv, code, stderr.read().decode(errors="replace"))
