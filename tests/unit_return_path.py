"""A mail log and programs that stand for the system's, for tests of the return path."""

from __future__ import annotations

from pathlib import Path


def delivery(
    queue_id: str, sender: str, recipient: str, message_id: str, provider: str = "gmail", minute: int = 0
) -> str:
    """Postfix's lines about one message that a provider took."""
    stamp = f"2026-01-02T10:{minute:02d}:00.123456+00:00 mx"
    service = f"postfix-{provider}" if provider else "postfix"
    return (
        f"{stamp} postfix/cleanup[7]: {queue_id}: message-id=<{message_id}>\n"
        f"{stamp} postfix/qmgr[8]: {queue_id}: from=<{sender}>, size=900, nrcpt=1 (queue active)\n"
        f"{stamp} {service}/smtp[9]: {queue_id}: to=<{recipient}>, relay=mx1.mail.{provider}.example[192.0.2.1]:25, "
        "delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)\n"
        f"{stamp} postfix/qmgr[8]: {queue_id}: removed\n"
    )


def program(path: Path, text: str) -> Path:
    """A program that stands for one of the system's."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
