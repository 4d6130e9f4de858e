"""What the preflight says of two hosts that do not fit together."""

from __future__ import annotations

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from loading import ROOT


@pytest.fixture
def said(render):
    """A function (variable of the first task, host, its groups, variables of all hosts) -> its text."""
    loader = DataLoader()
    (play, *_) = loader.load_from_file(str(ROOT / "playbooks/preflight.yml"), trusted_as_template=True)
    problems = {name: text for name, text in play["tasks"][0]["vars"].items() if name != "preflight_problem"}

    def _said(name: str, host: str, groups: list[str], hostvars: dict[str, dict[str, str]]) -> str:
        names = {
            "inventory_hostname": host,
            "group_names": groups,
            "groups": {"civicrm_int": ["int"], "civicrm_ext": ["ext"]},
            "hostvars": hostvars,
        }
        templar = Templar(loader=loader, variables=problems | names | hostvars[host])
        return templar.template(trust_as_template(f"{{{{ {name} }}}}"))

    return _said


@pytest.mark.parametrize(
    ("of_int", "of_ext", "refused"),
    [
        ("admin@example.org", "admin@example.org", False),
        ("admin@example.org", "Admin@Example.org", False),
        ("crm@example.org", "admin@example.org", True),
        ("crm@example.org", None, False),
    ],
)
def test_system_mail_that_the_other_host_would_refuse_is_told_before(said, of_int, of_ext, refused):
    """int takes it for one address; ext's would bounce to root, who is behind the same door."""
    hostvars = {
        "int": {"postfix_mailing_admin_address": of_int, "host_baseline_admin_address": "root@example.net"},
        "ext": {"host_baseline_admin_address": of_ext} if of_ext else {},
    }
    text = said("preflight_system_mail", "int", ["civicrm_int"], hostvars)
    if refused:
        assert text.startswith("postfix_mailing_admin_address of int is not host_baseline_admin_address of the group ")
        assert text.endswith(f" ({of_ext}), whose system mail it would refuse: set both to one address")
    else:
        assert text == ""
    assert said("preflight_system_mail", "ext", ["civicrm_ext"], hostvars) == ""


def test_the_preflight_says_all_that_it_finds():
    text = (ROOT / "playbooks/preflight.yml").read_text()
    first = text.partition("preflight_problem: >-")[2].partition("}}")[0]
    assert "or preflight_system_mail" in first
