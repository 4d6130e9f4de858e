"""Tell a refusal of us from an address that is dead, and say how many of them are a storm.

X.7.X is policy, X.1.X and X.2.X are about the address (RFC 3463); the text of the refusal says it as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from civicrm_tools.mail import delivery_report
from civicrm_tools.mail.delivery_report import Bounce
from civicrm_tools.mail.return_path import SettingsError

# Reasons that lie with the sender: the code says "policy" (RFC 3463, X.7.X), or the text does.
POLICY_TEXTS = (
    r"\bblocked\b",
    r"\b(block|black|deny) ?-?list",
    r"\b(rbl|dnsbl|spamhaus|spamcop|barracuda|senderscore)\b",
    r"\breputation\b",
    r"\bunsolicited\b",
    r"\b(detected|classified|considered|identified|rejected) as spam\b",
    r"\b(spf|dkim|dmarc)\b.{0,80}\b(fail|reject|align|requir)",
    r"\brate ?-?limit",
    r"\bpolicy (reason|violation|restriction)",
)
# Reasons that lie with the address, whatever else is said.
GENUINE_STATUS = re.compile(r"5\.[12]\.\d+")
GENUINE_TEXT = re.compile(
    r"\b(unknown|no such|invalid|inactive|disabled|nonexistent|non-existent) (user|recipient|mailbox|address|account)"
    r"|\b(user|recipient|mailbox|account) (is )?(unknown|not found|disabled|inactive)|does not exist",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limits:
    """When refusals are a storm; times in seconds."""

    mode: str
    storm_messages: int
    storm_share: float
    window: float
    hold_back: float
    policy: tuple[re.Pattern[str], ...]
    pause_command: tuple[str, ...]

    @classmethod
    def of(cls, section: dict[str, Any]) -> Limits:
        """Raises SettingsError."""
        try:
            limits = cls(
                mode=str(section.get("mode") or "shadow"),
                storm_messages=int(section.get("storm_messages", 20)),
                storm_share=float(section.get("storm_share", 0.5)),
                window=float(section.get("window_seconds", 600)),
                hold_back=float(section.get("hold_back_seconds", 60)),
                policy=tuple(re.compile(text, re.IGNORECASE) for text in section.get("policy_texts") or POLICY_TEXTS),
                pause_command=tuple(map(str, section.get("pause_command") or ())),
            )
        except (ValueError, TypeError, re.error) as error:
            raise SettingsError(f"bounce_breaker: {error}") from error
        if limits.mode not in ("active", "shadow"):
            raise SettingsError(f"bounce_breaker: mode {limits.mode!r} is neither active nor shadow")
        return limits

    def is_policy(self, bounce: Bounce) -> bool:
        """Whether the refusal is about us and not about the address."""
        if bounce.action != "failed" or GENUINE_STATUS.fullmatch(bounce.status) or GENUINE_TEXT.search(bounce.text):
            return False
        codes = {bounce.status, *delivery_report.STATUS.findall(bounce.text)}
        return any(code[2:].startswith("7.") for code in codes if code) or any(
            pattern.search(bounce.text) for pattern in self.policy
        )
