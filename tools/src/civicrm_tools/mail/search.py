"""Find lines in millions of them: the log in large pieces, searched as bytes before any line is parsed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from civicrm_tools.mail.log import QUEUE_ID, open_log

# Small enough for a processor's cache: pieces of 4 MB take twice as long.
CHUNK = 1 << 18
# Up to so many words each is looked for by itself; then one pattern that stops at every line is quicker.
FEW = 8
# Where a message's line has its queue ID.
HEAD = re.compile(rf"\]: ({QUEUE_ID}): ".encode())


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a log, plain or .gz, in pieces of whole lines: memory stays the same whatever its size.

    Raises OSError, for a damaged file after all that stands before the damage.
    """
    rest, broken = b"", None
    with open_log(path) as file:
        try:
            while part := file.read1(CHUNK):
                part = rest + part
                end = part.rfind(b"\n") + 1
                if end:
                    yield part[:end]
                rest = part[end:]
        except (EOFError, zlib.error) as error:
            broken = OSError(f"{path} is damaged: {error}")
    if rest:
        yield rest + b"\n"
    if broken:
        raise broken


def places(chunk: bytes, words: Iterable[bytes]) -> Iterator[int]:
    """Yield the positions of words, one word after the other."""
    for word in words:
        position = chunk.find(word)
        while position >= 0:
            yield position
            position = chunk.find(word, position + 1)


def heads(chunk: bytes, ids: Collection[bytes]) -> Iterator[int]:
    """Yield positions in the lines of these queue IDs."""
    if len(ids) <= FEW:
        yield from places(chunk, (b"]: %b: " % queue_id for queue_id in ids))
    else:
        yield from (head.start() for head in HEAD.finditer(chunk) if head[1] in ids)


def lines_at(chunk: bytes, positions: Iterable[int]) -> list[tuple[int, bytes]]:
    """Return (where it begins, line) of the lines around positions: each once, in their order."""
    starts = sorted({chunk.rfind(b"\n", 0, position) + 1 for position in positions})
    return [(start, chunk[start : chunk.find(b"\n", start)]) for start in starts]
