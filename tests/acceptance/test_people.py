"""A person is added and removed in one place: front door and CRM (S12)."""

import re
import stat
from pathlib import Path

import pytest
import yaml
from fixtures import ROOT, quick_strategy

pytestmark = pytest.mark.web

DOMAIN = "torproject.test"
PEOPLE = ROOT / "inventories/lab/group_vars/all/people.yml"
HOME = f"https://crm.{DOMAIN}/wp-admin/admin.php?page=CiviCRM"


def change(playbook, *arguments: str, ok: bool = True) -> str:
    options = [word for argument in arguments for word in ("-e", argument)]
    done = playbook("playbooks/user.yml", "-vvv", "--diff", *options)
    assert (done.returncode == 0) is ok, done.stdout[-3000:] + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def carol(playbook):
    """Carol, added for the site crm alone; {name, first, second, output}. The list is afterwards as it was."""
    before = PEOPLE.read_text()
    output = change(playbook, "change=add", "person=carol", "sites=crm")
    handover = Path(re.search(r"The passwords of carol are in (\S+) on this machine", output)[1])
    text, mode = handover.read_text(), stat.S_IMODE(handover.stat().st_mode)
    handover.unlink()
    yield {
        "mode": mode,
        "output": output,
        "first": re.search(r"First password.*: (\S+)$", text, re.MULTILINE)[1],
        "second": re.search(rf"Second password.*https://crm\.{DOMAIN}/: (\S+)$", text, re.MULTILINE)[1],
    }
    if "carol" in PEOPLE.read_text():
        change(playbook, "change=remove", "person=carol")
    assert PEOPLE.read_text() == before


@pytest.mark.mutates
def test_passwords_go_into_one_file_and_nowhere_else(carol):
    """No password and no hash in any output, at -vvv --diff; in the inventory a hash of cost 5 (S12, P18)."""
    (entry,) = [p for p in yaml.safe_load(PEOPLE.read_text())["crm_users"] if p["name"] == "carol"]
    assert entry["password_hash"].startswith("$2y$05$") and entry["sites"] == ["crm"]
    assert carol["mode"] == 0o600
    assert "TASK [" in carol["output"]
    for secret in (carol["first"], carol["second"], entry["password_hash"]):
        assert secret not in carol["output"]


@pytest.mark.mutates
def test_a_person_reaches_the_sites_that_were_named(browse, carol):
    """The front door of one site is not that of the others (S12)."""
    login = f"carol:{carol['first']}"
    assert browse(f"https://crm.{DOMAIN}/wp-login.php", user=login)[0] == 200
    assert browse(f"https://staging.crm.{DOMAIN}/", user=login)[0] == 401


def enter(browse, door: str, name: str, password: str) -> int:
    login = {
        "cookie-jar": f"/tmp/lab-cookies-{name}",
        "cookie": "wordpress_test_cookie=WP+Cookie+check",
        "data-urlencode": f"pwd={password}",
        "data": f"log={name}&testcookie=1",
    }
    return browse(f"https://crm.{DOMAIN}/wp-login.php", user=door, **login)[0]


@pytest.mark.mutates
def test_the_account_in_the_crm_is_opened_and_blocked_with_the_person(
    browse, front_door, playbook, crm_int, crm_ext, carol
):
    """Removed: the next request meets the front door, and neither the session nor the password opens the CRM (S12)."""
    door = f"carol:{carol['first']}"
    assert enter(browse, door, "carol", carol["second"]) == 302
    status, answer = browse(HOME, user=door, cookie="/tmp/lab-cookies-carol")
    assert status == 200 and "crm-container" in answer
    started = crm_ext.check_output("systemctl show apache2 --property=ActiveEnterTimestamp --value")

    change(playbook, "change=remove", "person=carol")
    assert browse(f"https://crm.{DOMAIN}/wp-login.php", user=door)[0] == 401
    # Behind somebody else's front door password only the CRM's own account counts.
    assert browse(HOME, user=front_door, cookie="/tmp/lab-cookies-carol")[0] == 302, "the session lives on"
    assert enter(browse, front_door, "carol", carol["second"]) == 200, "the login form took the password"
    assert crm_ext.check_output("systemctl show apache2 --property=ActiveEnterTimestamp --value") == started
    accounts = crm_int.check_output('echo \'{"action": "list"}\' | lab-civicrm-account')
    assert '{"name":"carol","state":"blocked"}' in accounts

    done = playbook("playbooks/site.yml", "--tags", "people", **quick_strategy())
    assert done.returncode == 0 and not re.search(r"changed=[1-9]", done.stdout), done.stdout[-3000:]
    assert browse(f"https://crm.{DOMAIN}/", user=door)[0] == 401


@pytest.mark.mutates
def test_a_converge_blocks_an_account_without_an_entry(playbook, crm_int):
    """An entry that was deleted by hand revokes as well, in one run (S12)."""
    create = '{"action": "create", "name": "left-behind"}'
    assert "created" in crm_int.check_output(f"echo '{create}' | lab-civicrm-account")
    done = playbook("playbooks/site.yml", "--tags", "people", **quick_strategy())
    assert done.returncode == 0, done.stdout[-3000:]
    accounts = crm_int.check_output('echo \'{"action": "list"}\' | lab-civicrm-account')
    assert '{"name":"left-behind","state":"blocked"}' in accounts
    assert '{"name":"alice","state":"active"}' in accounts


@pytest.mark.parametrize(
    ("path", "options", "let_in"),
    [
        ("/wp-login.php", {}, True),
        ("/wp-login.php?action=lostpassword", {}, False),
        ("/wp-login.php?", {}, True),
        ("/wp-login.php", {"data": "log=admin"}, False),
        ("/", {}, False),
        ("/wp-admin/", {}, False),
        ("/wp-login.phpx", {}, False),
        ("/wp-login.php/../wp-admin/", {"path-as-is": ""}, False),
        ("/wp-login.php/%2e%2e/wp-admin/", {"path-as-is": ""}, False),
        ("/wp-login.php%2f..%2fwp-admin/", {"path-as-is": ""}, False),
        ("//wp-admin//", {"path-as-is": ""}, False),
    ],
)
def test_a_machine_account_reaches_its_path_and_nothing_else(browse, vault, path, options, let_in):
    """A program's password lies on another host: it must not be worth stealing (S12)."""
    status, answer = browse(
        f"https://crm.{DOMAIN}{path}", user=f"uptime:{vault['vault_people']['uptime']['password']}", **options
    )
    assert (status == 200) if let_in else (status in (400, 401, 403, 404)), (status, answer)


def test_removal_needs_no_reload(crm_ext):
    """Apache reads names and hashes at each request; a cache of passwords would let a removed person in (S12)."""
    modules = crm_ext.check_output("apache2ctl -M")
    assert "authn_socache" not in modules
    assert "authz_groupfile" in modules
