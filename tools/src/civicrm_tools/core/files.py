"""Replace a file at once, and read JSON with one kind of error.

rename(2) replaces a name in one step; fsync(2) of the file and of its directory makes that outlive a power cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from civicrm_tools.core.command import Failure

Built = TypeVar("Built")


class Unreadable(Failure):
    """A file cannot be used. One line: its path, and what is wrong."""


class Missing(Unreadable):
    """There is no such file."""


def write(
    path: Path, content: str | bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None, sync: bool = True
) -> None:
    """Replace a whole file or nothing; its readers never see half of it, and two writers do not mix theirs.

    owner: (uid, gid), the caller's own unless given. sync=False for what is worth nothing after a power cut. The
    directory must exist. Raises OSError; then everything is as before.
    """
    scratch = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(content.encode() if isinstance(content, str) else content)
            sink.flush()
            if owner:
                os.fchown(sink.fileno(), *owner)
            os.fchmod(sink.fileno(), mode)
            if sync:
                os.fsync(sink.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was renamed or made in a directory outlive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, *, mode: int = 0o644, indent: int | None = None) -> None:
    """Replace a file by JSON and a newline. Raises OSError."""
    write(path, json.dumps(value, indent=indent) + "\n", mode=mode)


def read_json(path: Path, build: Callable[[Any], Built], hint: str = "") -> Built:
    """Return what `build` makes of a file's JSON.

    hint: what to do about a damaged file. Raises Missing, or Unreadable for a file that cannot be read, is not JSON,
    or of which `build` cannot make anything (KeyError, TypeError, ValueError, AttributeError).
    """
    try:
        return build(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise Missing(f"{path}: there is no such file") from error
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise Unreadable(_damaged(path, "nested too deeply", hint)) from error
    except KeyError as error:
        raise Unreadable(_damaged(path, f"it lacks {error}", hint)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise Unreadable(_damaged(path, str(error), hint)) from error


def read_record(path: Path, kind: type[Built]) -> Built:
    """Return a dataclass made of a file's JSON object; what is no field of it is passed over. Raises as read_json does.

    Its module must have postponed annotations: a field that is a Path there is made one.
    """
    fields = [(field.name, field.type == "Path") for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return read_json(
        path, lambda raw: kind(**{name: Path(raw[name]) if is_path else raw[name] for name, is_path in fields})
    )


def _damaged(path: Path, what: str, hint: str) -> str:
    return " ".join(f"{path}: damaged: {what}{f': {hint}' if hint else ''}".split())
