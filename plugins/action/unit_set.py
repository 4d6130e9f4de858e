"""Render a set of files and units on the controller and hand it to the host in one call.

The options stand in plugins/modules/unit_set.py (ansible-doc unit_set).
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

# From the file: mitogen's loader would hand out a class that it has changed already, and change it again.
_SPEC = spec_from_file_location("file_set_action", Path(__file__).with_name("file_set.py"))
assert _SPEC and _SPEC.loader  # as for every path that ends in .py
_MODULE = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
FileSet: Any = _MODULE.ActionModule
UNIT = {"name", "state", "enabled", "masked", "reload_command", "defer_while", "only"}


class ActionModule(FileSet):
    """Evaluate, render, send; then the host brings the units into their states."""

    MODULE = "unit_set"
    OPTIONS = FileSet.OPTIONS | {"units"}

    def _more(self) -> dict[str, Any]:
        return {"units": [self._unit(one) for one in self._wanted("units")]}

    def _unit(self, unit: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        if set(unit) - UNIT:
            problem = f"has no option {', '.join(sorted(set(unit) - UNIT))}"
        elif "." not in str(unit.get("name")):
            problem = "needs a name with its suffix, such as postfix.service"
        elif unit.get("state", "started") not in ("started", "stopped", "any"):
            problem = f"has state '{unit['state']}': it must be started, stopped or any"
        elif unit.get("enabled", True) not in (True, False, "any"):
            problem = f"has enabled '{unit['enabled']}': it must be true, false or any"
        if problem:
            raise AnsibleActionFail(f"unit_set {self._set}: unit {unit.get('name')} {problem}")
        if unit.get("enabled") == "any":
            unit["enabled"] = None
        return unit
