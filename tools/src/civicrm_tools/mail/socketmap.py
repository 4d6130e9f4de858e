"""Answer Postfix' look-ups in a table of type socketmap (socketmap_table(5))."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

# Takes the table's name and the key, and returns the reply, such as b"OK value" or b"NOTFOUND ".
Answer = Callable[[str, bytes], Awaitable[bytes]]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Answer one connection: netstrings "name key" in, one answer each; nonsense ends it."""
    try:
        while True:
            length = await reader.readuntil(b":")
            if not re.fullmatch(rb"\d{1,5}:", length):
                break
            request = await reader.readexactly(int(length[:-1]) + 1)
            if not request.endswith(b","):
                break
            name, _, key = request[:-1].partition(b" ")
            reply = await answer(name.decode("ascii", "replace"), key)
            writer.write(b"%d:%s," % (len(reply), reply))
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.close()
