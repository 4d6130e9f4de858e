"""Who refuses us, and how many refusals are a storm.

A refusal belongs to the recipient's provider, by Postfix' rule (`providers`), and to the domain of the mail server that
spoke. Both are names here: "gmail", "provider.example".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from civicrm_tools.mail.delivery_report import Bounce
from civicrm_tools.mail.return_path import SettingsError
from civicrm_tools.mail.verdict import US, Verdict

# Second-level names below which people register, where the top level is a country.
REGISTRIES = {
    *("ac", "co", "com", "edu", "gob", "gouv", "gov", "govt", "go", "ltd", "me", "mil"),
    *("ne", "net", "nic", "nom", "or", "org", "plc", "sch"),
}


def organisation(host: str) -> str:
    """The domain that somebody registered for a mail server's name, as far as its labels tell; addresses stay."""
    labels = host.strip(".").lower().split(".")
    if labels[-1].isdigit() or ":" in host:
        return host
    deep = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in REGISTRIES
    return ".".join(labels[-3 if deep else -2 :])


@dataclass(frozen=True)
class Limits:
    """When refusals are a storm, and what stops a mailing; times in seconds."""

    mode: str
    storm_messages: int
    storm_share: float
    window: float
    policy: tuple[re.Pattern[str], ...]
    pause_command: tuple[str, ...]
    pause_domains_command: tuple[str, ...]

    @classmethod
    def of(cls, section: dict[str, Any]) -> Limits:
        """Raises SettingsError."""
        try:
            limits = cls(
                mode=str(section.get("mode") or "shadow"),
                storm_messages=int(section.get("storm_messages", 20)),
                storm_share=float(section.get("storm_share", 0.5)),
                window=float(section.get("window_seconds", 600)),
                policy=tuple(re.compile(text, re.IGNORECASE) for text in section.get("policy_texts") or ()),
                pause_command=tuple(map(str, section.get("pause_command") or ())),
                pause_domains_command=tuple(map(str, section.get("pause_domains_command") or ())),
            )
        except (ValueError, TypeError, re.error) as error:
            raise SettingsError(f"bounce_breaker: {error}") from error
        if limits.mode not in ("active", "shadow"):
            raise SettingsError(f"bounce_breaker: mode {limits.mode!r} is neither active nor shadow")
        return limits

    def verdict(self, bounce: Bounce) -> Verdict:
        """What a bounce is about; the operator's own texts come before all else."""
        if bounce.action == "failed" and any(pattern.search(bounce.text) for pattern in self.policy):
            return Verdict(US, "policy", "bounce_breaker: policy_texts")
        return bounce.verdict

    def is_storm(self, us: int, others: int) -> bool:
        """Whether so many refusals of us are a storm. others: failures that are neither about us nor about an address.

        Dead addresses do not count: an old list may have any number of them, and none says whether we are blocked.
        """
        return us >= self.storm_messages and us >= self.storm_share * (us + others)

    def pause(self, name: str, domains: list[str]) -> list[str]:
        """The command that stops the mailing to a provider, or to a server's domains where these are given."""
        if not domains:
            return [word.replace("{provider}", name) for word in self.pause_command]
        return [
            word.replace("{domain}", domain)
            for word in self.pause_domains_command
            for domain in (domains if "{domain}" in word else [""])
        ]
