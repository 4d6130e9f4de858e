"""Render a role's template as Ansible would: role defaults and OS variables, overrides on top, undefined raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def render() -> Callable[..., str]:
    """A function (role, template, distribution="Debian-13", **variables) -> text.

    `template` is the path under the role's templates/ without .j2; variables win over
    the role's vars/<distribution>.yml, vars/main.yml and defaults/main.yml, in that order.
    """
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "plugins" / "filter"))
    loader = DataLoader()

    def _render(role: str, template: str, distribution: str = "Debian-13", **variables: Any) -> str:
        base = next(p for p in (ROOT / "roles" / role, ROOT / "lab" / "roles" / role) if p.is_dir())
        scope: dict[str, Any] = {
            "ansible_managed": "Managed by Ansible.",
            "role_path": str(base),
            "inventory_hostname": "host.example.org",
            "ansible_facts": {
                "distribution": "Debian",
                "distribution_major_version": distribution.split("-")[1],
            },
        }
        for source in ("defaults/main.yml", "vars/main.yml", f"vars/{distribution}.yml"):
            if (base / source).is_file():
                scope |= loader.load_from_file(str(base / source), trusted_as_template=True) or {}
        scope |= variables
        loader.set_basedir(str(base / "templates"))
        text = (base / "templates" / f"{template}.j2").read_text()
        templar = Templar(loader=loader, variables=scope)
        return templar.template(trust_as_template(text))

    return _render
