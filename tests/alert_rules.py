"""The rules of monitoring/rules, read as text: which metrics and labels they need."""

from __future__ import annotations

import re
from typing import Any

import yaml
from loading import ROOT

FILES = sorted((ROOT / "monitoring" / "rules").glob("*.yml"))
WORDS = {"and", "or", "unless", "offset", "bool"}


def rules() -> list[dict[str, Any]]:
    """Every rule of every group."""
    groups = [group for path in FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def metrics(expression: str) -> set[str]:
    """The metrics' names in a PromQL expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"(?<![\w.])[a-z_]\w*\b(?!\s*\()", bare)) - WORDS


def label_values(expression: str) -> set[str]:
    """The values that a PromQL expression asks labels for; not those of negated matchers."""
    found = re.findall(r'\w+=(~?)"([^"]*)"', expression)
    return {value for regex, text in found for value in (re.split(r"[|()]", text) if regex else [text]) if value}
