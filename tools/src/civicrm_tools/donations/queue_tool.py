"""Look into the donation queues, and decide about dead letters. Needs root.

A dead letter is a donation that could not be recorded; it stays until it is tried again or dropped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, metrics
from civicrm_tools.core.command import DONE
from civicrm_tools.core.metrics import Family
from civicrm_tools.donations import form
from civicrm_tools.donations.config import Config, queues
from civicrm_tools.donations.jobs import COUNTERS, Queue, identity
from civicrm_tools.donations.resp import Redis, RedisError, RedisGone

NAME = "donation-queue"
LENGTHS = ("length", "in_flight", "delayed", "dead")


def connect(config: Config) -> Queue:
    redis = Redis(config.redis_host, config.redis_port, config.redis_user, config.redis_password)
    return Queue(redis, config.queue, config.worker)


def status(names: list[str]) -> dict[str, dict[str, Any]]:
    """State of each queue: {queue: {up, enabled, length, in_flight, delayed, dead, counters}}."""
    found = {}
    for name in names:
        config = Config.load(name)
        state: dict[str, Any] = {
            "up": True,
            "enabled": config.enabled,
            "proof": config.proof,
            "campaigns_version": config.campaigns_version,
        }
        try:
            state |= connect(config).state()
        except (RedisGone, RedisError) as error:
            state |= {"up": False, "error": str(error)}
        found[name] = state
    return found


def letters(queue: Queue) -> list[tuple[str, dict[str, Any]]]:
    """Dead letters as they lie in Redis and as they read, the oldest first."""
    return [(text, content(text)) for text in queue.dead_jobs()]


def content(text: str) -> dict[str, Any]:
    """Whoever may push could have pushed here, too, before the worker's user was one of its own."""
    try:
        job = json.loads(text)
    except (ValueError, RecursionError):
        job = None
    return job if isinstance(job, dict) else {"raw": text, "reason": "not a job"}


def decide(queue: Queue, wanted: str, act: Callable[[Queue, str, dict[str, Any]], bool]) -> list[str]:
    """Apply `act` to the dead letter with the id `wanted`, or to every one for "all"; return the ids."""
    done = []
    for text, job in letters(queue):
        if wanted in ("all", identity(text)) and act(queue, text, job):
            done.append(form.visible(identity(text)))
    return done


def retry(queue: Queue, text: str, job: dict[str, Any]) -> bool:
    """Into the queue again, as it first came."""
    first = {name: value for name, value in job.items() if name not in ("tries", "reason")}
    return "raw" not in job and queue.revive(text, first)


def never_a_job(_queue: Queue, _text: str, job: dict[str, Any]) -> bool:
    """Change nothing."""
    return "raw" in job


def drop(queue: Queue, text: str, _job: dict[str, Any]) -> bool:
    """For good."""
    return queue.drop(text)


def families(states: dict[str, dict[str, Any]]) -> list[Family]:
    """Return the states of all queues as metrics."""
    found = [
        Family(name, kind, text, [({"queue": queue}, state[key]) for queue, state in states.items() if key in state])
        for name, kind, text, key in (
            ("donation_queue_up", "gauge", "Whether Redis answers for the queue.", "up"),
            ("donation_worker_enabled", "gauge", "Whether the queue has a worker.", "enabled"),
            *((f"donation_queue_{key}", "gauge", f"Donations in the list {key}.", key) for key in LENGTHS),
            *(
                (f"donation_worker_{key}_total", "counter", f"Donations counted as {key}.", key)
                for key in COUNTERS
                if key != "last_success"
            ),
            (
                "donation_worker_last_success_timestamp_seconds",
                "gauge",
                "When a donation was last recorded.",
                "last_success",
            ),
        )
    ]
    versions = [({"queue": queue, "version": state["campaigns_version"]}, 1) for queue, state in states.items()]
    return [*found, Family("donation_worker_campaigns_info", "gauge", "The worker's list of campaigns.", versions)]


def show_status(names: list[str], as_json: bool) -> int:
    states = status(names)
    if as_json:
        print(json.dumps(states, indent=2))
    else:
        columns = (*LENGTHS, "created", "duplicates", "failures", "buried")
        print(f"{'queue':24}", *(f"{c:>10}" for c in columns))
        for name, state in states.items():
            if state["up"]:
                numbers = [f"{state[c]:>10}" for c in columns]
                remarks = [] if state["enabled"] else ["no worker: its site has no application"]
                remarks += ["proof none: whatever is posted is taken for paid"] if state["proof"] == "none" else []
                print(f"{name:24}", *numbers, f" ({'; '.join(remarks)})" if remarks else "")
            else:
                print(f"{name:24} Redis: {state['error']}")
    return int(not all(state["up"] for state in states.values()))


def show_dead(queue: Queue, as_json: bool) -> int:
    found = letters(queue)
    if as_json:
        # What JSON does not escape by itself, but a terminal obeys.
        text = json.dumps([job for _, job in found], indent=2, ensure_ascii=False)
        print("\n".join(map(form.visible, text.split("\n"))))
    else:
        if not found:
            command.tell(NAME, "there is no dead letter")
        for text, job in found:
            line = f"{identity(text):32}  {job.get('tries', 0)} tries  {job.get('reason', '')}"
            print(form.visible(line))
    return DONE


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("status", help="lengths and counters of one queue, or of all")
    one.add_argument("queue", nargs="?")
    one.add_argument("--json", action="store_true", help="as JSON")
    two = commands.add_parser("dead", help="dead letters with the reason; as JSON with all that the donor wrote")
    two.add_argument("queue")
    two.add_argument("--json", action="store_true", help="as JSON")
    for name, what in (("retry", "put a dead letter back into the queue"), ("drop", "forget a dead letter for good")):
        either = commands.add_parser(name, help=what)
        either.add_argument("queue")
        either.add_argument("id", help='of the dead letter, or "all"; "none" for what was never a job')
    three = commands.add_parser("metrics", help="write the state of all queues for Prometheus")
    three.add_argument("file", type=Path, help="textfile of node_exporter")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    names = list(queues())
    if options.command == "metrics":
        metrics.write(options.file, families(status(names)))
        return DONE
    if options.command == "status":
        return show_status([options.queue] if options.queue else names, options.json)
    queue = connect(Config.load(options.queue))
    if options.command == "dead":
        return show_dead(queue, options.json)
    done = decide(queue, options.id, {"retry": retry, "drop": drop}[options.command])
    if not done and options.command == "retry" and decide(queue, options.id, never_a_job):
        print(f"{options.id!r} in {options.queue} was never a job: drop it")
    else:
        print("\n".join(done) if done else f"no dead letter {options.id!r} in {options.queue}")
    return DONE if done else command.NO


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where Redis or a configuration cannot be read, 3 where nothing could be retried or dropped."""
    return command.run(NAME, body, argv, also=(RedisError,))
