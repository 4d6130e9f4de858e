"""A mistake in the inventory is found before a host is touched."""

from loading import load

inventory = load("plugins/filter/inventory.py")
OPTIONS = {
    "resolver": {"resolver_upstreams": {"type": "list", "required": True}},
    "postfix_mailing": {"postfix_mailing_providers": {"type": "list"}},
}


def test_a_misspelt_option_is_named_with_what_was_meant():
    (problem,) = inventory.misspelt_variables(["resolver_upsteams"], OPTIONS)
    assert problem == "resolver_upsteams: did you mean resolver_upstreams?"


def test_a_misspelt_prefix_is_found_too():
    (problem,) = inventory.misspelt_variables(["postfx_mailing_providers"], OPTIONS)
    assert "postfix_mailing_providers" in problem


def test_an_invented_variable_of_a_role_is_found():
    assert inventory.misspelt_variables(["resolver_colour_of_the_sea"], OPTIONS)


def test_other_names_are_the_inventorys_own_affair():
    assert (
        inventory.misspelt_variables(["crm_sites", "vault_sites", "ansible_host", "resolver_upstreams"], OPTIONS) == []
    )


def test_a_profile_gives_what_is_required_so_the_preflight_asks_for_nothing():
    assert inventory.optional(OPTIONS)["resolver_upstreams"] == {"type": "list"}


def test_variables_for_an_unknown_host_are_found(tmp_path):
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "crm-int-99.yml").write_text("x: 1\n")
    (tmp_path / "group_vars" / "civicrm_int").mkdir(parents=True)
    groups = {"all": ["crm-int-01"], "civicrm_int": ["crm-int-01"]}
    (problem,) = inventory.unknown_names(str(tmp_path), groups)
    assert "crm-int-99" in problem
