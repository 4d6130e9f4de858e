"""Find what is wrong with an inventory before any host is touched."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from jinja2 import TemplateError

# Two names closer than this are one name and a slip of the finger.
SLIP = 0.9


def _parsed(path: Path) -> Any:
    """Return a YAML file of our own; with libyaml, where it is there, in a tenth of the time."""
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe one


def role_options(roles_dir: str) -> dict[str, dict[str, Any]]:
    """Return {role: options of its main entry point} for each role in a directory that has argument_specs.yml.

    A directory without such a role raises: all checks would pass on nothing.
    """
    options = {}
    for path in sorted(Path(roles_dir).glob("*/meta/argument_specs.yml")):
        spec = _parsed(path)
        options[path.parts[-3]] = spec["argument_specs"]["main"].get("options", {})
    if not options:
        raise AnsibleFilterError(f"{roles_dir} holds no role: nothing could be checked")
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
            problems.append(f"{name}: {_hint(name, known) or 'no role has such a variable'}")
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


def required_variables(roles_dir: str, profiles: list[str]) -> list[str]:
    """Return the variables that only the inventory can give: what a profile and its roles require, less what it passes.

    profiles: names of roles, such as a host's groups; a name without a role counts for nothing.
    """
    options = role_options(roles_dir)
    required = set()
    for profile in set(profiles) & set(options):
        imports: list[dict[str, Any]] = [{"ansible.builtin.import_role": {"name": profile}}]
        imports += _parsed(Path(roles_dir, profile, "tasks/main.yml"))
        for task in imports:
            role = task.get("ansible.builtin.import_role", {}).get("name")
            needed = {name for name, option in options.get(role, {}).items() if option.get("required")}
            required |= needed - set(task.get("vars", {}))
    return sorted(required)


def form_problems(values: Mapping[str, Any], options: dict[str, Any]) -> list[str]:
    """Return one sentence for each value that has not the form its option asks for, or cannot be worked out.

    values: a host's variables, such as hostvars[inventory_hostname]. A misspelt key comes before the rest: that
    another key is missing only follows from it.
    """
    given: dict[str, Any] = {}
    broken: dict[str, list[str]] = {}
    for name in sorted(set(options) & set(values)):
        try:
            given[name] = _resolved(values[name])
        except TemplateError as error:
            broken.setdefault(str(error), []).append(name)
    problems = [f"{', '.join(names)}: {error}{_namesake(error, values)}" for error, names in broken.items()]
    problems += _misspelt_keys(given, options)
    if problems:
        return problems
    result = ArgumentSpecValidator(options).validate(given, validate_role_argument_spec=True)
    return sorted(remove_values(result.error_messages, result._no_log_values))


def _resolved(value: Any) -> Any:
    """Return `value` with every template in it worked out; raises TemplateError where that fails."""
    if isinstance(value, Mapping):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    str(value)  # the mark that Ansible puts in place of an undefined variable raises when it is looked at
    return value


def _misspelt_keys(values: dict[str, Any], options: dict[str, Any], where: str = "") -> Iterator[str]:
    for name, value in values.items():
        if name not in options:
            yield f"{where}{name}: {_hint(name, options) or 'no such key; there are ' + ', '.join(options)}"
            continue
        for number, element in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(element, dict) and "options" in options[name]:
                label = element.get("name", number)
                yield from _misspelt_keys(element, options[name]["options"], f"{where}{name}[{label}].")


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _namesake(error: str, defined: Iterable[str]) -> str:
    undefined = re.match(r"'(\w+)' is undefined", error)
    close = difflib.get_close_matches(undefined[1], defined, n=1, cutoff=SLIP) if undefined else []
    return f"; is {close[0]} misspelt?" if close else ""


def unknown_names(inventory_dir: str, groups: dict[str, list[str]]) -> list[str]:
    """Return one sentence for each file in host_vars or group_vars that is named after nobody."""
    problems = []
    for directory, names, what in (("host_vars", groups["all"], "host"), ("group_vars", list(groups), "group")):
        for path in sorted(Path(inventory_dir, directory).glob("*")):
            name = path.name.removesuffix(".yml").removesuffix(".yaml")
            if name not in names and not name.startswith("."):
                problems.append(f"{directory}/{path.name} is for a {what} that hosts.yml does not name")
    return problems


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "role_options": role_options,
            "misspelt_variables": misspelt_variables,
            "optional": optional,
            "required_variables": required_variables,
            "form_problems": form_problems,
            "unknown_names": unknown_names,
        }
