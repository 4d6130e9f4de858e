"""Check the conditions of a role's variables in one task; the options stand in plugins/modules/assert_all.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

CHECK = {"that", "fail_msg", "loop", "when", "vars"}
Variables = dict[str, Any]


class Found(NamedTuple):
    """Checks that a role makes, the variables that its imports give it, and under which conditions it is imported.

    facts: in the place of checks, what is worked out once for all that follows and needs no answer of the host.
    """

    role: str
    checks: list[dict[str, Any]]
    facts: Variables
    given: Variables
    conditions: list[str]


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
        if set(self._task.args) == {"roles", "profiles"}:
            problem = self._first_of_profiles(variables)
        elif set(self._task.args) == {"checks"} and isinstance(self._task.args["checks"], list):
            problem = self._first(self._task.args["checks"], variables)
        else:
            raise AnsibleActionFail("assert_all needs a list of checks, or roles and profiles, and nothing else")
        return result | {"changed": False} | ({} if problem is None else {"failed": True, "msg": problem})

    def _first(self, checks: list[dict[str, Any]], variables: Variables) -> str | None:
        """Return the message of the first check that fails."""
        for check in checks:
            if not {"that", "fail_msg"} <= set(check) <= CHECK:
                raise AnsibleActionFail(f"assert_all: a check has that, fail_msg, loop, when and vars, not {check}")
            problem = self._problem(check, variables)
            if problem is not None:
                return problem
        return None

    def _first_of_profiles(self, variables: Variables) -> str | None:
        """Return the message of the first check of a profile, or of a role that it imports, that fails.

        What is imported counts as it is written: includes and facts of a host are for the host's own run.
        """
        templar = self._templar_for(variables)
        self._roles = Path(templar.template(self._task.args["roles"]))
        for profile in templar.template(self._task.args["profiles"]):
            found = list(self._imported(profile, "main.yml", {}, [])) if (self._roles / profile).is_dir() else []
            defaults: Variables = {}
            constants: Variables = {}
            # As Ansible has them: what a profile imports shows its variables to the whole play.
            for role in dict.fromkeys([*(one.role for one in found), profile]):
                defaults |= self._read(role, "defaults/main.yml") or {}
                constants |= self._read(role, "vars/main.yml") or {}
            facts: Variables = {}
            for one in found:
                scope = defaults | variables | constants | facts | one.given
                facts |= {name: self._templar_for(scope).template(value) for name, value in one.facts.items()}
                if all(self._templar_for(scope).evaluate_conditional(condition) for condition in one.conditions):
                    problem = self._first(one.checks, scope)
                    if problem is not None:
                        return problem
        return None

    def _imported(self, role: str, file: str, given: Variables, conditions: list[str]) -> Iterator[Found]:
        """Yield the checks in a role's file of tasks and in all that it imports."""
        for task in self._read(role, f"tasks/{file}"):
            variables = given | task.get("vars", {})
            when = task.get("when", [])
            needed = conditions + (when if isinstance(when, list) else [when])
            if "assert_all" in task:
                yield Found(role, task["assert_all"]["checks"], {}, variables, needed)
            elif "ansible.builtin.set_fact" in task and "when" not in task:
                yield Found(role, [], task["ansible.builtin.set_fact"], variables, needed)
            elif tasks := task.get("ansible.builtin.import_tasks"):
                yield from self._imported(role, tasks, variables, needed)
            elif imported := task.get("ansible.builtin.import_role"):
                yield from self._imported(imported["name"], imported.get("tasks_from", "main.yml"), variables, needed)

    def _read(self, role: str, file: str) -> Any:
        path = self._roles / role / file
        return self._loader.load_from_file(str(path), trusted_as_template=True) if path.is_file() else None

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
