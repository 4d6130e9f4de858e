"""What the inventory gives has the form that the roles ask for, and nothing that only it can give is missing."""

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from jinja2 import UndefinedError
from loading import load

inventory = load("plugins/filter/inventory.py")
OPTIONS = {
    "web_port": {"type": "int"},
    "web_password": {"type": "str", "no_log": True, "choices": ["never", "told"]},
    "web_sites": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "mail_policy": {"type": "str", "required": True, "choices": ["deliver", "catch"]},
            "users": {"type": "list", "elements": "dict", "options": {"name": {"type": "str"}}},
        },
    },
}
GOOD = {"name": "crm", "mail_policy": "catch", "users": [{"name": "alice"}]}


class Undefined:
    """As Ansible's mark in place of an undefined variable: it raises when it is looked at."""

    def __str__(self) -> str:
        raise UndefinedError("'crm_sites' is undefined")


def test_a_good_inventory_has_no_problems_and_other_variables_are_its_own_affair():
    assert inventory.form_problems({"web_sites": [GOOD], "web_port": 80, "crm_stes": Undefined()}, OPTIONS) == []


def test_a_misspelt_key_is_named_with_its_place_and_comes_alone():
    """That mail_policy is missing only follows from it."""
    site = {"name": "crm", "mail_polcy": "catch"}
    assert inventory.form_problems({"web_sites": [GOOD, site]}, OPTIONS) == [
        "web_sites[crm].mail_polcy: did you mean mail_policy?"
    ]


def test_a_misspelt_key_is_found_at_any_depth_and_counts_entries_without_a_name():
    site = GOOD | {"users": [{"nmae": "alice"}]}
    assert inventory.form_problems({"web_sites": [site]}, OPTIONS) == [
        "web_sites[crm].users[0].nmae: did you mean name?"
    ]


def test_a_key_like_no_other_is_answered_with_those_there_are():
    (problem,) = inventory.form_problems({"web_sites": [GOOD | {"colour": "red"}]}, OPTIONS)
    assert problem == "web_sites[crm].colour: no such key; there are name, mail_policy, users"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"web_sites": [{"name": "crm"}]}, ["mail_policy", "web_sites"]),
        ({"web_sites": [GOOD | {"mail_policy": "burn"}]}, ["deliver, catch", "burn", "web_sites"]),
        ({"web_sites": ["crm"]}, ["web_sites"]),
        ({"web_port": "eighty"}, ["web_port"]),
    ],
    ids=["missing", "no choice", "text for a list of dicts", "text for a number"],
)
def test_a_wrong_form_is_named_with_its_variable(values, words):
    problems = "; ".join(inventory.form_problems(values, OPTIONS))
    assert all(word in problems for word in words), problems


def test_a_secret_of_the_wrong_form_is_not_shown():
    (problem,) = inventory.form_problems({"web_password": "canary"}, OPTIONS)
    assert "web_password" in problem
    assert "canary" not in problem


def test_an_undefined_variable_is_said_once_with_who_needs_it_and_what_was_meant():
    values = {"web_sites": [GOOD | {"name": Undefined()}], "web_port": Undefined(), "crm_stes": []}
    assert inventory.form_problems(values, OPTIONS) == [
        "web_port, web_sites: 'crm_sites' is undefined; is crm_stes misspelt?"
    ]


@pytest.fixture
def roles(tmp_path):
    """A profile that hands one of two required options of a function role on, and a role it does not use."""
    specifications = {
        "profile": {"profile_sites": {"required": True}, "profile_size": {}},
        "web": {"web_certificate": {"required": True}, "web_admin": {"required": True}, "web_port": {}},
        "other": {"other_thing": {"required": True}},
    }
    for role, options in specifications.items():
        (tmp_path / role / "meta").mkdir(parents=True)
        text = yaml.safe_dump({"argument_specs": {"main": {"options": options}}})
        (tmp_path / role / "meta/argument_specs.yml").write_text(text)
    tasks = [
        {"ansible.builtin.import_tasks": "validate.yml"},
        {"ansible.builtin.import_role": {"name": "web"}, "vars": {"web_certificate": "x"}},
    ]
    (tmp_path / "profile/tasks").mkdir()
    (tmp_path / "profile/tasks/main.yml").write_text(yaml.safe_dump(tasks))
    return str(tmp_path)


def test_what_a_profile_does_not_hand_on_the_inventory_must_give(roles):
    assert inventory.required_variables(roles, ["all", "profile"]) == ["profile_sites", "web_admin"]


def test_a_group_without_a_profile_requires_nothing(roles):
    assert inventory.required_variables(roles, ["all", "lab_world"]) == []


def test_a_directory_without_roles_is_an_error_and_not_a_clean_bill(tmp_path):
    with pytest.raises(AnsibleFilterError, match="holds no role"):
        inventory.role_options(str(tmp_path))
