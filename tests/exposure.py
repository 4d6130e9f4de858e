"""How exposed a unit may be (docs/hardening.md), and how exposed systemd-analyze finds it."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

# At most this exposure, where the table names no other.
LIMIT = 5.0
PAGE = Path(__file__).resolve().parents[1] / "docs/hardening.md"


def exceptions() -> dict[str, tuple[float, str]]:
    """{pattern of unit names: (most exposure, reason)} of the table."""
    rows = re.findall(r"^\| `(\S+\.service)` \| ([\d.]+) \| (.+) \|$", PAGE.read_text(), re.M)
    return {pattern: (float(most), why) for pattern, most, why in rows}


def limit(unit: str) -> float:
    """Most exposure that this unit may have."""
    return max([most for pattern, (most, _) in exceptions().items() if fnmatchcase(unit, pattern)], default=LIMIT)


def overall(text: str) -> dict[str, float]:
    """{unit: exposure} of the output of `systemd-analyze security UNIT...`."""
    return {unit: float(n) for unit, n in re.findall(r"Overall exposure level for (\S+): ([\d.]+)", text)}
