"""Find what is wrong with an inventory before any host is touched."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

# Two names closer than this are one name and a slip of the finger.
SLIP = 0.9


def role_options(roles_dir: str) -> dict[str, dict[str, Any]]:
    """Return {role: options of its main entry point} for each role in a folder that has argument_specs.yml."""
    options = {}
    for path in sorted(Path(roles_dir).glob("*/meta/argument_specs.yml")):
        spec = yaml.safe_load(path.read_text())
        options[path.parts[-3]] = spec["argument_specs"]["main"].get("options", {})
    return options


def misspelt_variables(names: list[str], options: dict[str, dict[str, Any]]) -> list[str]:
    """Return one sentence for each variable that no role reads although it looks like one.

    names: variables that an inventory defines. A name is wrong when it begins with a role's prefix and is no
    option of that role, or when it is nearly an option. Other names are the inventory's own affair.
    """
    known = {option for role in options.values() for option in role}
    problems = []
    for name in sorted(set(names) - known):
        close = difflib.get_close_matches(name, known, n=1, cutoff=SLIP)
        if close or any(name.startswith(f"{role}_") for role in options):
            close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "no role has such a variable"
            problems.append(f"{name}: {hint}")
    return problems


def optional(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return all roles' options as one specification in which nothing is required at the top.

    A profile gives the rest; nested options keep their own `required`.
    """
    return {
        name: {key: value for key, value in option.items() if key != "required"}
        for role in options.values()
        for name, option in role.items()
    }


def unknown_names(inventory_dir: str, groups: dict[str, list[str]]) -> list[str]:
    """Return one sentence for each file in host_vars or group_vars that is named after nobody."""
    problems = []
    for folder, names, what in (("host_vars", groups["all"], "host"), ("group_vars", list(groups), "group")):
        for path in sorted(Path(inventory_dir, folder).glob("*")):
            name = path.name.removesuffix(".yml").removesuffix(".yaml")
            if name not in names and not name.startswith("."):
                problems.append(f"{folder}/{path.name} is for a {what} that hosts.yml does not name")
    return problems


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "role_options": role_options,
            "misspelt_variables": misspelt_variables,
            "optional": optional,
            "unknown_names": unknown_names,
        }
