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
@pytest.mark.parametrize(("actor", "owner"), PAIRS)
def test_files(crm_int, markers, actor, owner):
    """Settings hold the database's password; and what lies open in a directory is not even listed to another site."""
    assert let_in(crm_int, actor, "read", markers[owner]) is (actor == owner)
    assert let_in(crm_int, actor, "list", f"/srv/civicrm/{owner}") is (actor == owner)


@pytest.mark.parametrize("owner", CRM)
@pytest.mark.parametrize("actor", [*CRM, "www-data"])
def test_php_sockets(crm_int, actor, owner):
    """Whoever speaks FastCGI to a pool runs code as its site; only the web server may."""
    assert let_in(crm_int, actor, "connect", CRM[owner]["socket"]) is (actor == "www-data")


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


@pytest.mark.parametrize(("actor", "owner"), PAIRS)
def test_caches(crm_int, actor, owner):
    """Write access to a cache is code execution in the site: CiviCRM unserializes what it finds."""
    assert let_in(crm_int, actor, "connect", CRM[owner]["cache_socket"]) is (actor == owner)


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
