"""Print a text as it is; the options stand in plugins/modules/print_text.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Write to standard output, on the controller alone, past what Ansible makes of a result."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = self._task.args.get("text")
        if set(self._task.args) != {"text"} or not isinstance(text, str):
            raise AnsibleActionFail("print_text needs a text, and nothing else")
        Display().display(text)
        return result | {"changed": False}
