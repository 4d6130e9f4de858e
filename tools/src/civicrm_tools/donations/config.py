"""What Ansible wrote: one JSON file per queue, and the list of campaigns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from civicrm_tools.core import files
from civicrm_tools.core.command import Failure

DIRECTORY = Path("/etc/donation-worker")


@dataclass(frozen=True)
class Config:
    """One queue and the CiviCRM that its donations go to."""

    queue: str  # the API site whose donations these are
    worker: str  # names this worker's in-flight list
    user: str  # the CRM site's user, as whom the API command runs
    enabled: bool  # false: donations stay in the queue
    redis_host: str
    redis_port: int
    redis_user: str
    redis_password: str
    api_command: list[str]
    api_timeout_seconds: int
    api_idle_seconds: int
    api_max_calls: int
    tries_max: int
    retry_seconds: int
    retry_max_seconds: int
    dead_max: int  # dead letters that are kept
    trxn_prefix: str
    financial_type: str
    payment_instrument: str
    test: bool  # every contribution is marked as a test
    proof: str  # when ext takes a donation for paid: none, notice, lookup
    campaigns_version: str

    @classmethod
    def load(cls, queue: str) -> Config:
        path = DIRECTORY / f"{queue}.json"
        try:
            return files.read_record(path, cls)
        except files.Missing as error:
            raise Failure(f"there is no queue {queue!r}: {path} does not exist") from error


def queues() -> Iterator[str]:
    """Names of all queues of this host."""
    for path in sorted(DIRECTORY.glob("*.json")):
        if path.name != "campaigns.json":
            yield path.stem


def campaigns() -> list[dict[str, str]]:
    """The list of campaigns of the inventory: [{name, title, state}]."""
    return files.read_json(DIRECTORY / "campaigns.json", lambda raw: list(raw["campaigns"]))
