"""Count the messages in every queue of every Postfix instance, as Prometheus text or JSON.

Reads the queue directories themselves, so it works while Postfix is down. Needs root. A timer, mail-tools-metrics.timer
or on ext one-click-metrics.timer, writes the metrics postfix_queue_length and postfix_up.

Exit status: 0, 1 error, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from civicrm_tools.core import command, files
from civicrm_tools.core.command import DONE
from civicrm_tools.core.metrics import Family, exposition
from civicrm_tools.mail import postfix

NAME = "postfix-queues-sizes"
QUEUES = ("active", "bounce", "corrupt", "deferred", "flush", "hold", "incoming", "maildrop")


def sizes() -> dict[str, dict[str, int]]:
    """{instance: {queue: number of messages}}."""
    return {where.name: postfix.sizes(where, QUEUES) for where in postfix.instances()}


def family(found: dict[str, dict[str, int]]) -> Family:
    """Return the sizes as a metric."""
    samples = [
        ({"postfix_instance": instance, "queue": name}, number)
        for instance, queues in found.items()
        for name, number in queues.items()
    ]
    return Family("postfix_queue_length", "gauge", "Messages in a Postfix queue.", samples)


def up() -> Family:
    """Return whether each instance's master runs, as a metric."""
    samples = [({"postfix_instance": where.name}, int(postfix.alive(where))) for where in postfix.instances()]
    return Family("postfix_up", "gauge", "Postfix runs.", samples)


def parser() -> argparse.ArgumentParser:
    made = command.Parser(prog=NAME, description=__doc__)
    made.add_argument("--json", action="store_true", help="print JSON: instance -> queue -> number")
    made.add_argument("--output", type=Path, metavar="FILE", help="replace this file as a whole instead of printing")
    return made


def body(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    found = sizes()
    text = json.dumps(found, indent=2) + "\n" if options.json else exposition([family(found), up()])
    if options.output:
        files.write(options.output, text, sync=False)
    else:
        print(text, end="")
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(NAME, body, argv)
