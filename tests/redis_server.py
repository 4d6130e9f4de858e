"""Run a Redis for tests: Debian's own server, in a directory and on a port of its own."""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from civicrm_tools.donations.resp import Redis, RedisError, RedisGone

# Below those that the kernel gives to connections: after a crash the port is still free.
PORTS = range(20000, 32000)
SECONDS = 20


class RedisServer:
    """A server that keeps on disk what it acknowledges, until it is stopped. `client` may do everything.

    users: as in redis_instances, see roles/redis.
    """

    def __init__(self, directory: Path, users: Iterable[Mapping[str, str]]) -> None:
        self._directory = directory
        self._password = secrets.token_hex()  # by which another test's server is told from this one
        self._users = [
            f"{user['name']} reset on #{user['password_sha256']} {user['rules']} -@scripting" for user in users
        ]
        others = ["default reset off ~* &* +@all", f"tests reset on >{self._password} ~* &* +@all"]
        (directory / "users.acl").write_text("".join(f"user {user}\n" for user in [*others, *self._users]))
        for self.port in random.sample(PORTS, 5):
            self._start()
            if self._connects():
                return
        raise RuntimeError(f"redis-server does not start: {(directory / 'log').read_text()[-1000:]}")

    def list(self, key: str) -> list[str]:
        return self.client.call("LRANGE", key, 0, -1)

    def sorted_set(self, key: str) -> list[str]:
        return self.client.call("ZRANGE", key, 0, -1)

    def hash(self, key: str) -> dict[str, str]:
        flat = self.client.call("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def fill(self, key: str, values: Iterable[str]) -> None:
        """Put values at the end of a list, in this order."""
        self.client.call("RPUSH", key, *values)

    def full(self, full: bool) -> None:
        """Have it refuse what adds data, or no longer."""
        self.client.call("CONFIG", "SET", "maxmemory", int(full))

    def crash(self) -> None:
        """Kill it, and start it again with what it had kept."""
        self.stop()
        self._start()
        assert self._connects(), "redis-server did not come back"

    def reset(self) -> None:
        """Make it as it was at first, whatever a test did to it; nobody stays connected."""
        if self._process.poll() is not None:
            self.crash()
        self.client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for user in self._users:
            self.client.call("ACL", "SETUSER", *user.split())
        self.full(False)
        self.client.call("FLUSHALL")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        # Debian's redis-tools has the server by the name of a checker; it goes by the name it is called by.
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        if program is None:
            raise RuntimeError("there is no redis-server: install redis-tools (make setup does)")
        # A kill loses nothing that was written; only a power cut would lose what was not synced.
        settings = {
            "bind": "127.0.0.1", "port": self.port, "dir": self._directory, "logfile": self._directory / "log",
            "aclfile": self._directory / "users.acl", "save": "", "appendonly": "yes", "appendfsync": "no",
            "maxmemory-policy": "noeviction", "databases": 1,
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(["redis-server", *options], executable=program, stdout=subprocess.DEVNULL)

    def _connects(self) -> bool:
        """Wait until it answers; False if it has ended, as it does where another listens on its port."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.client = Redis("127.0.0.1", self.port, "tests", self._password)
                self.client.call("PING")
                return True
            except (RedisGone, RedisError):
                time.sleep(0.005)
        self.stop()
        return False
