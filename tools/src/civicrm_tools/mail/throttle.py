"""Halve a provider's budget while its deferrals say that we send too fast, and give it back; kept over restarts.

Deferrals are replies 4XX (RFC 5321, 4.2.1) that ask us to send less: `verdict` knows them, and the table of providers
may name others.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from civicrm_tools.core import command, files
from civicrm_tools.mail.provider_table import LOWEST, BackOff


@dataclass
class Throttle:
    """How often one provider's budget is halved, and why. Times are seconds since the epoch."""

    level: int = 0
    # The last step, and the last deferral for our pace.
    stepped: float = 0.0
    told: float = 0.0
    reason: str = ""
    lowered: int = 0
    raised: int = 0
    recent: deque[float] = field(default_factory=deque)

    def deferred(self, now: float, reply: str, limits: BackOff, lowest: int) -> bool:
        """Take in one deferral for our pace; True if it lowers the budget."""
        self.told = now
        self.recent.append(now)
        self._forget(now - limits.window)
        too_soon = self.stepped and now - self.stepped < limits.step
        if len(self.recent) < limits.deferrals or too_soon or self.level >= lowest:
            return False
        self.level += 1
        self.lowered += 1
        self.stepped, self.reason = now, reply
        # Those were due to the pace before this step.
        self.recent.clear()
        return True

    def quiet(self, now: float, limits: BackOff) -> bool:
        """Look at the clock; True if the budget rises by a step, as nothing was said for long enough."""
        # A clock that was set back must not keep the budget low for ever.
        self.told, self.stepped = min(self.told, now), min(self.stepped, now)
        if not self.level or now - max(self.told, self.stepped) < limits.recover:
            return False
        self.level -= 1
        self.raised += 1
        self.stepped = now
        return True

    def _forget(self, before: float) -> None:
        while self.recent and self.recent[0] < before:
            self.recent.popleft()
        while len(self.recent) > 10_000:
            self.recent.popleft()


# What a restart must not forget.
KEPT = ("level", "stepped", "told", "reason", "lowered", "raised")


def load_state(path: Path) -> dict[str, Throttle]:
    """{provider: what is known of it}. A damaged file is as good as none: the provider will say it again."""
    try:
        return files.read_json(path, _throttles, "all providers have their whole budget")
    except files.Missing:
        return {}
    except files.Unreadable as error:
        command.tell("postfix-pace", str(error))
        return {}


def _throttles(raw: Any) -> dict[str, Throttle]:
    return {
        str(name): Throttle(
            level=max(0, min(LOWEST, int(entry["level"]))),
            stepped=float(entry["stepped"]),
            told=float(entry["told"]),
            reason=str(entry["reason"]),
            lowered=int(entry["lowered"]),
            raised=int(entry["raised"]),
        )
        for name, entry in raw.items()
    }


def save_state(path: Path, throttles: dict[str, Throttle]) -> None:
    """Replace the state. Raises OSError."""
    files.write_json(path, {name: {key: getattr(t, key) for key in KEPT} for name, t in throttles.items()}, indent=1)
