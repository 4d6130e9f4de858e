"""Which messages of the queue are meant: by provider, domain, job, sender, recipient, age and queue."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase

from civicrm_tools.core.command import seconds
from civicrm_tools.mail import addresses
from civicrm_tools.mail.international import in_ascii
from civicrm_tools.mail.postfix import Instance, Message
from civicrm_tools.mail.providers import Providers, normal


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The filters that all queue commands share. One given twice means either; different ones mean both."""
    group = parser.add_argument_group("which messages")
    group.add_argument("--provider", action="append", default=[], metavar="NAME", help="recipients' provider")
    group.add_argument("--domain", action="append", default=[], metavar="DOMAIN", help="recipients' domain")
    group.add_argument(
        "--job", action="append", default=[], type=int, metavar="ID", help="CiviMail's job, in the VERP sender"
    )
    parser.add_argument(
        "--instance", default="postfix", metavar="NAME", help="Postfix instance, as postmulti -l names it"
    )


def add_more_filters(parser: argparse.ArgumentParser) -> None:
    """Filters for those who look for single messages."""
    group = parser.add_argument_group("which messages, more")
    group.add_argument(
        "--sender", action="append", default=[], metavar="PATTERN", help="envelope sender; * and ? match"
    )
    group.add_argument("--recipient", action="append", default=[], metavar="PATTERN", help="recipient; * and ? match")
    group.add_argument("--older-than", type=seconds, metavar="AGE", help="age such as 90s, 15m, 2h or 5d")
    group.add_argument(
        "--queue", action="append", default=[], metavar="QUEUE", choices=QUEUES, help=f"one of {', '.join(QUEUES)}"
    )
    group.add_argument("--id", action="append", default=[], metavar="QUEUE_ID", help="queue ID")


QUEUES = ("active", "deferred", "hold", "incoming", "maildrop")


class Selection:
    """What the options choose. Raises Failure for a provider that does not exist."""

    def __init__(self, options: argparse.Namespace, where: Instance) -> None:
        self.providers = Providers(where)
        self.provider = set(options.provider)
        self.providers.check(self.provider)
        self.domain = set(map(normal, options.domain))
        self.job = set(options.job)
        self.sender = [in_ascii(pattern).lower() for pattern in getattr(options, "sender", [])]
        self.recipient = [in_ascii(pattern).lower() for pattern in getattr(options, "recipient", [])]
        self.older_than = getattr(options, "older_than", None)
        self.queue = set(getattr(options, "queue", []))
        self.id = set(getattr(options, "id", []))

        self.everything = self.older_than is None and not any(
            (self.provider, self.domain, self.job, self.sender, self.recipient, self.queue, self.id)
        )

    def of(self, messages: Iterable[Message]) -> list[Message]:
        """The chosen messages, oldest first. One with several recipients is chosen if one of them is."""
        now = time.time()
        found = [message for message in messages if self._by_message(message, now)]
        if self.provider:
            self.providers.learn(r.address for m in found for r in m.recipients)
        return sorted((m for m in found if self._by_recipient(m)), key=lambda m: m.order)

    def _by_message(self, message: Message, now: float) -> bool:
        sender = message.sender.lower()
        return (
            (not self.id or message.queue_id in self.id)
            and (not self.queue or message.queue in self.queue)
            and (self.older_than is None or message.arrived < now - self.older_than)
            and (not self.sender or any(fnmatchcase(sender, pattern) for pattern in self.sender))
            and (not self.job or job(message) in self.job)
        )

    def _by_recipient(self, message: Message) -> bool:
        addresses = [recipient.address for recipient in message.recipients]
        return (
            (not self.domain or any(normal(address) in self.domain for address in addresses))
            and (not self.provider or any(self.providers.of(address) in self.provider for address in addresses))
            and (
                not self.recipient
                or any(fnmatchcase(address.lower(), pattern) for address in addresses for pattern in self.recipient)
            )
        )


def job(message: Message) -> int | None:
    """CiviMail's job of a message; None if it is no mailing's."""
    found = addresses.parse_any(message.sender)
    return found.job if found else None
