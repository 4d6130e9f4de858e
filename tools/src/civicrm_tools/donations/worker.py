"""Take donations out of a queue and record them in CiviCRM: donation-worker QUEUE.

Take a job, record it in CiviCRM, forget it. Killed at any point, the next one goes on.

The log holds ids and kinds of failure, never what a donor wrote.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from civicrm_tools.core import command
from civicrm_tools.core.command import DONE
from civicrm_tools.donations import form
from civicrm_tools.donations.civicrm import Api, ApiGone, ApiRefused, Conflict, record
from civicrm_tools.donations.config import Config
from civicrm_tools.donations.jobs import Queue, identity
from civicrm_tools.donations.resp import Redis, RedisError, RedisGone

NAME = "donation-worker"
WAIT_SECONDS = 2
PAUSE_MAX_SECONDS = 30


class Worker:
    """Works on one queue until stop is set."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stop = threading.Event()
        self.api = Api(config.api_command, config.user, config.api_timeout_seconds)
        self._refused = 0  # jobs that a full Redis could not move out of the way
        self._busy_at = time.monotonic()
        self._wake_at = 0.0  # when to look for what is tried again

    def run(self) -> None:
        """Connect, work, and connect again whenever Redis was away."""
        failures = 0
        while not self.stop.is_set():
            redis = None
            try:
                redis = self._connect()
                self._work(Queue(redis, self.config.queue, self.config.worker))
            except (RedisGone, RedisError) as error:
                failures = 1 if redis else failures + 1
                self._pause(failures, f"Redis: {error}")
            if redis:
                redis.close()
        self.api.close()

    def _connect(self) -> Redis:
        config = self.config
        return Redis(config.redis_host, config.redis_port, config.redis_user, config.redis_password)

    def _work(self, queue: Queue) -> None:
        self._finish_left_over(queue)
        while not self.stop.is_set():
            # Not before each donation: a third of what one asks of Redis.
            if time.monotonic() >= self._wake_at:
                queue.wake_delayed(time.time())
                self._wake_at = time.monotonic() + WAIT_SECONDS
            taken = queue.take(WAIT_SECONDS, self._refused)
            if taken:
                self._handle(queue, *taken)
                continue
            if self._refused:
                self._refused = 0
                self._finish_left_over(queue)
            if time.monotonic() - self._busy_at > self.config.api_idle_seconds:
                self.api.close()

    def _finish_left_over(self, queue: Queue) -> None:
        for job in queue.left_over():
            self._handle(queue, job, queue.inflight)

    def _handle(self, queue: Queue, text: str, place: str) -> None:
        """See one job through: recorded, put off, or buried. Waits as long as CiviCRM is away."""
        try:
            job = form.read(text, self.config.queue)
        except form.NotAJob as error:
            log(f"what is no donation is buried: {error}")
            self._bury(queue, text, place, {"reason": f"no donation: {error}", "raw": text[: form.MAX_BYTES]})
            return
        failures = 0
        while not self.stop.is_set():
            self._busy_at = time.monotonic()
            try:
                self._record(queue, job, text, place)
            except ApiGone as error:
                failures += 1
                self._pause(failures, f"CiviCRM: {error}")
                continue
            except Conflict as error:
                log(f"{job['id']} is buried: {error}")
                self._bury(queue, text, place, job | {"tries": 0, "reason": str(error)})
            except ApiRefused as error:
                self._refuse(queue, job, text, place, str(error))
            return

    def _record(self, queue: Queue, job: dict[str, Any], text: str, place: str) -> None:
        config = self.config
        fields = {"financial_type_id": config.financial_type, "payment_instrument_id": config.payment_instrument}
        test = config.test or job["test"]
        if self.api.calls > config.api_max_calls:
            self.api.close()
        done = record(self.api, job, config.trxn_prefix, test, fields)
        same = job["campaigns_version"] == config.campaigns_version
        if not same:
            log(f"{job['id']} came with another list of campaigns ({job['campaigns_version']}) than this host's")
        if not done.campaign_known:
            log(f"{job['id']} is for a campaign that CiviCRM does not know")
        if not done.address_kept:
            log(f"{job['id']} has an address or a country that CiviCRM refused: its contact lacks it")
        counts = {
            done.result: 1,
            "campaigns_mismatch": int(not same),
            "campaigns_unknown": int(not done.campaign_known),
            "addresses_refused": int(not done.address_kept),
        }
        queue.finish(text, place, **counts)
        log(f"{job['id']} {'recorded' if done.result == 'created' else 'was recorded already'}")

    def _refuse(self, queue: Queue, job: dict[str, Any], text: str, place: str, reason: str) -> None:
        config, tries = self.config, job.get("tries", 0) + 1
        changed = job | {"tries": tries, "reason": reason[: form.REASON_MAX]}
        what = reason.partition(":")[0]
        if tries >= config.tries_max:
            log(f"{job['id']} is buried after {tries} tries: {what}")
            self._bury(queue, text, place, changed)
            return
        delay = min(config.retry_seconds * 2 ** (tries - 1), config.retry_max_seconds)
        log(f"{job['id']} is tried again in {delay} s: {what}")
        self._move(queue, "postpone", text, place, changed, time.time() + delay)

    def _bury(self, queue: Queue, text: str, place: str, letter: dict[str, Any]) -> None:
        self._move(queue, "bury", text, place, letter)
        for dropped in queue.drop_beyond(self.config.dead_max):
            log(
                f"{form.visible(identity(dropped))} is dropped: there are more than {self.config.dead_max} dead letters"
            )

    def _move(self, queue: Queue, how: str, *arguments: Any) -> None:
        try:
            getattr(queue, how)(*arguments)
        except RedisError as error:
            if not error.is_full:
                raise
            # It stays where it is; the others go first.
            log(f"Redis is full: {error}")
            self._refused += 1

    def _pause(self, failures: int, why: str) -> None:
        seconds = min(2 ** (failures - 1), PAUSE_MAX_SECONDS)
        log(f"{why}; next try in {seconds} s")
        self.stop.wait(seconds)


def log(line: str) -> None:
    print(line, flush=True)


def body(argv: Sequence[str] | None) -> int:
    parser = command.Parser(prog=NAME, description=__doc__)
    parser.add_argument("queue", metavar="QUEUE", help="the API site whose donations these are")
    worker = Worker(Config.load(parser.parse_args(argv).queue))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    worker.run()
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
