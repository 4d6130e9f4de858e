"""A site of the external host as its operator gets it: the front door and the donation API."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import shlex

import pytest
from bypasses import TARGETS
from loading import ROOT, load

sites = load("plugins/filter/sites.py")

DOOR = {
    "name": "crm",
    "server_name": "crm.example.org",
    "environment": "production",
    "cms": "wordpress",
    "state": "live",
}
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

    def _render(template: str, kind: str = "front-door", never: tuple[str, ...] = (), **site) -> str:
        (item,) = sites.live_sites([(DOOR if kind == "front-door" else API) | site], "/srv/donate-api")
        return render(
            "civicrm_ext",
            template,
            item=[kind, item],
            civicrm_ext_backend_address="10.77.0.11",
            civicrm_ext_front_door_credential=CREDENTIAL,
            civicrm_ext_never_refused=never,
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


def test_nobody_passes_the_front_door_without_a_password_but_on_a_public_path(door):
    """Everything behind it; what is public is decided in one place, by the raw request line."""
    location = re.search(r'<Location "/">(.*?)</Location>', door, re.DOTALL)[1]
    assert re.findall(r"^\s*Require (.*)$", door, re.MULTILINE) == ["env public_path"]
    assert re.search(r"<RequireAny>.*Include /etc/apache2/civicrm/people-crm.conf.*</RequireAny>", location, re.DOTALL)
    assert "AuthType Basic" in location
    assert "AuthUserFile /etc/apache2/civicrm/people-crm.htpasswd" in location
    assert "AuthGroupFile /etc/apache2/civicrm/people-crm.groups" in location
    assert "Satisfy" not in door


def test_passwords_are_looked_up_in_the_file_at_each_request(door):
    """A cache of passwords (mod_authn_socache) would let in for minutes whom the file no longer names."""
    assert "AuthBasicProvider file\n" in door
    assert "socache" not in door.lower()


def marks(door: str, line: str, **headers: str) -> dict[str, str]:
    """Return the variables that the vhost's rules set for a raw request line."""
    found: dict[str, str] = {}
    for pattern, settings in re.findall(r'^\s*SetEnvIfExpr "%\{THE_REQUEST\} =~ m#(.*?)#" (.*)$', door, re.MULTILINE):
        if re.search(pattern, line):
            found |= dict(setting.split("=", 1) for setting in shlex.split(settings))
    return found


def test_public_paths_are_those_of_the_sites_cms_and_its_own(ext):
    template = "etc/apache2/sites-available/front-door.conf"
    own = {"name": "donors", "kind": "page", "path": "/donors.html", "methods": ["GET"]}
    door = ext(template, public_paths=[own])
    assert marks(door, "GET /donors.html HTTP/2.0")["front_door"] == "public page donors"
    assert marks(door, "GET /civicrm/mailing/view/?reset=1&id=1 HTTP/1.1")["public_path"] == "view"
    assert marks(door, "GET /wp-includes/css/x.css HTTP/1.1")["public_asset"] == "1"
    assert not marks(ext(template, cms="drupal"), "GET /wp-includes/css/x.css HTTP/1.1")
    assert not marks(ext(template, environment="staging"), "GET /civicrm/mailing/view/?reset=1&id=1 HTTP/1.1")


@pytest.mark.parametrize("target", TARGETS)
def test_no_bypass_is_marked_public(door, target):
    assert marks(door, f"GET {target} HTTP/1.1") == {}


def test_only_a_form_may_have_a_body(door):
    rules = re.findall(r"^\s*SetEnvIfExpr (.*)$", door, re.MULTILINE)
    marking = [number for number, rule in enumerate(rules) if "THE_REQUEST" in rule]
    (number,) = [number for number, rule in enumerate(rules) if "Content-Length" in rule]
    assert number == max(marking) + 1, "after the rules that mark a request"
    assert "%{REQUEST_METHOD} != 'POST'" in rules[number]
    empty = re.search(r"req\('Content-Length'\) =~ m#(.*?)#", rules[number])[1]
    assert not re.search(empty, "0") and not re.search(empty, "") and re.search(empty, "10")
    assert "Transfer-Encoding" in rules[number]
    assert {"!public_path", "!front_door", "!QS_Cond"} <= set(rules[number].split())


def test_each_request_is_marked_for_int_and_no_client_can_take_the_mark_away(door):
    """A header named in Connection is dropped on the way: the mark, and the credential, would be."""
    headers = re.findall(r"^\s*RequestHeader (?:set|edit) (.*)$", door, re.MULTILINE)
    assert headers[-2:] == [
        "X-Front-Door password",
        'X-Front-Door "expr=%{reqenv:front_door}" env=public_path',
    ]
    pattern = re.search(r'RequestHeader edit Connection "(.*)" close', door)[1]
    for value, changed in {
        "close": False,
        "Keep-Alive": False,
        "X-Front-Door": True,
        "close, Authorization": True,
    }.items():
        assert bool(re.search(pattern, value)) is changed, value


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Method-Override"])
def test_no_header_names_another_method_or_path(door, name):
    assert re.search(rf"^\s*RequestHeader unset {name} early$", door, re.MULTILINE)


def test_who_failed_too_often_is_refused_before_a_password_is_looked_at(door):
    """bcrypt is what a flood of wrong passwords costs; a rewrite comes before it. Public paths stay open."""
    rules = door[door.index("RewriteEngine On") : door.index("Retry-After")]
    assert 'RewriteCond "%{ENV:refused}" "=1"' in rules
    assert 'RewriteCond "%{ENV:public_path}" "^$"' in rules
    assert 'RewriteRule "^" "-" [R=429,L]' in rules
    markers = re.findall(r"-e '(\S+)'", door)
    assert markers == [
        "/run/front-door/address/%{reqenv:visitor}",
        "/run/front-door/login/%{reqenv:visitor}=%{reqenv:login}",
    ]
    assert door.index("<RequireAny>") > door.index("[R=429,L]")


def visitor(door: str, address: str) -> str:
    """Return the variable that the vhost's rules set for a client's address."""
    rules = re.findall(r'SetEnvIfExpr "(?:-R \'(\S+)\' && )?%\{REMOTE_ADDR\} =~ m#(.*?)#" visitor=(\S+)$', door, re.M)
    found = ""
    for network, pattern, value in rules:
        match = re.search(pattern, address)
        if match and (not network or ipaddress.ip_address(address) in ipaddress.ip_network(network)):
            found = re.sub(r"\$(\d)", lambda group, match=match: match[int(group[1])], value)
    return found


def test_an_ipv6_visitor_is_the_network_of_64_bits(ext):
    """Written as fail2ban writes it, wherever the address has zeros; who is never refused stays one address."""
    door = ext("etc/apache2/sites-available/front-door.conf", never=["2001:db8:f::13", "2001:db8:e::/48", "192.0.2.1"])
    assert visitor(door, "198.51.100.7") == "198.51.100.7"
    assert visitor(door, "2001:db8:f::13") == "2001:db8:f::13"
    assert visitor(door, "2001:db8:e:1::5") == "2001:db8:e:1::5"
    for zeros in range(256):  # which of the eight groups are zero
        groups = [0 if zeros >> n & 1 else 0x1A0 + n for n in range(8)]
        groups[0] = 0x2A0B
        address = ipaddress.ip_address(":".join(f"{group:x}" for group in groups))
        assert visitor(door, str(address)) == str(ipaddress.ip_network(f"{address}/64", strict=False).network_address)


def test_a_login_in_a_marker_is_no_path(door):
    """The name comes from the client and becomes part of a file's name."""
    pattern = re.search(r"unbase64\(\$1\) =~ m#(.*?)#", door)[1]
    assert re.search(pattern, "alice@example.org:x")
    for name in ("../alice:x", "a/b:x", ".alice:x", "a b:x", "a\n:x", ":x", "a" * 65 + ":x"):
        assert not re.search(pattern, name), name


def test_a_client_cannot_hide_its_failures(door):
    """A failure is a 401 without the mark for int; a client that sends the mark itself is stripped of it first."""
    assert re.search(r"^\s*RequestHeader unset X-Front-Door early$", door, re.MULTILINE)
    failures = re.search(r'front-door-failures\.log front_door_event "expr=(.*)"', door)[1]
    assert failures == "%{REQUEST_STATUS} == 401 && -n req('Authorization') && -z req('X-Front-Door')"


def test_opened_mails_do_not_count_as_a_flood(door):
    """A webmail provider fetches images for many people from few addresses."""
    refused = re.search(r'front-door-refused\.log front_door_event "expr=(.*)"', door)[1]
    assert refused.endswith("-z reqenv('public_tracking')")


def test_bodies_have_a_limit_for_each_kind_of_path(ext, door, api):
    """Set for mod_qos: Apache's own is one for all requests (N48)."""
    assert "QS_LimitRequestBody 33554432\n" in door
    assert "SetEnvIfExpr \"-n reqenv('public_path')\" QS_LimitRequestBody=65536\n" in door
    assert door.index("QS_LimitRequestBody=") > door.index("!public_path"), "after what takes the mark away"
    assert "QS_LimitRequestBody 65536\n" in api


UPLOADED = {
    "a drawing with a script": ("/civicrm/file", "image/svg+xml", ""),
    "a page that is sent as a file": ("/civicrm/file", "text/html;charset=UTF-8", 'inline; filename="x.html"'),
    "a page among uploads": ("/wp-content/uploads/civicrm/persist/x.html", "text/html", ""),
    "what only begins like a PDF": ("/civicrm/file", "application/pdf+xml", ""),
    "a file without a type among uploads": ("/wp-content/uploads/x", "", ""),
    "a page among Drupal's files": ("/sites/default/files/x.html", "text/html", ""),
    "XML": ("/", "application/xhtml+xml", ""),
}
SITES_OWN = {
    "a page": ("/civicrm/file", "text/html; charset=UTF-8", ""),
    "a script": ("/wp-includes/js/x.js", "text/javascript", ""),
    "a PDF": ("/civicrm/file", "application/pdf", ""),
    "a PDF that is sent as a file": ("/civicrm/file", "application/pdf;charset=binary", "inline; filename=x.pdf"),
    "a PDF among uploads": ("/wp-content/uploads/civicrm/persist/x.pdf", "Application/PDF", ""),
}


def holds(rule: str, values: dict[str, str]) -> bool:
    """Say whether an expression of Apache's holds: -n, =~, !~, &&, || and brackets."""

    def judge(clause: re.Match[str]) -> str:
        value = values[clause["value"] or clause["present"]]
        matches = clause["pattern"] is None or re.search(clause["pattern"], value, re.I if clause["flag"] else 0)
        return str(bool(value) if clause["present"] else bool(matches) is (clause["sign"] == "=~"))

    name = r"%\{\w+\}|resp\('[\w-]+'\)"
    clauses = rf"-n (?P<present>{name})|(?P<value>{name}) (?P<sign>[=!]~) m#(?P<pattern>.*?)#(?P<flag>i?)"
    judged = re.sub(clauses, judge, rule).replace("&&", "and").replace("||", "or")
    assert re.fullmatch(r"(?:True|False|and|or|[() ])+", judged), judged
    return bool(eval(judged))  # noqa: S307 - made of these words alone


@pytest.mark.parametrize(
    ("path", "content_type", "disposition", "sandboxed"),
    [(*call, True) for call in UPLOADED.values()] + [(*call, False) for call in SITES_OWN.values()],
    ids=[*UPLOADED, *SITES_OWN],
)
def test_what_was_uploaded_runs_no_script_as_the_site(door, path, content_type, disposition, sandboxed):
    """Judged by the answer, since there are many ways to ask for a file."""
    policy, rule = re.search(r'Content-Security-Policy "(sandbox;[^"]*)" "expr=(.*)"$', door, re.MULTILINE).groups()
    assert "allow-scripts" not in policy and "default-src 'none'" in policy
    values = {"resp('Content-Disposition')": disposition, "%{CONTENT_TYPE}": content_type, "%{REQUEST_URI}": path}
    assert holds(rule, values) is sandboxed
    names = re.findall(r"^\s*Header always \w+ Content-Security-Policy (.*)$", door, re.MULTILINE)
    assert names[-1] == '"expr=%{REQUEST_STATUS} == 304"', "the browser keeps what it has"


def test_int_sees_one_name_whatever_the_client_wrote(door):
    assert re.search(r"^\s*RequestHeader set Host crm\.example\.org$", door, re.MULTILINE)


def test_public_paths_are_limited_by_their_kind_and_nothing_else_is(ext, door):
    text = ext("etc/apache2/sites-available/000-limits.conf")
    assert "QS_CondClientEventLimitCount 60 60 public_page ^page$" in text
    assert "QS_CondClientEventLimitCount 600 60 public_tracking ^tracking$" in text
    assert "QS_ErrorResponseCode 429" in text
    found = marks(door, "GET /civicrm/mailing/view/?reset=1&id=1 HTTP/1.1")
    assert (found["public_page"], found["QS_Cond"]) == ("1", "page")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin env=!public_path"),
    ],
)
def test_browsers_are_told_what_a_page_may_do(door, header, value):
    assert re.search(rf"^\s*Header always set {header} {re.escape(value)}$", door, re.MULTILINE)


def test_a_site_may_have_its_own_content_security_policy(ext, door):
    shipped = re.search(r'Header always set Content-Security-Policy "(.*)"', door)[1]
    assert "object-src 'none'" in shipped and "frame-ancestors 'self'" in shipped and "\n" not in shipped
    own = ext("etc/apache2/sites-available/front-door.conf", content_security_policy="default-src 'none'")
    assert "Header always set Content-Security-Policy \"default-src 'none'\"" in own
    assert "Header onsuccess unset Content-Security-Policy" in own  # two would both hold


@pytest.mark.parametrize(
    ("cookie", "sent"),
    [
        ("PHPSESSID=a; path=/", "PHPSESSID=a; path=/; Secure; SameSite=Lax; HttpOnly"),
        ("a=b; path=/; secure; HttpOnly; SameSite=Strict", "a=b; path=/; secure; HttpOnly; SameSite=Strict"),
        ("wp-settings-1=x; Secure", "wp-settings-1=x; Secure; SameSite=Lax"),
    ],
)
def test_cookies_stay_with_the_site(door, cookie, sent):
    """Secure and SameSite for all; HttpOnly for sessions, as WordPress' scripts read its settings."""
    for pattern, value in re.findall(r'Header onsuccess edit Set-Cookie "(.*?)" "(.*?)"', door):
        cookie = re.sub(pattern, value.replace("$1", r"\1"), cookie)
    assert cookie == sent


@pytest.mark.parametrize("kind", ["front-door", "api"])
def test_with_acme_apache_finds_its_certificates_itself(render, kind):
    (item,) = sites.live_sites([DOOR if kind == "front-door" else API], "/srv/donate-api")
    text = render(
        "civicrm_ext",
        f"etc/apache2/sites-available/{kind}.conf",
        item=[kind, item],
        civicrm_ext_tls_source="acme",
        civicrm_ext_backend_address="10.77.0.11",
    )
    assert "SSLCertificate" not in text
    assert "Protocols http/1.1 acme-tls/1\n" in text
    assert "SSLEngine on" in text


def test_connections_to_int_end_here_first(door):
    """A request on a connection that int is just closing would be lost."""
    (ttl,) = re.findall(r"ProxyPass .* ttl=(\d+)$", door, re.MULTILINE)
    vhost = (ROOT / "roles/civicrm_int/templates/etc/apache2/sites-available/site.conf.j2").read_text()
    assert int(ttl) < int(re.search(r"KeepAliveTimeout (\d+)", vhost)[1])


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
    assert set(re.findall(r"^\s*ErrorDocument (\d+) ", door, re.MULTILINE)) == {"404", "429", "502", "503", "504"}
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
    assert 'SetHandler "proxy:unix:/run/php-fpm-donate-api/donate-api.sock|fcgi://donate-api"' in api
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
    """Debian's own rotation reads the directory above and would keep them for its own time."""
    logs = re.findall(r"^\s*(?:CustomLog|ErrorLog) (\S+)", intake, re.MULTILINE)
    assert logs == [
        "/var/log/apache2/donation-api/donate-api.log",
        "/var/log/apache2/donation-api/donate-api-error.log",
    ]
    assert re.findall(r"^\s*CustomLog (\S+)", api, re.MULTILINE) == ["${APACHE_LOG_DIR}/donate-api.log"]


@pytest.mark.parametrize("status", ["413", "502", "503", "504"])
def test_what_apache_answers_for_the_intake_is_json(intake, api, status):
    """In the form of every other refusal: a program reads it."""
    (text,) = re.findall(rf"^\s*ErrorDocument {status} '(.*)'$", intake, re.MULTILINE)
    error = json.loads(text)["error"]
    code = "too_large" if status == "413" else "unavailable"
    assert (error["code"], error["field"]) == (code, None) and error["message"]
    assert "ErrorDocument" not in api
