"""A site of the external host as its operator gets it: the front door and the donation API."""

from __future__ import annotations

import base64
import re

import pytest
from loading import load

sites = load("plugins/filter/sites.py")

DOOR = {"name": "crm", "server_name": "crm.example.org", "state": "live"}
API = {
    "name": "donate-api",
    "server_name": "donate-api.example.org",
    "environment": "production",
    "state": "live",
    "php_version": "8.4",
}
CREDENTIAL = {"username": "front-door", "password": "canary-of-the-front-door"}


@pytest.fixture
def ext(render):
    """Render a template of the profile; keywords change the site's entry."""

    def _render(template: str, kind: str = "front-door", **site) -> str:
        (item,) = sites.live_sites([(DOOR if kind == "front-door" else API) | site], "/srv/donate-api")
        return render(
            "civicrm_ext",
            template,
            item=[kind, item],
            civicrm_ext_backend_address="10.77.0.11",
            civicrm_ext_front_door_credential=CREDENTIAL,
            civicrm_ext_users=[{"name": "alice", "password_hash": "$2y$05$" + "a" * 53}],
        )

    return _render


@pytest.fixture
def door(ext):
    return ext("etc/apache2/sites-available/front-door.conf")


@pytest.fixture
def api(ext):
    return ext("etc/apache2/sites-available/api.conf", "api")


@pytest.mark.parametrize("kind", ["front-door", "api"])
def test_every_site_speaks_tls_only_and_says_so_to_browsers(ext, kind):
    text = ext(f"etc/apache2/sites-available/{kind}.conf", kind)
    assert re.findall(r"<VirtualHost (.*)>", text) == ["*:443"]
    assert "SSLEngine on" in text
    assert 'Header always set Strict-Transport-Security "max-age=31536000"' in text


@pytest.mark.parametrize("kind", ["front-door", "api"])
def test_certificates_come_from_the_private_ca_unless_files_are_given(ext, kind):
    template = f"etc/apache2/sites-available/{kind}.conf"
    server_name = (DOOR if kind == "front-door" else API)["server_name"]
    assert ext(template, kind).count(f"/etc/ssl/civicrm/{server_name}.pem") == 2
    given = ext(template, kind, certificate_file="/etc/ssl/x/fullchain.pem", private_key_file="/etc/ssl/x/key.pem")
    assert "SSLCertificateFile /etc/ssl/x/fullchain.pem\n" in given
    assert "SSLCertificateKeyFile /etc/ssl/x/key.pem\n" in given
    assert "/etc/ssl/civicrm/" not in given


def test_nobody_passes_the_front_door_without_a_password(door):
    """P: everything behind it, without an exception."""
    location = re.search(r'<Location "/">(.*?)</Location>', door, re.DOTALL)[1]
    assert not re.findall(r"^\s*Require (.*)$", door, re.MULTILINE)
    assert "Include /etc/apache2/civicrm/people-crm.conf" in location
    assert "AuthType Basic" in location
    assert "AuthUserFile /etc/apache2/civicrm/people-crm.htpasswd" in location
    assert "AuthGroupFile /etc/apache2/civicrm/people-crm.groups" in location
    assert "Satisfy" not in door


def test_passwords_are_looked_up_in_the_file_at_each_request(door):
    """A cache of passwords (mod_authn_socache) would let in for minutes whom the file no longer names."""
    assert "AuthBasicProvider file\n" in door
    assert "socache" not in door.lower()


def test_what_a_client_says_about_its_way_is_unset_before_anything_reads_it(door):
    """`early` runs before the proxy adds its own; without it the client's X-Forwarded-For would go along."""
    unset = dict(re.findall(r"^\s*RequestHeader unset (\S+)(.*)$", door, re.MULTILINE))
    names = {"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-Proto", "Forwarded"}
    assert names <= set(unset)
    assert {unset[name].strip() for name in names} == {"early"}


def test_the_credential_towards_int_is_included_and_never_inline(door, ext):
    """The vhost is readable by all and stands in diffs; the included file is root's alone."""
    assert "Include /etc/apache2/civicrm/backend-credential.conf" in door
    encoded = base64.b64encode(f"{CREDENTIAL['username']}:{CREDENTIAL['password']}".encode()).decode()
    assert CREDENTIAL["password"] not in door
    assert encoded not in door
    assert not re.search(r"^\s*RequestHeader set Authorization", door, re.MULTILINE)
    included = ext("etc/apache2/civicrm/backend-credential.conf")
    assert f'RequestHeader set Authorization "Basic {encoded}"' in included


def test_int_must_prove_itself_under_the_sites_name(door):
    assert "SSLProxyEngine on" in door
    assert "SSLProxyVerify require" in door
    assert "SSLProxyCheckPeerName on" in door
    assert "SSLProxyCACertificateFile /usr/local/share/ca-certificates/civicrm-private-ca.crt" in door
    assert "ProxyPreserveHost on" in door  # the name that is checked is the site's


def test_everything_goes_to_int_over_the_private_link(door):
    assert re.findall(r'^\s*ProxyPass "(\S+)" "(\S+)"', door, re.MULTILINE) == [("/", "https://10.77.0.11/")]
    assert "ProxyRequests" not in door  # never an open proxy
    assert "DocumentRoot" not in door


def test_a_silent_int_is_said_in_words(door):
    assert set(re.findall(r"^\s*ErrorDocument (\d+) ", door, re.MULTILINE)) == {"502", "503", "504"}
    assert re.search(r"^\s*ProxyTimeout 120$", door, re.MULTILINE)


def test_the_front_doors_log_says_who_came_in(door):
    assert re.search(r'CustomLog \S+/crm\.log ".*%u.*"', door)


PEOPLE = [
    {"name": "alice", "password_hash": "$2y$05$" + "a" * 53},
    {"name": "bob", "password_hash": "$2y$05$" + "b" * 53, "sites": ["test-crm"]},
    {"name": "carol", "password_hash": "$2y$05$" + "c" * 53, "state": "blocked"},
    {
        "name": "uptime",
        "password_hash": "$2y$05$" + "d" * 53,
        "machine": True,
        "paths": ["/civicrm/health.txt", "/x"],
        "query": ["key"],
    },
]


def people(render, kind: str) -> list[str]:
    text = render(
        "civicrm_ext", f"etc/apache2/civicrm/people-site.{kind}", item={"name": "crm"}, civicrm_ext_users=PEOPLE
    )
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_who_passes_a_sites_front_door_stands_in_its_own_file(render):
    """Not who has other sites, not who is blocked (S12)."""
    assert [line.split(":")[0] for line in people(render, "htpasswd")] == ["alice", "uptime"]
    assert people(render, "htpasswd")[0] == "alice:$2y$05$" + "a" * 53


def test_machines_are_no_people(render):
    """A password alone opens nothing: it takes the group of people, or a machine's own rule (S12)."""
    assert people(render, "groups") == ["people: alice"]
    assert people(render, "conf")[:2] == ["<RequireAny>", "Require group people"]
    assert not [line for line in people(render, "conf") if "valid-user" in line]


def test_a_machine_is_confined_to_paths_methods_and_parameters(render):
    """All at once; the CMS takes its route from the query as well."""
    rules = people(render, "conf")
    inner = rules[rules.index("<RequireAll>") + 1 : rules.index("</RequireAll>")]
    assert inner == [
        "Require user uptime",
        "Require expr \"%{REQUEST_METHOD} in { 'GET', 'HEAD' }\"",
        r'Require expr "%{REQUEST_URI} =~ m#^(/civicrm/health\.txt|/x)(/|$)#"',
        'Require expr "%{QUERY_STRING} =~ /^((key)=[^&]*(&|$))*$/"',
    ]


def test_donors_need_no_password_and_reach_nothing_of_the_crm(api):
    assert "Auth" not in api
    assert "10.77.0.11" not in api
    assert "ProxyPass" not in api


def test_the_api_is_php_of_its_own_pool(api):
    assert "DocumentRoot /srv/donate-api/donate-api/web\n" in api
    assert 'SetHandler "proxy:unix:/run/php/donate-api.sock|fcgi://donate-api"' in api
    assert '<If "-f %{REQUEST_FILENAME}">' in api
    directory = re.search(r'<Directory "/srv/donate-api/donate-api/web">(.*?)</Directory>', api, re.DOTALL)[1]
    assert "FallbackResource /index.php" in directory
    assert "AllowOverride None" in directory


@pytest.mark.parametrize(
    ("path", "gone"), [("/.env", True), ("/a/.git/HEAD", True), ("/.well-known/x", False), ("/donate", False)]
)
def test_hidden_files_of_the_api_are_not_served(api, path, gone):
    patterns = re.findall(r'^\s*RedirectMatch 404 "(.*)"$', api, re.MULTILINE)
    assert any(re.search(pattern, path) for pattern in patterns) is gone


@pytest.fixture
def intake(ext):
    return ext("etc/apache2/sites-available/api.conf", "api", application="donation_intake")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ],
)
def test_every_answer_of_the_intake_forbids_what_json_never_needs(intake, api, name, value):
    """`always`: Apache's own errors as well. Another application decides for itself."""
    assert re.search(rf'^\s*Header always set {name} "?{re.escape(value)}"?$', intake, re.MULTILINE)
    assert name not in api


def test_donors_addresses_are_logged_where_they_are_forgotten(intake, api):
    """Debian's own rotation reads the folder above and would keep them for its own time."""
    logs = re.findall(r"^\s*(?:CustomLog|ErrorLog) (\S+)", intake, re.MULTILINE)
    assert logs == [
        "/var/log/apache2/donation-api/donate-api.log",
        "/var/log/apache2/donation-api/donate-api-error.log",
    ]
    assert re.findall(r"^\s*CustomLog (\S+)", api, re.MULTILINE) == ["${APACHE_LOG_DIR}/donate-api.log"]


def test_a_large_body_ends_at_apache(intake):
    assert re.search(r"^\s*LimitRequestBody 1048576$", intake, re.MULTILINE)
