"""What a site serves and what it never serves, and how its code changes under load (S4, P16)."""

import base64
import json
import shutil

import pytest
import tiny_application
import yaml
from fixtures import ROOT, quick_strategy
from load import visitors

DOMAIN = "torproject.test"
DOCROOT = "/srv/civicrm/crm/web"
FILES = "wp-content/uploads/civicrm"
MARKER = "marker-of-the-acceptance-test"
# Where a marker lies, and whether the front door may show it.
MARKERS = {
    f"{FILES}/ConfigAndLog/marker.log": False,
    f"{FILES}/upload/marker.txt": False,
    f"{FILES}/templates_c/marker.txt": False,
    f"{FILES}/custom/marker.txt": False,
    f"{FILES}/persist/marker.txt": True,
    f"{FILES}/marker.php": False,
    "wp-content/uploads/marker.php": False,
    "wp-content/uploads/marker.phtml": False,
    "wp-content/uploads/marker.txt": True,
    "civicrm.settings.php": False,
    "vendor/autoload.txt": False,
    "composer.json": False,
    "composer.lock": False,
    "marker.sql": False,
    "marker.sql.gz": False,
    "marker.php.bak": False,
    ".git/config": False,
    ".env": False,
    "marker.txt": True,
}


@pytest.fixture(scope="module")
def markers(crm_int):
    """A file with a marker at each of these places; PHP ones would print it when they run."""
    made = [path for path in MARKERS if not crm_int.file(f"{DOCROOT}/{path}").exists]
    directories = sorted({f"{DOCROOT}/{path.rpartition('/')[0]}" for path in made})
    new = [directory for directory in directories if not crm_int.file(directory).exists]
    script = "".join(
        f"mkdir -p {DOCROOT}/{path.rpartition('/')[0]}; printf '<?php echo strrev(\"{MARKER[::-1]}\");\\n{MARKER}' "
        f">{DOCROOT}/{path}; chmod 644 {DOCROOT}/{path}\n"
        for path in made
    )
    crm_int.check_output(script)
    yield made
    crm_int.check_output(f"rm -f {' '.join(f'{DOCROOT}/{p}' for p in made)}; rm -rf {' '.join(new)}; true")


@pytest.mark.mutates
@pytest.mark.parametrize("path", MARKERS)
def test_private_files_of_the_crm_are_never_served(browse, front_door, markers, path):
    """Proved as CiviCRM does it: a marker is written and asked for. Public files beside it are the control."""
    assert path in markers, "nothing was written"
    status, answer = browse(f"https://crm.{DOMAIN}/{path}", user=front_door)
    if MARKERS[path]:
        assert status == 200 and MARKER in answer
    else:
        assert status in (403, 404), answer
        assert MARKER not in answer


@pytest.mark.mutates
def test_a_site_knows_its_environment(browse, front_door, crm_int):
    """An application that behaves differently on staging must not have to guess (S4)."""
    for site, name, environment in (("crm", "crm", "production"), ("staging-crm", "staging.crm", "staging")):
        probe = f"/srv/civicrm/{site}/web/environment-probe.php"
        crm_int.check_output(f'echo \'<?php echo "is=", getenv("CIVICRM_ENVIRONMENT");\' >{probe}')
        try:
            assert f"is={environment}" in browse(f"https://{name}.{DOMAIN}/environment-probe.php", user=front_door)[1]
        finally:
            crm_int.check_output(f"rm {probe}")


def test_a_site_writes_nothing_but_its_files(crm_int):
    """Code that the site cannot change survives a hole in the application (S4)."""
    writable = crm_int.check_output("runuser -u crm -- find -L /srv/civicrm/crm -type d -writable -prune").split()
    assert writable
    assert all(path.startswith(f"{DOCROOT}/wp-content/uploads") for path in writable), writable


def test_opcache_has_room_and_the_pools_fit_into_memory(crm_int):
    """CiviCRM with its CMS has more files than Debian's default holds; full pools must not meet the OOM killer."""
    settings = crm_int.check_output("php-fpm7.4 -i | grep -E '^opcache.(max_accelerated_files|memory_consumption) '")
    values = dict(line.split(" => ")[:2] for line in settings.splitlines())
    assert int(values["opcache.max_accelerated_files"]) >= 32531
    assert int(values["opcache.memory_consumption"]) >= 256
    pools = crm_int.check_output("php-fpm7.4 -tt 2>&1 | grep -E 'pm.max_children|memory_limit\\]'")
    numbers = [int("".join(c for c in line.split("=")[1] if c.isdigit())) for line in pools.splitlines()]
    need = sum(a * b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    total = int(crm_int.check_output("awk '/^MemTotal:/ {print $2}' /proc/meminfo")) // 1024
    assert 0 < need < total


# Releases, on the site test-crm


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """A copy of the lab's inventory in which test-crm comes as releases; a function (release, schema) names another."""
    directory = tmp_path_factory.mktemp("releases")
    shutil.copytree(ROOT / "inventories" / "lab", directory / "inventory")
    path = directory / "inventory/group_vars/all/sites.yml"
    sites = yaml.safe_load(path.read_text())

    def name(release: str, schema: int, **archive: str) -> str:
        (site,) = [s for s in sites["crm_sites"] if s["name"] == "test-crm"]
        site |= {
            "application": "archive",
            "cms": "standalone",
            "archive": tiny_application.archive(directory, release, schema) | archive,
            "web": "web",
            "shared": [{"path": "web/files", "to": "files"}, {"path": "private", "to": "private"}],
            "upgrade_command": "{release}/bin/database upgrade",
            "schema_command": "{release}/bin/database show",
        }
        path.write_text(yaml.safe_dump(sites))
        return str(directory / "inventory")

    return name


@pytest.fixture(scope="module")
def play(playbook):
    """A function (inventory, playbook, arguments...) -> output of a run that must succeed."""

    def _play(inventory: str, name: str, *arguments: str) -> str:
        # A deployment goes the way that an operator's does; a converge only has to be done.
        strategy = quick_strategy() if name == "civicrm_int" else {}
        done = playbook("-i", inventory, f"playbooks/{name}.yml", *arguments, **strategy)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    return _play


@pytest.fixture(scope="module")
def first_release(inventory, play, crm_int, vault):
    """test-crm serves release 1; afterwards it is the lab's again."""
    login = {"user": "test_crm", "password": vault["vault_sites"]["test-crm"]["database_password"]}
    private = "/srv/civicrm/test-crm/shared/private"
    encoded = base64.b64encode(json.dumps(login).encode()).decode()
    crm_int.check_output(
        f"install -d -o test-crm -g test-crm -m 750 /srv/civicrm/test-crm/shared {private}; "
        f"echo {encoded} | base64 -d >{private}/database.json; chown test-crm {private}/database.json; "
        f"chmod 400 {private}/database.json"
    )
    play(inventory("1", 1), "civicrm_int", "--tags", "sites")
    yield
    play(str(ROOT / "inventories" / "lab"), "civicrm_int", "--tags", "sites")
    crm_int.check_output(
        "mariadb -e 'DROP TABLE IF EXISTS test_crm.tiny_schema'; cd /srv/civicrm/test-crm; "
        "rm -rf releases shared dumps state.json current release-path"
    )


@pytest.fixture
def tiny(browse, front_door):
    """A function () -> what test-crm answers."""

    def _tiny() -> dict[str, str]:
        status, answer = browse(f"https://test.crm.{DOMAIN}/", user=front_door)
        assert status == 200, answer
        return json.loads(answer.strip().rsplit("\n", 1)[-1])

    return _tiny


@pytest.mark.mutates
def test_a_release_is_served_with_its_environment_and_from_its_real_path(first_release, tiny):
    """A real path in every request: OPcache then never takes one release's file for another's."""
    answer = tiny()
    assert (answer["release"], answer["environment"], answer["site"]) == ("1", "test", "test-crm")
    assert answer["file"].startswith("/srv/civicrm/test-crm/releases/")


@pytest.mark.mutates
def test_no_request_fails_or_sees_two_releases_while_the_release_changes(
    first_release, inventory, play, tiny, front_door
):
    """P16: a switch at noon. Each answer is whole, of one release, and after the switch never of the old one again."""
    with visitors(f"https://test.crm.{DOMAIN}/", front_door) as answered:
        play(inventory("2", 1), "deploy", "-e", "site=test-crm")
    assert len(answered) > 200
    assert [a for a in answered if a[0] != 200] == []
    answers = [json.loads(body) for _, body, _ in answered]
    assert all(a["release"] == a["early"] == a["late"] for a in answers)
    releases = [a["release"] for a in answers]
    assert set(releases) == {"1", "2"}, "the switch did not happen under load"
    # Four requests may be under way at the moment of the switch.
    last = len(releases) - 1 - releases[::-1].index("1")
    assert releases[: last + 1].count("2") <= 8
    assert tiny()["release"] == "2"


@pytest.mark.mutates
def test_going_back_needs_no_dump_where_the_schema_is_the_same(first_release, inventory, play, tiny):
    """One command at night; the next converge does not undo it."""
    now = inventory("2", 1)
    play(now, "deploy", "-e", "site=test-crm", "-e", "rollback=true")
    assert tiny()["release"] == "1"
    assert "is not deployed again" in play(now, "deploy", "-e", "site=test-crm")
    assert tiny()["release"] == "1"


@pytest.mark.mutates
def test_going_back_over_an_upgrade_takes_the_dump(first_release, inventory, play, playbook, tiny, crm_int):
    """Old code on a new schema damages data: refused, unless the database of then comes back too."""
    later = inventory("3", 2)
    play(later, "deploy", "-e", "site=test-crm")
    assert crm_int.check_output("mariadb -NBe 'SELECT version FROM test_crm.tiny_schema'") == "2"
    back = ("-i", later, "playbooks/deploy.yml", "-e", "site=test-crm", "-e", "rollback=true")
    refused = playbook(*back)
    assert refused.returncode != 0
    assert "the database has schema 2, release" in refused.stdout + refused.stderr
    assert tiny()["release"] == "3"
    play(later, "deploy", *back[3:], "-e", "restore_dump=true")
    assert tiny()["release"] == "1"
    assert crm_int.check_output("mariadb -NBe 'SELECT version FROM test_crm.tiny_schema'") == "1"


@pytest.mark.mutates
def test_an_archive_with_another_checksum_changes_nothing(first_release, inventory, playbook, crm_int):
    """Refused on the machine that runs Ansible: the host is not touched."""
    listing = "civicrm-release --json list test-crm"
    before = crm_int.check_output(listing)
    other = inventory("x", 1, sha256="0" * 64)
    done = playbook("-i", other, "playbooks/civicrm_int.yml", "--tags", "sites", **quick_strategy())
    assert done.returncode != 0
    assert "the inventory says 0000" in done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert crm_int.check_output(listing) == before
