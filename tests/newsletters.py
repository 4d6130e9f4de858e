"""What tests do with the lab's CiviCRM and the fake providers, in words of the field."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host


def run_job(crm_int: Host, name: str) -> None:
    """Run one of CiviCRM's jobs as its timer would; fails when CiviCRM says that the job failed.

    A run that the timer started before is waited for first: it may have looked too early.
    """
    unit = f"civicrm-crm-{name}.service"
    if name == "fetch-bounces":
        # What has arrived waits for the next look of the bounce breaker: look now.
        crm_int.check_output("bounce-breaker run")
    crm_int.check_output(
        f"timeout 120 sh -c 'while [ $(systemctl is-active {unit}) = activating ]; do sleep 0.2; done'; "
        f"systemctl start {unit}"
    )


def newsletter(crm_int: Host, command: str) -> dict[str, Any]:
    """Run lab-newsletter (contact, create, status, show) and return what it says."""
    return json.loads(crm_int.check_output(f"lab-newsletter {command}"))


def contact(crm_int: Host, address: str) -> dict[str, Any]:
    """Return what CiviCRM knows of the one contact with this address."""
    (found,) = newsletter(crm_int, f"show {address}")["contacts"]
    return found


def ledger(world: Host, **filters: str) -> list[dict[str, Any]]:
    """Return what the fake providers decided, oldest first; filters: provider, recipient, since."""
    options = " ".join(f"--{name} '{value}'" for name, value in filters.items())
    return json.loads(world.check_output(f"fake-provider ledger {options}"))


def folder_counts(crm_int: Host, site: str = "crm") -> dict[str, int]:
    """Return the number of messages in each folder of a site's mailbox."""
    out = crm_int.check_output(f"doveadm mailbox status -u {site} messages INBOX 'INBOX*'")
    return {line.split(" messages=")[0]: int(line.split("messages=")[1]) for line in out.splitlines()}
