"""A mistake of the operator is said in one clear line before anything changes.

The real playbooks run on copies of the lab's inventory, one mistake each. ssh is a fake that leaves a note, so a
contact with any host would show; podman, ip and nft are fakes too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from loading import ROOT

VAULT = "group_vars/all/vault.yml"
NETWORK = "192.0.2"  # TEST-NET-1: nobody answers


@dataclass
class Run:
    """What a playbook left behind."""

    rc: int
    output: str
    contacted: bool

    @property
    def errors(self) -> list[str]:
        """The first line of each error, as Ansible shows it on top, without its own words before it."""
        lead = r"^\[ERROR\]: (?:Task failed: Action failed: |Error processing keyword 'hosts': )?(.*)$"
        return re.findall(lead, self.output, re.MULTILINE)

    @property
    def fatal_messages(self) -> list[str]:
        """The msg of each host's fatal block."""
        blocks = re.findall(r"^fatal: \[.*?\]: .*=> \n((?:    .*\n)+)", self.output, re.MULTILINE)
        return [yaml.safe_load(block)["msg"] for block in blocks]


class Installation:
    """A copy of the lab's inventory with a password file of its own, in a directory of its own."""

    def __init__(self, directory: Path, original: Path) -> None:
        self.directory = directory
        self.inventory = directory / "inventory"
        self.password_file: Path | None = directory / "password"
        shutil.copytree(original, self.inventory, ignore=shutil.ignore_patterns("vault.yml"))
        self.password_file.write_text("a password of this test\n")
        ssh = directory / "ssh"
        ssh.write_text(f"#!/bin/sh\necho \"$@\" >>'{directory}/contacted'\nexit 255\n")
        ssh.chmod(0o755)

    @property
    def vault(self) -> Path:
        return self.inventory / VAULT

    def environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_EXECUTABLE": str(self.directory / "ssh"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "LAB_NETWORK": NETWORK,
        }
        if self.password_file:
            environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(self.password_file)
        return environment

    def play(self, playbook: str, *options: str, inventory: Path | None = None) -> Run:
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory or self.inventory, f"playbooks/{playbook}", *options],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Run(done.returncode, done.stdout, (self.directory / "contacted").exists())

    def edit(self, path: str, pattern: str, new: str, count: int = 0) -> None:
        """Replace text in a file of the inventory; a pattern that is not there would test nothing."""
        file = self.inventory / path
        text, changes = re.subn(pattern, new, file.read_text(), count=count, flags=re.MULTILINE)
        assert changes, pattern
        file.write_text(text)

    def write(self, path: str, text: str) -> None:
        file = self.inventory / path
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as sink:
            sink.write(text)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Installation:
    """The lab's inventory without a mistake, with a vault that playbooks/secrets.yml made."""
    made = Installation(tmp_path_factory.mktemp("good"), ROOT / "inventories" / "lab")
    # Read from the running lab otherwise, and there need not be one.
    key = f"ssh-ed25519 {'A' * 68}"
    made.write("host_vars/crm-int-01.yml", f"backup_known_host_key: {key}\nnewsletter_archive_known_host_key: {key}\n")
    run = made.play("secrets.yml", "-vvv", "--diff")
    assert run.rc == 0, run.output
    (made.directory / "secrets.log").write_text(run.output)
    return made


SITES = "group_vars/all/sites.yml"
PEOPLE = "group_vars/all/people.yml"
PROVIDERS = "group_vars/civicrm_int/postfix_mailing.yml"


def name_of_second_site(name: str) -> Callable[[Installation], None]:
    return lambda c: c.edit(SITES, r"name: staging-crm$", f"name: {json.dumps(name)}")


# For each mistake: how it is made, and what the one line must say.
MISTAKES: dict[str, tuple[Callable[[Installation], object], str]] = {
    "option misspelt": (
        lambda c: c.edit("group_vars/all/resolver.yml", "^resolver_upstreams", "resolver_upsteams"),
        r"/inventory: misspelt variable resolver_upsteams: did you mean resolver_upstreams\?$",
    ),
    "prefix misspelt": (
        lambda c: c.edit("group_vars/civicrm_int/mariadb.yml", "^mariadb_buffer", "maria_buffer"),
        r"/inventory: misspelt variable maria_buffer_pool_mb: did you mean mariadb_buffer_pool_mb\?$",
    ),
    "the first variable that is looked at misspelt": (
        lambda c: c.edit("group_vars/all/ipsec.yml", "^ipsec_endpoints", "ipsec_endpints"),
        r"/inventory: misspelt variable ipsec_endpints: did you mean ipsec_endpoints\?$",
    ),
    "variable of the inventory's own misspelt": (
        lambda c: c.edit("group_vars/all/lab.yml", "^lab_domain", "lab_domian"),
        r"/inventory: .*\bipsec_endpoints\b.*: 'lab_domain' is undefined; is lab_domian misspelt\?$",
    ),
    "key of a site misspelt": (
        lambda c: c.edit(SITES, "mail_policy", "mail_polcy", count=1),
        r"/inventory: civicrm_int_sites\[crm\]\.mail_polcy: did you mean mail_policy\?$",
    ),
    "mail policy that is none": (
        lambda c: c.edit(SITES, "mail_policy: catch", "mail_policy: drop", count=1),
        r"/inventory: value of mail_policy must be one of: deliver, catch, hold, got: drop found in civicrm_int_sites$",
    ),
    "key of a firewall's entry misspelt": (
        lambda c: c.write(
            "group_vars/all/firewall.yml",
            "civicrm_int_firewall_entries: [{name: x, direction: in, service: smtp, were: [192.0.2.1], why: y}]\n",
        ),
        r"/inventory: civicrm_int_firewall_entries\[x\]\.were: did you mean where\?$",
    ),
    "value that is no choice": (
        lambda c: c.edit(SITES, "cms: wordpress", "cms: joomla", count=1),
        r"/inventory: value of cms must be one of: drupal, .*, got: joomla found in civicrm_int_sites$",
    ),
    "required variable missing": (
        lambda c: c.edit("group_vars/all/firewall.yml", "^firewall_admin_sources.*\n", ""),
        r"/inventory gives crm-\w+-01 no firewall_admin_sources: add it to group_vars; an example stands in",
    ),
    "vault missing": (
        lambda c: c.vault.unlink(),
        r"/inventory/group_vars/all/vault\.yml is missing: make it with .*playbooks/secrets\.yml.*or bring it back",
    ),
    "vault password wrong": (
        lambda c: c.password_file.write_text("another\n"),
        r"/inventory/group_vars/all/vault\.yml does not open with the password in .*/password: "
        "set ANSIBLE_VAULT_PASSWORD_FILE",
    ),
    "site name with a space": (name_of_second_site("my crm"), r"list of sites: site name 'my crm': use a letter"),
    "site name that leaves its directory": (
        name_of_second_site("../crm"),
        r"list of sites: site name '\.\./crm': use a letter",
    ),
    "site name in upper case": (name_of_second_site("Crm"), r"list of sites: site name 'Crm': .*all lower case$"),
    "site name twice": (name_of_second_site("crm"), r"list of sites: name 'crm' stands 2 times; each site needs its"),
    "server name twice": (
        lambda c: c.edit(SITES, r"server_name: staging\.crm\.", "server_name: crm."),
        r"list of sites: server_name 'crm\.torproject\.test' stands 2 times; each site needs its own$",
    ),
    "site named like a user of the system": (
        name_of_second_site("backup"),
        r"list of sites: site name 'backup': a user of the system has this name; take another$",
    ),
    "two sites with one database": (
        lambda c: c.edit(SITES, r"^  - name: staging-crm$", "  - name: staging-crm\n    database: crm"),
        r"list of sites: database 'crm' stands 2 times; each site needs its own$",
    ),
    "PHP version that is a number": (
        lambda c: c.edit(SITES, r'php_version: "\{\{ lab_php_version \}\}"', "php_version: 8.10", count=1),
        r"list of sites: site 'crm': php_version 8\.1 must be a text such as \"8\.4\"$",
    ),
    "archive without a checksum": (
        lambda c: c.edit(
            SITES, r"application: none", "application: archive\n    archive: {url: x.tar, sha256: abc}", count=1
        ),
        r"list of sites: site 'staging-crm': archive needs url and sha256, 64 hexadecimal digits$",
    ),
    "upgrade that could not be taken back": (
        lambda c: c.edit(SITES, r"application: none", "application: none\n    upgrade_command: /usr/bin/cv", count=1),
        r"list of sites: site 'staging-crm': upgrade_command needs schema_command, or a rollback could not be judged$",
    ),
    "person with a colon": (
        lambda c: c.edit(PEOPLE, r'name: "bob"', 'name: "bob:x"'),
        r"list of people: person 'bob:x': a name is letters, digits",
    ),
    "person with two lines": (
        lambda c: c.edit(PEOPLE, r'name: "bob"', r'name: "bob\\nroot"'),
        r"list of people: person 'bob\\nroot': a name is letters, digits",
    ),
    "person twice": (
        lambda c: c.edit(PEOPLE, r'name: "bob"', 'name: "Alice"'),
        r"list of people: person 'alice' stands 2 times",
    ),
    "person without a hash": (
        lambda c: c.edit(PEOPLE, r"password_hash: .*bob.*", "password_hash: secret"),
        r"list of people: person 'bob': password_hash is no bcrypt hash",
    ),
    "variables for an unknown host": (
        lambda c: c.write("host_vars/crm-int-09.yml", "ansible_user: root\n"),
        r"/inventory: host_vars/crm-int-09\.yml is for a host that hosts\.yml does not name$",
    ),
    "host without a place on the private link": (
        lambda c: (
            c.edit("hosts.yml", r"crm-int-01:", "crm-int-02:")
            or c.edit(
                "group_vars/civicrm_int/backup.yml", r"^backup_(ssh_private|known_host)_key: .*", r"backup_\1_key: x"
            )
            or (c.inventory / "host_vars/crm-int-01.yml").unlink()
        ),
        r"^ipsec_endpoints has no entry for crm-int-02, .*: add its addresses, or remove the host$",
    ),
    "provider without a budget": (
        lambda c: c.edit(PROVIDERS, "budget_per_second: 4", "budget_per_second: 0"),
        r"/inventory: postfix_mailing_providers\[gmail\]: budget_per_second 0 must be above 0; to stop it use .*hold$",
    ),
    "domain at two providers": (
        lambda c: c.edit(PROVIDERS, r"\[orange\.test\]", "[orange.test, gmail.test]"),
        r"/inventory: postfix_mailing_providers: domain 'gmail\.test' stands at gmail and orange; leave it to one$",
    ),
    "mail servers of two providers": (
        lambda c: c.edit(PROVIDERS, r"\[mx\.orange\.test\]", "[gmail.test]"),
        r"/inventory: postfix_mailing_providers: mx_suffixes 'mx\.gmail\.test' of gmail and 'gmail\.test' of orange",
    ),
    "provider named like a service of Postfix": (
        lambda c: c.edit(PROVIDERS, "name: gmail", "name: relay"),
        r"/inventory: postfix_mailing_providers\[relay\]: 'relay' is a service of Postfix itself; take another name$",
    ),
    "mailing that cannot leave in time": (
        lambda c: c.write(PROVIDERS, "postfix_mailing_largest_mailing_recipients: 300000\n"),
        r"/inventory: postfix_mailing_providers\[orange\]: 300,000 recipients take 167 h at 0\.5 a second, and after "
        r"120 h they bounce \(postfix_mailing_queue_lifetime\): raise the budget or send less$",
    ),
    "system mail that the other host would refuse": (
        lambda c: c.write(
            "group_vars/civicrm_ext/system_mail.yml", "host_baseline_admin_address: other@accepting.test\n"
        ),
        r"^postfix_mailing_admin_address of crm-int-01 is not host_baseline_admin_address of the group civicrm_ext "
        r"\(other@accepting\.test\), .*: set both to one address$",
    ),
    # What the roles themselves check, of the first on a host and of the last.
    "more than MariaDB could load": (
        lambda c: c.write("group_vars/civicrm_int/mariadb.yml", "mariadb_max_allowed_packet_mb: 1024\n"),
        r"^mariadb_max_allowed_packet_mb: 1024 must be from 16 to 256; ",
    ),
    "zone without its dot": (
        lambda c: c.write("group_vars/civicrm_ext/resolver.yml", "resolver_private_zones: [test]\n"),
        r"^resolver_private_zones: 'test' is not a zone name with its final dot",
    ),
    "firewall without time for a new connection": (
        lambda c: c.write("group_vars/all/firewall.yml", "firewall_rollback_seconds: 5\n"),
        r"^firewall_rollback_seconds is 5: a new ssh connection may need 20 or more$",
    ),
    "active queue that is too small": (
        lambda c: c.write(PROVIDERS, "postfix_mailing_active_limit: 10\n"),
        r"^postfix_mailing: active_limit must be at least 1000, ",
    ),
    "address that is none": (
        lambda c: c.write("group_vars/civicrm_ext/fail2ban.yml", "civicrm_ext_never_refused: [nowhere]\n"),
        r"^fail2ban_ignore_addresses: 'nowhere' is no address or network$",
    ),
    "currency in lower case": (
        lambda c: c.write("group_vars/civicrm_ext/donation_intake.yml", "donation_intake_currencies: [usd]\n"),
        r"^donation_intake_currencies: three capital letters each, ",
    ),
    "look-ups that the firewall does not let out": (
        lambda c: (
            c.edit(SITES, "proof: notice", "proof: lookup")
            or c.edit(
                "group_vars/civicrm_ext/civicrm_ext.yml",
                "^civicrm_ext_payment_networks: .*",
                r"civicrm_ext_payment_networks: []",
            )
        ),
        r"^civicrm_ext_payment_networks: staging-donate-api: proof lookup needs the networks where the",
    ),
    "donation that is larger than Apache lets through": (
        lambda c: c.write("group_vars/civicrm_ext/donation_intake.yml", "donation_intake_body_max_bytes: 65537\n"),
        r"^donation_intake_body_max_bytes: 65537 is more than Apache lets through: raise civicrm_ext_public_body_",
    ),
    "path of a backup that is none": (
        lambda c: c.edit("group_vars/civicrm_int/backup.yml", r"^backup_paths: .*", "backup_paths: [srv/mail]"),
        r"^backup_databases needs names of a-z, 0-9 and _; backup_paths absolute directories below /; ",
    ),
    "groups misspelt": (
        lambda c: c.edit("hosts.yml", r"civicrm_(int|ext):", r"civi_crm_\1:"),
        r"/inventory names no host in the groups civicrm_int and civicrm_ext: correct the groups in hosts\.yml",
    ),
}


# One mistake of each kind through site.yml, which loads every role: while the inventory is read, before the first task,
# in a task. The others through preflight.yml alone, with which site.yml begins (test_repository.py).
THROUGH_SITE = {
    "more than MariaDB could load",
    "option misspelt",
    "variable of the inventory's own misspelt",
    "vault missing",
    "vault password wrong",
    "variables for an unknown host",
    "groups misspelt",
}
assert set(MISTAKES) >= THROUGH_SITE


@pytest.fixture(scope="module")
def runs(good, tmp_path_factory) -> dict[str, Run]:
    """Every mistake through the real playbook, as many at once as there are cores."""

    def run(name: str) -> Run:
        copy = Installation(tmp_path_factory.mktemp("bad"), good.inventory)
        shutil.copy(good.vault, copy.vault)
        MISTAKES[name][0](copy)
        return copy.play("site.yml" if name in THROUGH_SITE else "preflight.yml")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(MISTAKES, pool.map(run, MISTAKES), strict=True))


def assert_refused(run: Run, message: str) -> None:
    """Refused with one line that says `message`, before any host was reached."""
    assert run.rc != 0
    assert not run.contacted
    assert not re.search(r"Gathering Facts|UNREACHABLE|^changed:|changed=[1-9]|Traceback", run.output, re.MULTILINE)
    # The same line may stand for each host, never two different mistakes for one.
    assert run.errors, run.output
    assert all(re.search(message, line) for line in run.errors), run.errors
    assert all(re.search(message, text) for text in run.fatal_messages), run.fatal_messages
    assert len(run.output.splitlines()) <= 70, "the line drowns"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_inventory_is_said_before_a_host_is_reached(runs, mistake):
    assert_refused(runs[mistake], MISTAKES[mistake][1])


def test_the_refusal_stands_in_each_hosts_fatal_message(runs):
    """Where a task fails, whoever reads only the fatal block learns the same as at the top."""
    before_the_first_task = {"vault password wrong", "groups misspelt"}
    assert {name for name, run in runs.items() if not run.fatal_messages} == before_the_first_task


@pytest.fixture(scope="module")
def checked(good) -> Run:
    """The preflight of the inventory without a mistake, as talkative as an operator may want it."""
    return good.play("preflight.yml", "-vvv", "--diff")


def test_an_inventory_without_a_mistake_passes_and_no_host_is_reached(checked):
    assert checked.rc == 0, checked.output
    assert not checked.contacted
    assert set(re.findall(r"^(\S+) +: ok=", checked.output, re.MULTILINE)) == {"crm-int-01", "crm-ext-01"}


def test_a_contact_with_a_host_would_show(good, tmp_path):
    """The control of all tests here: without a mistake the next step is ssh, and the fake notes it."""
    copy = Installation(tmp_path / "copy", good.inventory)
    shutil.copy(good.vault, copy.vault)
    run = copy.play("site.yml")
    assert run.contacted
    assert "UNREACHABLE" in run.output


@pytest.mark.parametrize("playbook", ["site.yml", "secrets.yml", "restore.yml"])
def test_the_worked_example_names_live_hosts_and_is_refused(tmp_path, playbook):
    copy = Installation(tmp_path / "copy", ROOT / "inventories" / "torproject")
    assert_refused(
        copy.play(playbook),
        r"/inventory is a worked example that names live hosts: copy it, .*delete its group_vars/all/example\.yml$",
    )
    assert not copy.vault.exists()


def test_an_inventory_that_is_not_there_is_refused(good):
    run = good.play("site.yml", inventory=good.directory / "nowhere")
    assert_refused(run, r"inventory source .*/nowhere")


def secrets_of(value: object) -> list[str]:
    """Every text in a vault that is long enough to be found by accident nowhere."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in secrets_of(item)]
    # Certificates are public and names are not secret; a key's lines are looked for one by one.
    lines = [line for line in str(value).splitlines() if "-----" not in line]
    return [] if "CERTIFICATE" in str(value) else [line for line in lines if len(line) > 20]


def test_secrets_made_twice_are_the_same_and_never_shown(good, checked):
    """P18: what made the vault and what checked the inventory ran with -vvv --diff."""
    password = good.password_file
    shown = subprocess.run(
        ["ansible-vault", "view", "--vault-password-file", password, good.vault],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    secrets = secrets_of(yaml.safe_load(shown))
    assert len(secrets) > 30
    before = hashlib.sha256(good.vault.read_bytes()).hexdigest()
    again = good.play("secrets.yml", "-vvv", "--diff")
    assert again.rc == 0, again.output
    assert hashlib.sha256(good.vault.read_bytes()).hexdigest() == before
    first = (good.directory / "secrets.log").read_text()
    assert "Write the vault" in first
    for log in (first, again.output, checked.output):
        assert "TASK [" in log
        assert [secret for secret in secrets if secret in log] == []


@pytest.mark.parametrize(
    ("password_file", "message"),
    [
        (None, r"ANSIBLE_VAULT_PASSWORD_FILE names no file: write one long random line into a file"),
        (Path("/nonexistent/password"), r"The vault password file /nonexistent/password was not found"),
    ],
    ids=["not given", "not there"],
)
def test_secrets_need_a_password_file(tmp_path, password_file, message):
    copy = Installation(tmp_path / "copy", ROOT / "inventories" / "lab")
    copy.password_file = password_file
    assert_refused(copy.play("secrets.yml"), message)
    assert not copy.vault.exists()


def test_secrets_never_overwrite_a_vault_that_does_not_open(good, tmp_path):
    copy = Installation(tmp_path / "copy", good.inventory)
    shutil.copy(good.vault, copy.vault)
    copy.password_file.write_text("another\n")
    assert_refused(copy.play("secrets.yml"), "Decryption failed")
    assert copy.vault.read_bytes() == good.vault.read_bytes()


# Operations that name one site or one person: what cannot be is said before a host is reached.
REFUSED = [
    ("user.yml", [], r"^change '': say change=add, change=reset or change=remove$"),
    ("user.yml", ["change=add", "person=a:b"], r"^person 'a:b': a name is letters, digits"),
    ("user.yml", ['{"change": "add", "person": "a\\nb"}'], r"^person 'a\\nb': a name is letters, digits"),
    ("user.yml", ["change=add", "person=alice"], r"^alice is there already: change=reset makes a new password$"),
    ("user.yml", ["change=remove", "person=carol"], r"^carol is not in the list: to finish a removal that was cut off"),
    (
        "deploy.yml",
        ["site=shop"],
        r"^site=shop: name a live site whose application is archive or git; such sites: none$",
    ),
    ("rotate_database.yml", ["site=shop"], r"^site=shop: name a live site with a credential_command; such sites: crm$"),
]


@pytest.mark.parametrize(("playbook", "variables", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_cannot_be_done_is_said_before_a_host_is_reached(good, playbook, variables, message):
    """The inventory stays as it is, too."""
    before = {path: path.read_bytes() for path in good.inventory.rglob("*.yml")}
    assert_refused(good.play(playbook, *[word for v in variables for word in ("-e", v)]), message)
    assert {path: path.read_bytes() for path in good.inventory.rglob("*.yml")} == before


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "the password has fewer than 12 characters"),
        ("x" * 73, "the password has more than 72 bytes: bcrypt would not look at the rest"),
    ],
    ids=["empty", "73 bytes"],
)
def test_a_chosen_password_that_bcrypt_would_cut_is_refused(good, tmp_path, typed, message):
    """Typed on a terminal as an operator does; nothing is written, and it is shown nowhere (S12)."""
    copy = Installation(tmp_path / "copy", good.inventory)
    shutil.copy(good.vault, copy.vault)
    before = (copy.inventory / PEOPLE).read_bytes()
    output, status = type_password(copy, typed)
    assert status != 0
    assert message in output
    assert not typed or typed not in output
    assert (copy.inventory / PEOPLE).read_bytes() == before
    assert not (copy.directory / "contacted").exists()


def test_a_chosen_password_gets_cost_10_and_is_never_shown(good, tmp_path):
    """bcrypt's cost protects what a person can remember; the host is out of reach here, the list is written (S12)."""
    copy = Installation(tmp_path / "copy", good.inventory)
    shutil.copy(good.vault, copy.vault)
    output, _ = type_password(copy, "correct horse: battery")
    assert "correct horse: battery" not in output
    (carol,) = [p for p in yaml.safe_load((copy.inventory / PEOPLE).read_text())["crm_users"] if p["name"] == "carol"]
    assert carol["password_hash"].startswith("$2y$10$")
    assert carol["password_hash"] not in output
    assert (copy.directory / "contacted").exists()


def type_password(copy: Installation, typed: str) -> tuple[str, int]:
    """Run user.yml on a terminal of its own and type a password when it asks; (output, status)."""
    parent, child = os.openpty()
    environment = copy.environment() | {"TMPDIR": str(copy.directory)}
    options = ["-e", "change=add", "-e", "person=carol", "-e", "choose_password=true", "-vvv", "--diff"]
    process = subprocess.Popen(
        ["ansible-playbook", "-i", copy.inventory, "playbooks/user.yml", *options],
        cwd=ROOT, env=environment, stdin=child, stdout=child, stderr=child, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(child)
    output = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([parent], [], [], 2)
        if ready:
            try:
                output += os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
        # In silence, and again after another: what is typed before the prompt listens is shown, or thrown away.
        elif b"not shown)" in output:
            os.write(parent, typed.encode() + b"\r")
    else:
        process.kill()
    return output.decode(errors="replace"), process.wait(timeout=120)
