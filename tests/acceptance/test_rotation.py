"""Secrets rotate while the service works: a site's database password (the second half of N26)."""

import subprocess

import pytest
import yaml
from fixtures import ROOT, ansible_environment
from load import visitors

DOMAIN = "torproject.test"
VAULT = "inventories/lab/group_vars/all/vault.yml"


def login(crm_int, password: str) -> bool:
    """Whether the database takes this password; it goes by standard input."""
    settings = f"printf '[client]\\nuser=crm\\npassword={password}\\n'"
    return crm_int.run(f"{settings} | mariadb --defaults-extra-file=/dev/stdin -e 'SELECT 1' crm").rc == 0


def in_vault() -> dict[str, str]:
    done = subprocess.run(
        ["ansible-vault", "view", VAULT],
        cwd=ROOT,
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return yaml.safe_load(done.stdout)["vault_sites"]["crm"]


@pytest.fixture
def known(vault):
    """The rest of the run must know the new password: the vault is read once."""
    yield
    vault["vault_sites"]["crm"] |= in_vault()


@pytest.mark.mutates
def test_a_database_password_changes_without_a_failed_request(crm_int, playbook, front_door, vault, known):
    """Pages that ask the database all the while; then only the new one opens, and it is in no output (N26, P18)."""
    old = vault["vault_sites"]["crm"]["database_password"]
    with visitors(f"https://crm.{DOMAIN}/wp-login.php", front_door, 2) as answered:
        done = playbook("playbooks/rotate_database.yml", "-vvv", "-e", "site=crm", "-e", "rotate_grace_seconds=10")
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(answered) > 50
    assert [(status, body[:300]) for status, body, _ in answered if status != 200 or 'name="pwd"' not in body] == []
    secrets = in_vault()
    assert "database_password_next" not in secrets
    assert not login(crm_int, old)
    assert login(crm_int, secrets["database_password"])
    assert old not in done.stdout and secrets["database_password"] not in done.stdout


@pytest.mark.mutates
def test_a_rotation_that_was_cut_off_goes_on_with_the_password_it_had_made(crm_int, playbook, vault, known):
    """At any moment the application has a password that opens; the second run ends what the first began (N26)."""
    cut = playbook("playbooks/rotate_database.yml", "-e", "site=crm", "-e", '{"rotate_grace_seconds": "not a number"}')
    assert cut.returncode != 0
    secrets = in_vault()
    assert login(crm_int, secrets["database_password"]), "the old one must still open"
    assert login(crm_int, secrets["database_password_next"]), "the application has this one already"
    again = playbook("playbooks/rotate_database.yml", "-e", "site=crm", "-e", "rotate_grace_seconds=3")
    assert again.returncode == 0, again.stdout[-3000:]
    assert in_vault()["database_password"] == secrets["database_password_next"]
    assert not login(crm_int, secrets["database_password"])
