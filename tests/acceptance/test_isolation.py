"""What one site reaches of another: nothing, pair by pair, and its own as the control.

The pairs come from the inventory: a new site is in the matrix by being listed.
"""

import base64
import json
import re

import pytest
import yaml
from fixtures import ROOT
from loading import load

DOMAIN = "torproject.test"
filters = load("plugins/filter/sites.py")


def listed(key: str, base: str) -> list[dict]:
    text = (ROOT / "inventories/lab/group_vars/all/sites.yml").read_text().replace("{{ lab_domain }}", DOMAIN)
    return filters.live_sites(yaml.safe_load(text)[key], base)


CRM = {s["name"]: s for s in listed("crm_sites", "/srv/civicrm")}
APIS = {s["name"]: s for s in listed("donate_api_sites", "/srv/donate-api")}
PAIRS = [pytest.param(a, b, id=f"{a}-to-{b}") for a in CRM for b in CRM]

# Reads {action, target, ...} as JSON from standard input and ends with 0 if it was let in, 13 if not; anything else is
# a mistake of this test and no denial.
PROBE = """
import imaplib, json, os, socket, ssl, sys
call = json.loads(sys.stdin.read())
try:
    if call["action"] == "read":
        assert open(call["target"]).read()
    elif call["action"] == "list":
        os.listdir(call["target"])
    elif call["action"] == "connect":
        s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(call["target"])
    elif call["action"] == "tcp":
        socket.create_connection((call["target"], call["port"]), 3).close()
    elif call["action"] == "imap":
        # The name of the certificate is another test's affair.
        context = ssl._create_unverified_context()
        imaplib.IMAP4_SSL("localhost", 993, ssl_context=context).login(call["target"], call["password"])
except (PermissionError, TimeoutError, ConnectionRefusedError, imaplib.IMAP4.error) as error:
    print(error); sys.exit(13)
except OSError as error:
    print(error); sys.exit(13 if error.errno in (101, 113) else 1)
"""


def let_in(host, user: str, action: str, target: str, **more) -> bool:
    """Whether this user of the host is let in; secrets go by standard input."""
    encoded = base64.b64encode(json.dumps({"action": action, "target": target} | more).encode()).decode()
    program = base64.b64encode(PROBE.encode()).decode()
    run = f'python3 -c "import base64; exec(base64.b64decode(\\"{program}\\"))"'
    done = host.run(f"echo {encoded} | base64 -d | runuser -u {user} -- {run}")
    assert done.rc in (0, 13), done.stdout + done.stderr
    return done.rc == 0


@pytest.fixture(scope="module")
def markers(crm_int):
    """A file in each site's directory, as its application's settings lie there."""
    paths = {name: f"/srv/civicrm/{name}/isolation-marker" for name in CRM}
    for name, path in paths.items():
        crm_int.check_output(f"echo secret >{path}; chown root:{name} {path}; chmod 640 {path}")
    yield paths
    crm_int.check_output(f"rm {' '.join(paths.values())}")


@pytest.mark.mutates
@pytest.mark.parametrize("owner", CRM)
@pytest.mark.parametrize("actor", [*CRM, "www-data"])
def test_files(crm_int, markers, actor, owner):
    """Settings hold the database's password; and what lies open in a directory is not even listed to another site.

    The web server is no exception: it serves all sites, so a link in one would lead it into another.
    """
    assert let_in(crm_int, actor, "read", markers[owner]) is (actor == owner)
    assert let_in(crm_int, actor, "list", f"/srv/civicrm/{owner}") is (actor == owner)
    # What is served lies open, to those who may pass the site's directory.
    crm_int.check_output(f"echo public >/srv/civicrm/{owner}/isolation-public")
    public = let_in(crm_int, actor, "read", f"/srv/civicrm/{owner}/isolation-public")
    crm_int.check_output(f"rm /srv/civicrm/{owner}/isolation-public")
    assert public is (actor in (owner, "www-data"))


@pytest.fixture(scope="module")
def links(crm_int, markers):
    """In the docroot of each site a folder that the site writes, with a link of its own to each site's files."""
    script = ""
    for actor in CRM:
        folder = f"/srv/civicrm/{actor}/web/isolation"
        script += f"install -d -o {actor} -g {actor} {folder}; echo of-{actor} >{folder}/public\n"
        script += f"chown {actor}: {folder}/public\n"
        for owner in CRM:
            script += f"runuser -u {actor} -- ln -s {markers[owner]} {folder}/secret-of-{owner}\n"
            script += (
                f"runuser -u {actor} -- ln -s /srv/civicrm/{owner}/web/isolation/public {folder}/public-of-{owner}\n"
            )
    crm_int.check_output(script)
    yield
    crm_int.check_output(f"rm -r {' '.join(f'/srv/civicrm/{name}/web/isolation' for name in CRM)}")


@pytest.mark.mutates
@pytest.mark.parametrize(("actor", "owner"), PAIRS)
def test_files_by_a_link_over_http(browse, front_door, links, actor, owner):
    """A link that a site makes leads the web server to the site's own public files, and nowhere else."""
    site = f"https://{CRM[actor]['server_name']}/isolation"
    status, answer = browse(f"{site}/secret-of-{owner}", user=front_door)
    assert status in (403, 404) and "secret" not in answer.replace(f"secret-of-{owner}", "")
    status, answer = browse(f"{site}/public-of-{owner}", user=front_door)
    assert (status == 200 and answer.endswith(f"of-{owner}\n")) if actor == owner else status in (403, 404), answer


# Where an application's settings lie, its own directories and those of its packages.
SETTINGS = "/srv/civicrm /etc/civicrm /etc/lab-civicrm /etc/wordpress /usr/share/wordpress /var/lib/wordpress"


def test_no_file_of_the_real_trees_gives_a_secret_away(crm_int, vault):
    """Each file that holds a site's secret, wherever the application put it, is the site's and root's alone."""
    secrets = {value for keys in vault["vault_sites"].values() for value in keys.values() if len(str(value)) > 12}
    patterns = base64.b64encode("\n".join(map(str, secrets)).encode()).decode()
    found = crm_int.run(f"echo {patterns} | base64 -d | grep -rlFf - {SETTINGS} 2>/dev/null").stdout.split()
    assert "/etc/lab-civicrm/secrets.php" in found, "the search finds nothing"
    for path in found:
        status = crm_int.file(path)
        assert not status.mode & 0o027, f"{path} has mode {status.mode:o}"
        assert status.group in CRM, f"{path} belongs to the group {status.group}"
        for actor in {*CRM, "www-data"} - {status.group}:
            assert let_in(crm_int, actor, "read", path) is False, f"{actor} reads {path}"


def test_private_directories_of_the_real_trees_are_the_sites_own(crm_int):
    """Logs, attachments, uploads and compiled templates lie among the public files, and are none."""
    names = "-name ConfigAndLog -o -name templates_c -o -name custom -o -name upload -o -name dumps -o -name private"
    found = crm_int.check_output(f"find /srv/civicrm -type d '(' {names} ')'").split()
    assert any(path.endswith("/ConfigAndLog") for path in found)
    for path in found:
        owner = path.split("/")[3]
        for actor in {*CRM, "www-data"} - {owner}:
            assert let_in(crm_int, actor, "list", path) is False, f"{actor} lists {path}"


def test_the_web_server_has_no_rights_of_a_site(crm_int):
    """Neither by its account nor in the processes that run, which keep the groups that they began with."""
    assert not set(crm_int.check_output("id -nG www-data").split()) & set(CRM)
    ids = {crm_int.check_output(f"getent group {name}").split(":")[2] for name in CRM}
    groups = crm_int.check_output("grep -h ^Groups: $(printf '/proc/%s/status ' $(pgrep -u www-data apache2))").split()
    assert groups and not set(groups) & ids


@pytest.mark.parametrize("owner", CRM)
@pytest.mark.parametrize("actor", [*CRM, "www-data"])
def test_php_sockets(crm_int, actor, owner):
    """Whoever speaks FastCGI to a pool runs code as its site; only the web server may."""
    assert let_in(crm_int, actor, "connect", CRM[owner]["socket"]) is (actor == "www-data")


@pytest.mark.parametrize("owner", CRM)
@pytest.mark.parametrize("actor", [*CRM, "www-data"])
def test_php_directories(crm_int, actor, owner):
    """A session's file has its password for a name; an upload is there before the application has looked at it."""
    for kind in ("tmp", "sessions"):
        assert let_in(crm_int, actor, "list", f"/var/lib/php-pools/{owner}/{kind}") is (actor == owner)


TMP_PROBE = """<?php
echo json_encode([sys_get_temp_dir(), ini_get('upload_tmp_dir'), session_save_path(), ini_get('open_basedir')]);
"""


@pytest.mark.mutates
@pytest.mark.parametrize("site", CRM)
def test_php_puts_nothing_where_another_site_looks(browse, front_door, crm_int, site):
    """As PHP itself says it, behind the web server. open_basedir would switch the cache of real paths off."""
    encoded = base64.b64encode(TMP_PROBE.encode()).decode()
    crm_int.check_output(f"echo {encoded} | base64 -d >/srv/civicrm/{site}/web/isolation-probe.php")
    try:
        _, answer = browse(f"https://{CRM[site]['server_name']}/isolation-probe.php", user=front_door)
    finally:
        crm_int.check_output(f"rm /srv/civicrm/{site}/web/isolation-probe.php")
    place = f"/var/lib/php-pools/{site}"
    assert json.loads(answer.strip().rsplit("\n", 1)[-1]) == [f"{place}/tmp", f"{place}/tmp", f"{place}/sessions", ""]


def test_production_shares_no_process_manager(crm_int):
    """And so no memory of compiled scripts, which every pool of a process manager maps."""
    managers = {
        name: crm_int.check_output(f"systemctl show -P MainPID php-fpm-{name} | grep -vx 0 || echo shared")
        for name in CRM
    }
    for name, site in CRM.items():
        assert (managers[name] != "shared") is (site["environment"] == "production"), managers


def test_root_alone_makes_sockets_for_php(crm_int, crm_ext):
    """In a directory of the web server root would give away what a link names."""
    for host in (crm_int, crm_ext):
        for path in ("/run/php", *host.check_output("ls -d /run/php-fpm-*").split()):
            assert (host.file(path).user, host.file(path).mode & 0o022) == ("root", 0), path


EXT_USERS = [*APIS, "one-click", "newsletter", "www-data"]


@pytest.mark.parametrize("owner", [*APIS, "one-click"])
@pytest.mark.parametrize("actor", EXT_USERS)
def test_files_on_the_exposed_host(crm_ext, actor, owner):
    """The queue's password, donations that wait, what was asked for to be unsubscribed, and what PHP puts aside."""
    places = [("list", f"/var/lib/php-pools/{owner}/tmp"), ("list", f"/var/lib/php-pools/{owner}/sessions")]
    if owner in APIS:
        places += [("read", f"/etc/donation-intake/{owner}.json"), ("list", f"/var/lib/donation-intake/{owner}/spool")]
    else:
        places += [("list", "/var/lib/one-click")]
    for action, place in places:
        assert let_in(crm_ext, actor, action, place) is (actor == owner), place


@pytest.mark.parametrize("owner", APIS)
@pytest.mark.parametrize("actor", [*APIS, "www-data"])
def test_php_sockets_of_the_donation_apis(crm_ext, actor, owner):
    """The same on the exposed host."""
    assert let_in(crm_ext, actor, "connect", APIS[owner]["socket"]) is (actor == "www-data")


@pytest.mark.parametrize(("actor", "owner"), PAIRS)
def test_databases(crm_int, vault, actor, owner):
    """By the password that the actor knows, for its own user and for the owner's."""
    password = vault["vault_sites"][actor]["database_password"]
    for user in {CRM[actor]["database"], CRM[owner]["database"]}:
        login = base64.b64encode(f"[client]\nuser={user}\npassword={password}\n".encode()).decode()
        done = crm_int.run(
            f"echo {login} | base64 -d | "
            f"mariadb --defaults-extra-file=/dev/stdin -e 'SHOW TABLES' {CRM[owner]['database']}"
        )
        assert (done.rc == 0) is (actor == owner), done.stderr
        assert actor == owner or re.search("denied", done.stderr), done.stderr


@pytest.mark.parametrize("owner", CRM)
@pytest.mark.parametrize("actor", [*CRM, "www-data"])
def test_caches(crm_int, actor, owner):
    """Write access to a cache is code execution in the site: CiviCRM unserializes what it finds."""
    assert let_in(crm_int, actor, "connect", CRM[owner]["cache_socket"]) is (actor == owner)


INSTANCES = ["queue", *(site["cache_instance"] for site in CRM.values())]


@pytest.mark.parametrize("owner", INSTANCES)
@pytest.mark.parametrize("actor", [*INSTANCES, *CRM, "www-data", "redis"])
def test_stores_of_redis(crm_int, actor, owner):
    """Each instance is a user of its own: who breaks into one has neither another's data nor its passwords' hashes."""
    user = f"redis-{actor}" if actor in INSTANCES else actor
    for action, target in (("list", f"/var/lib/redis-{owner}"), ("read", f"/etc/redis/redis-{owner}.conf")):
        assert let_in(crm_int, user, action, target) is (actor == owner), target
    assert crm_int.check_output(f"systemctl show -P User redis-server@{owner}") == f"redis-{owner}"


@pytest.mark.parametrize("site", CRM)
def test_a_cache_runs_no_scripts(crm_int, site):
    """A script acts on all keys, and blocks the server for as long as it likes; get and set are the control."""
    cli = f"runuser -u {site} -- redis-cli -s {CRM[site]['cache_socket']}"
    assert crm_int.check_output(f"{cli} set isolation 1 ex 5") == "OK"
    for call in (
        "eval 'return 1' 0",
        "function list",
        "script load 'return 1'",
        "config set dir /tmp",
    ):
        assert "NOPERM" in crm_int.check_output(f"{cli} {call}"), call
    assert "NOPERM" in crm_int.check_output(f"{cli} migrate 127.0.0.1 6379 isolation 0 100")


@pytest.mark.parametrize(("actor", "owner"), PAIRS)
def test_mailboxes(crm_int, vault, actor, owner):
    """By IMAP with the password that the actor knows, and never as files."""
    password = vault["vault_sites"][actor]["mailbox_password"]
    assert let_in(crm_int, actor, "imap", owner, password=password) is (actor == owner)
    assert let_in(crm_int, actor, "list", f"/srv/mail/{owner}") is False


OUTSIDE = [("198.51.100.20", 53), ("198.51.100.21", 25)]


@pytest.mark.parametrize(("address", "port"), OUTSIDE)
@pytest.mark.parametrize("actor", CRM)
def test_outbound_addresses(crm_int, actor, address, port):
    """A site speaks to nobody outside; those whose work it is do, over the same wire; a site reaches its mailbox."""
    assert let_in(crm_int, actor, "tcp", address, port=port) is False
    assert let_in(crm_int, {53: "unbound", 25: "postfix"}[port], "tcp", address, port=port) is True
    assert let_in(crm_int, actor, "tcp", "127.0.0.1", port=993) is True
