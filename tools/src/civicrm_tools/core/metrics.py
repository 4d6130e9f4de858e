"""Metrics for node_exporter's textfile collector, in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from civicrm_tools.core import files, paths

DIRECTORY = Path("/var/lib/prometheus/node-exporter")

SAMPLE = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$', re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Family(NamedTuple):
    """One metric. kind: gauge or counter; samples: (labels, value), those of one family with the same label names."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float]]


def gauge(name: str, text: str, value: float) -> Family:
    """Return a gauge without labels."""
    return Family(name, "gauge", text, [({}, value)])


def exposition(families: Iterable[Family]) -> str:
    """Return metrics as text; a family without samples still has its HELP and TYPE."""
    lines = []
    for family in families:
        text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {text}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{key}="{_escaped(str(word))}"' for key, word in labels.items())
            lines.append(f"{family.name}{f'{{{inside}}}' if inside else ''} {number(value)}")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Return a value as it is written: whole numbers without a point, times to the microsecond."""
    return str(int(value)) if float(value).is_integer() else f"{value:.16g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write(path: Path, families: Iterable[Family]) -> bool:
    """Replace a file of metrics at once. False where its directory is missing: nobody collects. Raises OSError."""
    if not path.parent.is_dir():
        return False
    # Not synced: a host that lost its power has new numbers in a minute.
    files.write(path, exposition(families), sync=False)
    return True


def read(path: Path) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what `parse` finds in a file; empty where there is none."""
    try:
        return parse(paths.read(path).decode())
    except (OSError, ValueError):
        return {}


def parse(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return {(name, labels): value} of metrics as text; lines that are none are passed over."""
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        words = frozenset((key, re.sub(r"\\(.)", _unescaped, word)) for key, word in LABEL.findall(labels))
        try:
            found[name, words] = float(value)
        except ValueError:
            continue
    return found


def _unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
