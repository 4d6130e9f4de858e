# For mypy alone: ansible.module_utils of this project, under the name by which Ansible loads it. The link beside this
# file leads to plugins/module_utils; Ansible's own modules have no types.
from typing import Any

def __getattr__(name: str) -> Any: ...
