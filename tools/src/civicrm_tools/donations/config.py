"""What Ansible wrote: one JSON file per queue, and the list of campaigns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

FOLDER = Path("/etc/donation-worker")


class ConfigError(Exception):
    """A configuration cannot be read; the message says which and why."""


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
    trxn_prefix: str
    financial_type: str
    payment_instrument: str
    test: bool  # every contribution is marked as a test
    campaigns_version: str

    @classmethod
    def load(cls, queue: str) -> Config:
        path = FOLDER / f"{queue}.json"
        try:
            values = json.loads(path.read_text())
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise ConfigError(f"there is no queue {queue!r}: {path} does not exist") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{path} is no configuration of a queue: {error}") from None


def queues() -> Iterator[str]:
    """Names of all queues of this host."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.name != "campaigns.json":
            yield path.stem


def campaigns() -> list[dict[str, str]]:
    """The list of campaigns of the inventory: [{name, title, state}]."""
    try:
        return json.loads((FOLDER / "campaigns.json").read_text())["campaigns"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{FOLDER / 'campaigns.json'} cannot be read: {error}") from None
