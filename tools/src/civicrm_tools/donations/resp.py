"""A Redis client that speaks just enough RESP2 for a queue: commands, transactions, one connection.

Not python3-redis: its import alone takes 0.12 s and 14 MB at each start of a tool, and from version 6 on (Debian 12 has
4) it connects again and repeats a command of which nobody knows whether it was carried out.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, BinaryIO


class RedisError(Exception):
    """Redis answered with an error; the message is its own and names no value."""

    @property
    def is_full(self) -> bool:
        """Whether maxmemory is reached: what adds data is refused, what only takes away is not."""
        return "OOM command not allowed" in str(self)


class RedisGone(ConnectionError):
    """No answer: whether the command was carried out is unknown."""


class Redis:
    """One connection, logged in. After RedisGone it is of no more use."""

    def __init__(self, host: str, port: int, user: str, password: str, timeout: float = 10) -> None:
        self._timeout = timeout
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise RedisGone(f"cannot connect: {error}") from error
        self._answers: BinaryIO = self._socket.makefile("rb")
        self.call("AUTH", user, password)

    def call(self, *command: str | int | float, wait: float = 0) -> Any:
        """Return the answer to one command; `wait` is the time in seconds that Redis itself may block."""
        self._send([command], wait)
        answer = self._read()
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def transaction(self, *commands: Sequence[str | int | float]) -> list[Any]:
        """Carry out all commands or none of them, in one round trip; return their answers."""
        self._send([("MULTI",), *commands, ("EXEC",)], 0)
        queued = [self._read() for _ in range(len(commands) + 1)]
        done: Any = self._read()
        for answer in [*queued, done] if isinstance(done, RedisError) else done:
            if isinstance(answer, RedisError):
                raise answer
        return list(done)

    def close(self) -> None:
        self._socket.close()

    def _send(self, commands: Sequence[Sequence[str | int | float]], wait: float) -> None:
        data = bytearray()
        for command in commands:
            data += b"*%d\r\n" % len(command)
            for word in (str(word).encode(errors="surrogateescape") for word in command):
                data += b"$%d\r\n%b\r\n" % (len(word), word)
        try:
            self._socket.settimeout(self._timeout + wait)
            self._socket.sendall(data)
        except OSError as error:
            raise RedisGone(f"cannot send: {error}") from error

    def _read(self) -> Any:
        try:
            line = self._answers.readline()
            if not line.endswith(b"\r\n"):
                raise RedisGone("the connection was closed")
            kind, rest = line[:1], line[1:-2]
            if kind == b"$":
                return None if rest == b"-1" else self._bulk(int(rest))
            if kind == b"*":
                return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
        except OSError as error:
            raise RedisGone(f"no answer: {error}") from error
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        return int(rest) if kind == b":" else rest.decode()

    def _bulk(self, length: int) -> str:
        data = self._answers.read(length + 2)
        if len(data) != length + 2:
            raise RedisGone("the connection was closed")
        return data[:-2].decode(errors="surrogateescape")
