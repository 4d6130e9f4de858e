"""Check the conditions of a role's variables in one task; the options stand in plugins/modules/assert_all.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

CHECK = {"that", "fail_msg", "loop", "when", "vars"}


class ActionModule(ActionBase):
    """Evaluate one check after the other, on the controller alone, up to the first that fails."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """Leave the checks as they are written: each is evaluated with its own variables."""
        return value

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        unknown = set(self._task.args) - {"checks"}
        if unknown or not isinstance(self._task.args.get("checks"), list):
            raise AnsibleActionFail(f"assert_all needs a list of checks, and nothing else {' '.join(sorted(unknown))}")
        for check in self._task.args["checks"]:
            if not {"that", "fail_msg"} <= set(check) <= CHECK:
                raise AnsibleActionFail(f"assert_all: a check has that, fail_msg, loop, when and vars, not {check}")
            problem = self._problem(check, variables)
            if problem is not None:
                return result | {"failed": True, "changed": False, "msg": problem}
        return result | {"changed": False}

    def _problem(self, check: dict[str, Any], variables: dict[str, Any]) -> str | None:
        """Return the message of the first item for which a check fails, None if it holds."""
        # Not worked out here: they may speak of the item and of each other, and most are needed by few conditions.
        scope = variables | check.get("vars", {})
        try:
            items = self._templar_for(scope).template(check["loop"]) if "loop" in check else [None]
            for item in items:
                templar = self._templar_for(scope | ({"item": item} if "loop" in check else {}))
                conditions = check["that"] if isinstance(check["that"], list) else [check["that"]]
                if "when" in check and not templar.evaluate_conditional(check["when"]):
                    continue
                if not all(templar.evaluate_conditional(condition) for condition in conditions):
                    return str(templar.template(check["fail_msg"]))
        except AnsibleError as error:
            raise AnsibleActionFail(f"assert_all cannot evaluate {check['that']!r}: {error}", orig_exc=error) from error
        return None

    def _templar_for(self, variables: dict[str, Any]) -> Any:
        return self._templar.copy_with_new_env(available_variables=variables)
