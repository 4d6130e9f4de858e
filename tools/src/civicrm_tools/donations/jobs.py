"""The queue of one API site in Redis. A job is in exactly one place at any time, whoever is killed.

donations:<queue>                    list; ext pushes at the left, the worker takes from the right
donations:<queue>:inflight:<worker>  list; what the worker works on
donations:<queue>:delayed            sorted set; what is tried again, by time
donations:<queue>:dead               list; what a person must look at
donations:<queue>:stats              hash of counters
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from civicrm_tools.donations.resp import Redis, RedisError


class Queue:
    """One queue as its worker and the operator see it. Jobs are the JSON texts that lie in Redis."""

    def __init__(self, redis: Redis, name: str, worker: str) -> None:
        self.redis = redis
        self.main = f"donations:{name}"
        self.inflight = f"{self.main}:inflight:{worker}"
        self.delayed = f"{self.main}:delayed"
        self.dead = f"{self.main}:dead"
        self.stats = f"{self.main}:stats"

    def left_over(self) -> list[str]:
        """Jobs that an earlier worker, or this one before it lost Redis, had begun."""
        return list(self.redis.call("LRANGE", self.inflight, 0, -1))

    def take(self, wait: float, skip: int = 0) -> tuple[str, str] | None:
        """Return the oldest job and the list it now lies in; None after `wait` seconds without one.

        A full Redis refuses to move it: then it is left where it is, and the `skip` oldest are passed over.
        """
        try:
            job = self.redis.call("BLMOVE", self.main, self.inflight, "RIGHT", "LEFT", wait, wait=wait)
            return (job, self.inflight) if job is not None else None
        except RedisError as error:
            if not error.is_full:
                raise
        if jobs := self.redis.call("LRANGE", self.main, -1 - skip, -1 - skip):
            return jobs[0], self.main
        time.sleep(wait)  # what Redis refuses it does not wait with
        return None

    def wake_delayed(self, now: float) -> None:
        """Put back into the queue, at its old end, what is due; where Redis is full, when there is room again."""
        for job in self.redis.call("ZRANGEBYSCORE", self.delayed, "-inf", now):
            try:
                self.redis.transaction(("ZREM", self.delayed, job), ("RPUSH", self.main, job))
            except RedisError as error:
                if not error.is_full:
                    raise
                return

    def finish(self, job: str, place: str, **counts: int) -> None:
        """Forget a job that is recorded."""
        last = ("HSET", self.stats, "last_success", int(time.time()))
        try:
            self.redis.transaction(("LREM", place, 1, job), *self._counts(counts), last)
        except RedisError as error:
            # No room for a count; a job always finds its way out.
            if not error.is_full:
                raise
            self.redis.call("LREM", place, 1, job)

    def postpone(self, job: str, place: str, changed: dict[str, Any], until: float) -> None:
        """Try it again later."""
        self.redis.transaction(
            ("LREM", place, 1, job), ("ZADD", self.delayed, until, dump(changed)), *self._counts({"failures": 1})
        )

    def bury(self, job: str, place: str, changed: dict[str, Any]) -> None:
        """Put it where a person looks."""
        self.redis.transaction(
            ("LREM", place, 1, job), ("LPUSH", self.dead, dump(changed)), *self._counts({"buried": 1})
        )

    def dead_jobs(self) -> list[str]:
        """Dead letters, the oldest first."""
        return list(reversed(self.redis.call("LRANGE", self.dead, 0, -1)))

    def drop_beyond(self, limit: int) -> list[str]:
        """Forget dead letters beyond the limit, the newest first, count and return them.

        Donations that CiviCRM refused are the last to go: anybody can have the others made, as many as he likes, and
        must not push out with them what a donor gave.
        """
        beyond = self.redis.call("LLEN", self.dead) - limit
        others: list[str] = []
        refused: list[str] = []
        for start in range(0, beyond + limit, STEP):
            if len(others) >= beyond:
                break
            for letter in self.redis.call("LRANGE", self.dead, start, start + STEP - 1):
                (refused if was_refused(letter) else others).append(letter)
        dropped = [one for one in (others + refused)[: max(0, beyond)] if self.redis.call("LREM", self.dead, 1, one)]
        if dropped:
            with contextlib.suppress(RedisError):  # no room for a count
                self.redis.call("HINCRBY", self.stats, "dead_dropped", len(dropped))
        return dropped

    def revive(self, job: str, changed: dict[str, Any]) -> bool:
        """Put a dead letter back into the queue; False if somebody else did already, and it is there twice."""
        removed, _ = self.redis.transaction(("LREM", self.dead, 1, job), ("LPUSH", self.main, dump(changed)))
        return bool(removed)

    def drop(self, job: str) -> bool:
        """Forget a dead letter for good; False if it is not dead any more."""
        return bool(self.redis.call("LREM", self.dead, 1, job))

    def state(self) -> dict[str, Any]:
        """Lengths, and the counters since the queue was made."""
        flat = self.redis.call("HGETALL", self.stats)
        stats = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
        return {
            "length": self.redis.call("LLEN", self.main),
            "in_flight": self.redis.call("LLEN", self.inflight),
            "delayed": self.redis.call("ZCARD", self.delayed),
            "dead": self.redis.call("LLEN", self.dead),
            **{name: stats.get(name, 0) for name in COUNTERS},
        }

    def _counts(self, counts: dict[str, int]) -> list[tuple[str, str, str, int]]:
        return [("HINCRBY", self.stats, name, number) for name, number in counts.items() if number]


STEP = 100  # dead letters that are read at once
COUNTERS = (
    "created",
    "duplicates",
    "failures",
    "buried",
    "dead_dropped",
    "campaigns_mismatch",
    "campaigns_unknown",
    "addresses_refused",
    "last_success",
)


def dump(job: dict[str, Any]) -> str:
    return json.dumps(job, ensure_ascii=False, separators=(",", ":"))


def identity(letter: str) -> str:
    """Return the id of a dead letter, "none" for what was never a job."""
    try:
        return str(json.loads(letter).get("id", "none"))
    except (ValueError, AttributeError, RecursionError):
        return "none"


def was_refused(letter: str) -> bool:
    """Whether a dead letter is a donation that CiviCRM refused: none in conflict with another, nor what was no job."""
    try:
        return bool(json.loads(letter).get("tries"))
    except (ValueError, AttributeError, RecursionError):
        return False
