"""A Redis in a thread, with the commands that a donation queue needs. What it keeps outlives its connections."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections import defaultdict

ADDS = {"BLMOVE", "LPUSH", "RPUSH", "ZADD", "HINCRBY", "HSET"}


class Refused(Exception):
    pass


class FakeRedis:
    """lists, sets and hashes are open to the tests; `full` makes it refuse what adds data."""

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = defaultdict(list)
        self.zsets: dict[str, dict[str, float]] = defaultdict(dict)
        self.hashes: dict[str, dict[str, str]] = defaultdict(dict)
        self.full = False
        self.password = "pw"
        self.commands: list[str] = []
        self.lock = threading.RLock()
        self._connections: set[socket.socket] = set()
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True  # as Redis does

            def handle(self) -> None:
                fake._connections.add(self.connection)
                fake._serve(self)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def drop_connections(self) -> None:
        """As if Redis had been killed and had come back."""
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._connections.discard(connection)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()

    def _serve(self, handler: socketserver.StreamRequestHandler) -> None:
        logged_in, queued, spoilt = False, None, False
        while (command := self._read(handler.rfile)) is not None:
            name = command[0].upper()
            try:
                if name == "AUTH":
                    logged_in = command[2] == self.password
                    answer = "OK" if logged_in else Refused("WRONGPASS invalid username-password pair")
                elif not logged_in:
                    answer = Refused("NOAUTH Authentication required.")
                elif name == "MULTI":
                    queued, spoilt, answer = [], False, "OK"
                elif name == "EXEC":
                    answer = Refused("EXECABORT Transaction discarded because of previous errors.")
                    if not spoilt:
                        with self.lock:
                            answer = [self._run(c) for c in queued]
                    queued = None
                elif self.full and name in ADDS:
                    spoilt, answer = True, Refused("OOM command not allowed when used memory > 'maxmemory'.")
                elif queued is not None:
                    queued.append(command)
                    answer = "QUEUED"
                else:
                    answer = self._run(command)
                handler.wfile.write(self._write(answer))
            except (OSError, ValueError):
                return

    def _run(self, command: list[str]) -> object:
        name, key, *rest = [command[0].upper(), *command[1:]]
        self.commands.append(name)
        if name == "BLMOVE":
            return self._move(key, rest[0], float(rest[3]))
        with self.lock:
            return getattr(self, f"_{name.lower()}")(key, *rest)

    def _move(self, source: str, target: str, wait: float) -> str | None:
        deadline = time.monotonic() + wait
        while True:
            with self.lock:
                if self.lists[source]:
                    value = self.lists[source].pop()
                    self.lists[target].insert(0, value)
                    return value
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def _lpush(self, key: str, *values: str) -> int:
        for value in values:
            self.lists[key].insert(0, value)
        return len(self.lists[key])

    def _rpush(self, key: str, *values: str) -> int:
        self.lists[key].extend(values)
        return len(self.lists[key])

    def _lrange(self, key: str, first: str, last: str) -> list[str]:
        values, begin, end = self.lists[key], int(first), int(last)
        begin, end = (n + len(values) if n < 0 else n for n in (begin, end))
        return values[max(0, begin) : end + 1] if end >= 0 else []

    def _lrem(self, key: str, _count: str, value: str) -> int:
        if value in self.lists[key]:
            self.lists[key].remove(value)
            return 1
        return 0

    def _llen(self, key: str) -> int:
        return len(self.lists[key])

    def _zadd(self, key: str, score: str, value: str) -> int:
        self.zsets[key][value] = float(score)
        return 1

    def _zrem(self, key: str, value: str) -> int:
        return int(self.zsets[key].pop(value, None) is not None)

    def _zcard(self, key: str) -> int:
        return len(self.zsets[key])

    def _zrangebyscore(self, key: str, _low: str, high: str) -> list[str]:
        return [v for v, score in sorted(self.zsets[key].items(), key=lambda i: i[1]) if score <= float(high)]

    def _hincrby(self, key: str, field: str, by: str) -> int:
        self.hashes[key][field] = str(int(self.hashes[key].get(field, "0")) + int(by))
        return int(self.hashes[key][field])

    def _hset(self, key: str, field: str, value: str) -> int:
        self.hashes[key][field] = value
        return 1

    def _hgetall(self, key: str) -> list[str]:
        return [word for pair in self.hashes[key].items() for word in pair]

    @staticmethod
    def _read(file) -> list[str] | None:
        try:
            head = file.readline()
            if not head:
                return None
            words = []
            for _ in range(int(head[1:])):
                length = int(file.readline()[1:])
                words.append(file.read(length + 2)[:-2].decode(errors="surrogateescape"))
            return words
        except OSError:
            return None

    @classmethod
    def _write(cls, answer: object) -> bytes:
        if isinstance(answer, Refused):
            return b"-%b\r\n" % str(answer).encode()
        if answer is None:
            return b"$-1\r\n"
        if isinstance(answer, int):
            return b":%d\r\n" % answer
        if isinstance(answer, list):
            return b"*%d\r\n" % len(answer) + b"".join(cls._write(a) for a in answer)
        data = str(answer).encode(errors="surrogateescape")
        return b"$%d\r\n%b\r\n" % (len(data), data)
