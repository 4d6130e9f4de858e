"""Postfix's own commands and queue directories, as the tools here use them.

A message is moved only by postsuper, which may run at any time; the directories are read, because Postfix's
listing needs a running system and opens each of a hundred thousand files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, CompletedProcess

from civicrm_tools.core.command import Failure, counted, seconds
from civicrm_tools.core.run import ended, run, start

# postsuper may have a hundred thousand files to rename on a slow disk.
SECONDS = 3600

# Below this, each released message is asked for by name; above, one scan of the deferred queue is cheaper.
ONE_BY_ONE = 50
# Attempts to wake a service.
KICKS = 10


@dataclass(frozen=True)
class Instance:
    """One Postfix of `postmulti -l`; `name` is what its log lines begin with: "postfix" for the default one."""

    name: str
    directory: str

    def run(
        self, name: str, *arguments: str, text: str = "", statuses: Collection[int] = (0,)
    ) -> CompletedProcess[str]:
        """Run one of Postfix's commands for this instance, as core.run does.

        Apart from the terminal's signals: Ctrl-C ends the tool and not what it has begun.
        """
        command = (name, "-c", self.directory, *arguments)
        return run(*command, timeout=SECONDS, text=text, statuses=statuses, apart=True)

    def parameter(self, name: str) -> str:
        """The effective value of a main.cf parameter, with what it refers to put in."""
        return _parameter(self, name)

    @property
    def spool(self) -> str:
        return self.parameter("queue_directory")


@dataclass(frozen=True)
class Recipient:
    address: str
    # Why the last attempt failed; empty if there was none.
    reason: str = ""


@dataclass(frozen=True)
class Message:
    """One line of `postqueue -j`. `arrived` is in seconds since the epoch."""

    queue: str
    queue_id: str
    arrived: int
    size: int
    sender: str
    recipients: tuple[Recipient, ...] = field(default=())

    @property
    def order(self) -> tuple[int, str]:
        """Oldest first; within one second by the time in a long queue ID, whose letters sort as they count."""
        return self.arrived, self.queue_id


@functools.cache
def _parameter(where: Instance, name: str) -> str:
    return where.run("postconf", "-hx", name).stdout.strip()


def parse_instances(listing: str) -> Iterator[Instance]:
    """Instances in the text of `postmulti -l`; the default one, which is listed as "-", is called "postfix"."""
    for line in listing.splitlines():
        fields = line.split(maxsplit=3)
        if len(fields) == 4:
            name, _group, _enabled, directory = fields
            yield Instance("postfix" if name == "-" else name, directory)


def instances() -> list[Instance]:
    """All instances of this host, the default one first. Raises Failure if there is none."""
    found = list(parse_instances(run("postmulti", "-l", timeout=SECONDS, apart=True).stdout))
    if not found:
        raise Failure("postmulti -l names no instance")
    return found


def instance(name: str) -> Instance:
    """The instance of this name. Raises Failure naming those that exist."""
    found = instances()
    for candidate in found:
        if candidate.name == name:
            return candidate
    raise Failure(f"no instance is called '{name}': there is {', '.join(i.name for i in found)}")


def need_running(where: Instance) -> None:
    """Raise Failure if the instance is down: what is released then would lie there unsent."""
    try:
        where.run("postfix", "status")
    except Failure as failure:
        raise Failure(f"{where.name} is not running: systemctl start postfix") from failure


def listing(where: Instance) -> Iterator[Message]:
    """Every message of every queue, in the order in which Postfix finds them."""
    command = ["postqueue", "-c", where.directory, "-j"]
    # Read as it comes: a line for each of a hundred thousand messages.
    process = start(command, stdout=PIPE, stderr=PIPE, text=True, errors="replace", start_new_session=True)
    assert process.stdout and process.stderr
    with process:
        for line in counted(process.stdout, "reading the queue"):
            yield parse_message(line)
        complaint = process.stderr.read()
    if process.returncode != 0:
        raise ended(command, process.returncode, complaint)


def parse_message(line: str) -> Message:
    entry = json.loads(line)
    return Message(
        queue=entry["queue_name"],
        queue_id=entry["queue_id"],
        arrived=int(entry["arrival_time"]),
        size=int(entry["message_size"]),
        sender=entry["sender"],
        recipients=tuple(Recipient(r["address"], r.get("delay_reason", "")) for r in entry["recipients"]),
    )


def files(directory: str) -> Iterator[os.DirEntry[str]]:
    """Files below a queue directory, which Postfix may have split by letters of the ID. A missing one is empty.

    os.scandir and plain strings: a queue may hold a hundred thousand files.
    """
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        # A queue that was never used, or a subdirectory that has just gone.
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry


def count(directory: str) -> int:
    """Number of files below a queue directory."""
    return sum(1 for _ in files(directory))


def sizes(where: Instance, queues: Iterable[str]) -> dict[str, int]:
    """{queue: number of messages} of an instance, read from its directories."""
    return {queue: count(f"{where.spool}/{queue}") for queue in queues}


def queue_ids(where: Instance, queue: str) -> set[str]:
    """Queue IDs in one queue, read from its directory: a tenth of a second for a hundred thousand."""
    return {entry.name for entry in files(f"{where.spool}/{queue}")}


def moved(said: str, verb: str) -> int:
    """The number in postsuper's last line, such as "Placed on hold: 12 messages"; 0 if it moved none."""
    found = re.findall(rf"^postsuper: {verb}: (\d+) message", said, re.M)
    return int(found[-1]) if found else 0


def hold(where: Instance, ids: Iterable[str], *queues: str) -> int:
    """Put messages in `queues` on hold and return how many there were."""
    return _super(where, "-h", "Placed on hold", ids, queues)


def hold_all(where: Instance, queue: str) -> int:
    """Put every message in a queue on hold and return how many there were."""
    # As an argument: on standard input ALL would be a queue ID.
    return moved(where.run("postsuper", "-h", "ALL", queue).stderr, "Placed on hold")


def delete(where: Instance, ids: Iterable[str], *queues: str) -> int:
    """Delete messages from `queues` and return how many there were."""
    return _super(where, "-d", "Deleted", ids, queues)


def _super(where: Instance, option: str, verb: str, ids: Iterable[str], queues: Sequence[str]) -> int:
    text = "".join(f"{queue_id}\n" for queue_id in ids)
    return moved(where.run("postsuper", option, "-", *queues, text=text).stderr, verb) if text else 0


def release(where: Instance, ids: Sequence[str], requeue: Collection[str] = ()) -> int:
    """Let messages leave hold and be tried at once; return how many did.

    Those in `requeue` get a new queue ID and a whole lifetime: after a long hold the first deferral would
    otherwise bounce them. Messages that have meanwhile gone are passed over in silence.
    """
    plain = [queue_id for queue_id in ids if queue_id not in requeue]
    anew = [queue_id for queue_id in ids if queue_id in requeue]
    count = _super(where, "-H", "Released from hold", plain, ())
    if count:
        _try_now(where, plain)
    if again := _super(where, "-r", "Requeued", anew, ("hold",)):
        # postsuper leaves them in maildrop, which pickup looks at once a minute.
        _kick(where, "pickup", "W")
    return count + again


def _try_now(where: Instance, ids: Sequence[str]) -> None:
    """Have messages tried that postsuper -H has left in the deferred queue, where they would wait for its next scan."""
    if len(ids) <= ONE_BY_ONE:
        for queue_id in ids:
            # One that was deleted in this moment is no reason to leave the others lying.
            with contextlib.suppress(Failure):
                where.run("postqueue", "-i", queue_id)
        return
    # The scan takes what is due, and a file's time says when that is: after a failed attempt it lies in the future.
    wanted, now = set(ids), time.time()
    for entry in files(f"{where.spool}/deferred"):
        if entry.name in wanted:
            with contextlib.suppress(FileNotFoundError):
                os.utime(entry.path, (now, now))
    _kick(where, "qmgr", "D")


def _kick(where: Instance, service: str, request: str) -> None:
    """Wake one of Postfix's services. While it is reloaded nobody listens and postkick ends by SIGPIPE: ask again."""
    for left in reversed(range(KICKS)):
        try:
            where.run("postkick", "public", service, request)
            return
        except Failure:
            if not left:
                raise
            time.sleep(0.3)


def lifetime(where: Instance) -> int:
    """Seconds for which a message is tried (maximal_queue_lifetime)."""
    return seconds(where.parameter("maximal_queue_lifetime"))


def too_old(where: Instance, chosen: Iterable[Message], now: float) -> set[str]:
    """Messages that have spent more than half of their lifetime: released, they might bounce at the first deferral."""
    limit = now - lifetime(where) / 2
    return {message.queue_id for message in chosen if message.arrived < limit}


def reload(where: Instance) -> None:
    """Let the queue manager forget messages that were put on hold while it had them in memory.

    It would go on to offer each of them to its transport and use up the provider's pace on files that are not there.
    """
    where.run("postfix", "reload")


def replace_table(where: Instance, kind: str, target: Path, text: str) -> None:
    """Compile a table aside and put it in the place of the one in use: Postfix never sees half of it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        source = Path(scratch) / target.name
        source.write_text(text)
        source.chmod(0o644)
        where.run("postmap", f"{kind}:{source}")
        # The text goes last: a table older than its text makes Postfix warn.
        for file in sorted(source.parent.iterdir(), reverse=True):
            file.replace(target.parent / file.name)


def master_of(where: Instance) -> int:
    """Process ID that the instance's master has written down, of one that has died, too; 0 if there is none."""
    try:
        return int(Path(f"{where.spool}/pid/master.pid").read_text())
    except (OSError, ValueError):
        return 0


def alive(where: Instance) -> bool:
    """Whether the instance's master runs, without a command of Postfix'."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{master_of(where)}/comm").read_text() == "master\n"
    return False


def children(where: Instance, name: str) -> list[int]:
    """Process IDs of the instance's daemons of this name."""
    master = master_of(where)
    if not master:
        return []
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # "pid (name) state parent ...": the name may hold anything, so it ends at the last parenthesis.
            head, _, tail = stat.read_text().rpartition(")")
            if head.split("(", 1)[1] == name and int(tail.split()[1]) == master:
                found.append(int(stat.parent.name))
    return found


def started(process: int) -> float:
    """When a process began, in seconds since the epoch (proc_pid_stat(5): starttime counts from the boot)."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def pause(where: Instance) -> None:
    """Stop the queue manager, so that no delivery begins while a large queue is moved. `go_on` must follow."""
    _signal(where, signal.SIGSTOP)


def go_on(where: Instance) -> None:
    _signal(where, signal.SIGCONT)


def _signal(where: Instance, number: signal.Signals) -> None:
    for process in children(where, "qmgr"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
