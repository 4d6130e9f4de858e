"""Hosts, secrets and patience: see tests/fixtures.py. Which tests may run beside each other: docs/testing.md."""

import pytest

# pytest finds fixtures by the names in this module.
from fixtures import *  # noqa: F403

# What tests of the other group change under one's feet: fixtures for those marked mail, helpers for those marked web.
NOT_MAIL = {"crm_ext", "ops", "browse", "playbook"}
NOT_WEB = {"newsletter", "run_job", "folder_counts"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that is marked for one group and reaches for what belongs to the other."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "alone" in marks:
            continue
        foreign = NOT_MAIL & set(item.fixturenames) if "mail" in marks else set()
        foreign |= NOT_WEB & set(vars(item.module)) if "web" in marks else set()
        if foreign or {"mail", "web"} <= marks:
            raise pytest.UsageError(
                f"{item.nodeid}: mark it alone, or do without {', '.join(sorted(foreign)) or 'one'}"
            )
