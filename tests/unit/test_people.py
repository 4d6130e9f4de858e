"""The list of people: what is refused, who passes where, and which accounts follow from it (S12)."""

import base64
import json

import pytest
import yaml
from loading import load
from passlib.hash import bcrypt

people = load("plugins/filter/people.py")

HASH = "$2y$05$" + "a" * 53
ALICE = {"name": "alice", "password_hash": HASH}
BOB = {"name": "bob", "password_hash": HASH, "sites": ["test-crm"], "email": "bob@example.org"}
UPTIME = {"name": "uptime", "password_hash": HASH, "machine": True, "paths": ["/civicrm/health"]}
SITES = ["crm", "test-crm"]


def test_a_good_list_has_no_problems():
    assert people.people_problems([ALICE, BOB, UPTIME], SITES) == []


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "alice\n", "a b", "-x", "ä", "a\tb", "a/b", "x" * 65, None])
def test_a_name_that_could_be_two_lines_or_another_field_is_refused(name):
    (problem,) = people.people_problems([ALICE | {"name": name}], SITES)
    assert repr(name) in problem and "\n" not in problem
    if name is not None:
        assert people.change_problem([], "add", name, [], SITES)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (ALICE | {"password_hash": "plain"}, "no bcrypt hash"),
        (ALICE | {"password_hash": HASH + "\nroot:" + HASH}, "no bcrypt hash"),
        (ALICE | {"sites": ["crm", "shop"]}, "no site 'shop'"),
        (ALICE | {"paths": ["/x"]}, "only with machine"),
        (UPTIME | {"paths": []}, "give the paths"),
        (UPTIME | {"paths": ["/"]}, "must be like"),
        (UPTIME | {"paths": ["/a/../b"]}, "must be like"),
        (UPTIME | {"paths": ["/a b"]}, "must be like"),
        (UPTIME | {"paths": ['/a" or true']}, "must be like"),
        (UPTIME | {"methods": ["get"]}, "methods are"),
        (UPTIME | {"query": ["a|b"]}, "query parameter"),
    ],
)
def test_an_entry_that_would_open_too_much_is_refused(entry, says):
    (problem,) = people.people_problems([entry], SITES)
    assert says in problem
    assert HASH not in problem


def test_two_names_that_a_login_form_takes_for_one_are_refused():
    """WordPress and MariaDB compare names without case."""
    assert people.people_problems([ALICE, ALICE | {"name": "Alice"}], SITES) == [
        "person 'alice' stands 2 times, whatever the case of the letters"
    ]
    assert "is there already" in people.change_problem([ALICE], "add", "ALICE", [], SITES)


def test_who_passes_the_front_door_of_a_site():
    everybody = [ALICE, BOB, UPTIME, ALICE | {"name": "carol", "state": "blocked"}]
    assert [p["name"] for p in people.people_of_site(everybody, "crm")] == ["alice", "uptime"]
    assert [p["name"] for p in people.people_of_site(everybody, "test-crm", machines=False)] == ["alice", "bob"]
    assert [p["name"] for p in people.people_of_site(everybody, "test-crm", machines=True)] == ["uptime"]


def answer(site="crm", **accounts):
    listed = [{"name": name, "state": state} for name, state in accounts.items()]
    return {"site": site, "user": site, "command": ["/x"], "stdout": json.dumps({"accounts": listed})}


def test_accounts_follow_the_list():
    """Missing and blocked ones are opened, those without an entry blocked, machines and strangers left alone (S12)."""
    plan = people.account_plan([answer(alice="blocked", gone="active", left="blocked")], [ALICE, BOB, UPTIME])
    assert [(c["call"]["action"], c["call"]["name"]) for c in plan] == [("create", "alice"), ("block", "gone")]
    assert people.account_plan([answer(alice="active")], [ALICE]) == []
    (bob,) = people.account_plan([answer("test-crm")], [BOB])
    assert bob["call"] == {"action": "create", "name": "bob", "email": "bob@example.org"}


def test_a_site_answers_for_itself_alone():
    """The application prints what it likes; its answer comes wrapped, and one that is not deployed gives none."""
    sites = [{"name": name, "user": name, "account_command": f"/bin/{name} --x"} for name in ("crm", "test-crm")]
    forged = base64.b64encode(b'{"accounts": []}\ntest-crm e30=').decode()
    (only,) = people.site_accounts([f"crm {forged}"], sites)
    assert only == {
        "site": "crm",
        "user": "crm",
        "command": ["/bin/crm", "--x"],
        "stdout": '{"accounts": []}\ntest-crm e30=',
    }


def test_a_blocked_entry_is_as_good_as_none():
    (call,) = people.account_plan([answer(alice="active")], [ALICE | {"state": "blocked"}])
    assert call["call"]["action"] == "block"


@pytest.mark.parametrize(
    ("change", "name", "sites", "says"),
    [
        ("add", "alice", [], "is there already"),
        ("reset", "carol", [], "is not in the list"),
        ("remove", "carol", [], "is not in the list"),
        ("remove", "Alice", [], "is alice meant?"),
        ("delete", "alice", [], "say change=add"),
        ("", "alice", [], "say change=add"),
        ("add", "carol", ["shop"], "no site shop"),
        ("remove", "alice", ["crm"], "only with change=add"),
        ("reset", "uptime", [], "is a machine"),
    ],
)
def test_a_change_that_cannot_be_made_is_said_in_one_line(change, name, sites, says):
    problem = people.change_problem([ALICE, UPTIME], change, name, sites, SITES)
    assert says in problem and "\n" not in problem


def test_changes_that_can_be_made():
    assert people.change_problem([ALICE], "add", "carol", ["crm"], SITES) == ""
    assert people.change_problem([ALICE], "remove", "alice", [], SITES) == ""
    assert people.change_problem([ALICE], "reset", "alice", [], SITES) == ""


@pytest.mark.parametrize("password", ["", "short", "x" * 73, "ü" * 37, "tab\tin the middle", "line\nbreak here"])
def test_a_password_that_bcrypt_or_a_browser_would_cut_is_refused(password):
    problem = people.password_problem(password)
    assert problem and (not password or password not in problem)


def test_a_password_may_hold_anything_that_can_be_typed():
    assert people.password_problem("correct horse: battery ü") == ""
    assert people.password_problem("x" * 72) == ""


def test_generated_passwords_are_cheap_to_check_and_chosen_ones_are_not():
    """bcrypt runs at every request: cost 5 for 128 random bits, cost 10 for what a person can remember."""
    made, chosen = people.front_door_password(), people.front_door_password("correct horse battery")
    assert made["password_hash"].startswith("$2y$05$") and len(made["password"]) == 22
    assert chosen["password_hash"].startswith("$2y$10$") and chosen["password"] == "correct horse battery"
    assert bcrypt.verify(made["password"], made["password_hash"])
    assert bcrypt.verify("correct horse battery", chosen["password_hash"])
    assert people.HASH.fullmatch(made["password_hash"])
    assert len(set(people.account_passwords(SITES).values())) == 2


def test_the_file_holds_the_same_list_after_adding_and_removing():
    """The lab's own file is in this form, so a test can change it and change it back."""
    before = [ALICE, BOB | {"password_hash": "{{ vault_people['bob'].password_hash }}"}, UPTIME]
    added = people.with_person(before, "add", "carol", HASH, ["crm"], "carol@example.org")
    assert added[-1] == {"name": "carol", "password_hash": HASH, "sites": ["crm"], "email": "carol@example.org"}
    assert people.with_person(added, "add", "carol", HASH, ["crm"]) == added
    text = people.people_file(added)
    assert yaml.safe_load(text) == {"crm_users": added}
    assert people.people_file(people.with_person(added, "remove", "carol")) == people.people_file(before)
    assert yaml.safe_load(people.people_file([])) == {"crm_users": []}


@pytest.mark.parametrize("inventory", ["lab", "torproject"])
def test_the_shipped_files_are_as_the_playbook_writes_them(inventory):
    from loading import ROOT

    text = (ROOT / "inventories" / inventory / "group_vars/all/people.yml").read_text()
    assert people.people_file(yaml.safe_load(text)["crm_users"]) == text


def test_a_new_password_brings_a_blocked_person_back():
    (alice,) = people.with_person([ALICE | {"state": "blocked"}], "reset", "alice", "new")
    assert alice == {"name": "alice", "password_hash": "new"}


def test_one_persons_calls_carry_a_password_per_site_and_go_nowhere_else():
    sites = [
        {"name": "crm", "user": "crm", "account_command": "/usr/local/bin/account --site=crm"},
        {"name": "test-crm", "user": "test-crm", "account_command": "/x"},
        {"name": "other", "user": "other"},
    ]
    calls = people.person_calls(sites, "add", "bob", [ALICE, BOB], {"crm": "p1", "test-crm": "p2", "other": "p3"})
    assert [(c["site"], c["call"]["password"]) for c in calls] == [("test-crm", "p2")]
    gone = people.person_calls(sites, "remove", "bob", [ALICE], {})
    assert [(c["command"], c["call"]) for c in gone] == [
        (["/usr/local/bin/account", "--site=crm"], {"action": "block", "name": "bob"}),
        (["/x"], {"action": "block", "name": "bob"}),
    ]
