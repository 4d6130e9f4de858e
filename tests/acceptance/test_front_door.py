"""People reach the CRM through two sets of passwords, and reach nothing else (S3, S4, S5, S10)."""

import json
import re
import subprocess

import pytest
from loading import ROOT

pytestmark = pytest.mark.web

DOMAIN = "torproject.test"
CRM_SITES = {"crm": f"crm.{DOMAIN}", "staging-crm": f"staging.crm.{DOMAIN}", "test-crm": f"test.crm.{DOMAIN}"}
LIVE_APIS = {
    "donate-api": f"donate-api.{DOMAIN}",
    "staging-donate-api": f"staging.donate-api.{DOMAIN}",
    "test-donate-api": f"test.donate-api.{DOMAIN}",
}
PLANNED_APIS = [f"api.donate.{DOMAIN}", f"staging-api.donate.{DOMAIN}", f"test-api.donate.{DOMAIN}"]
PROBE = "<?php echo json_encode([posix_getuid(), php_sapi_name(), PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION]);"


@pytest.mark.parametrize("path", ["/", "/wp-login.php", "/wp-json/", "/wp-cron.php", "/wp-admin/css/login.min.css"])
@pytest.mark.parametrize("server_name", CRM_SITES.values())
def test_without_the_first_password_every_path_of_every_site_is_refused(browse, server_name, path):
    """Static files, REST and cron included: what the CMS would answer must not matter (S10)."""
    status, answer = browse(f"https://{server_name}{path}")
    assert status == 401
    assert f'realm="{server_name}"' in answer


def test_the_first_password_leads_to_the_sites_own_login(browse, front_door):
    """The front door opens the way, it does not log anybody in (S10)."""
    status, answer = browse(f"https://{CRM_SITES['crm']}/wp-admin/", user=front_door)
    assert status == 302
    assert f"location: https://{CRM_SITES['crm']}/wp-login.php" in answer.lower().replace("%3a", ":")
    status, answer = browse(f"https://{CRM_SITES['crm']}/wp-login.php", user=front_door)
    assert status == 200
    assert 'name="pwd"' in answer


def test_both_passwords_lead_in(browse, front_door, vault):
    """With the site's own password behind the front door's, CiviCRM's dashboard answers (S10)."""
    login = {
        "cookie-jar": "/tmp/lab-cookies",
        "cookie": "wordpress_test_cookie=WP+Cookie+check",
        "data-urlencode": "pwd=" + vault["vault_sites"]["crm"]["admin_password"],
        "data": "log=admin&testcookie=1",
    }
    status, answer = browse(f"https://{CRM_SITES['crm']}/wp-login.php", user=front_door, **login)
    assert status == 302, answer
    url = f"https://{CRM_SITES['crm']}/wp-admin/admin.php?page=CiviCRM"
    status, answer = browse(url, user=front_door, cookie="/tmp/lab-cookies")
    assert status == 200
    assert "crm-container" in answer


def test_a_wrong_first_password_is_refused_whatever_comes_with_it(browse, vault):
    """The site's password alone must not open the front door (S10)."""
    site_password = vault["vault_sites"]["crm"]["admin_password"]
    for user in (f"admin:{site_password}", "alice:wrong", f"alice:{site_password}", "front-door:wrong"):
        status, _ = browse(f"https://{CRM_SITES['crm']}/wp-login.php", user=user)
        assert status == 401, user.split(":")[0]


def test_the_hosts_own_credential_opens_no_front_door(browse, vault):
    """What ext shows to int is between the two hosts; a person who learnt it would still meet a 401 at ext."""
    credential = vault["vault_front_door_credential"]
    status, _ = browse(f"https://{CRM_SITES['crm']}/", user=f"{credential['username']}:{credential['password']}")
    assert status == 401


def test_int_answers_only_the_front_door(browse, crm_ext, ops, front_door):
    """int's Apache demands ext's mark, credential and address; ops is a peer of the tunnel and gets nowhere (S10)."""
    options = {"resolve": f"{CRM_SITES['crm']}:443:10.77.0.11", "cacert": "/etc/ssl/certs/ca-certificates.crt"}
    # As Apache's user, the only one on ext who reaches int's port 443.
    curl = "curl -s -o /dev/null -w '%{http_code}' --max-time 30 --config -"
    curl += f" --resolve {options['resolve']} --cacert {options['cacert']} https://{CRM_SITES['crm']}/"
    curl = f"printf 'user = \"%s\"' '{front_door}' | runuser -u www-data -- {curl}"
    status = crm_ext.check_output(f"{curl} --header 'X-Front-Door: password'")
    assert status == "401", "a person's password must not be enough at int"
    assert crm_ext.check_output(curl) == "403", "a request that nobody marked must not be enough at int"
    status, _ = browse(f"https://{CRM_SITES['crm']}/", host=ops, connect_timeout="5", **options)
    assert status == 0, "ops reached int's Apache"


def test_passwords_are_stored_as_bcrypt(crm_ext, crm_int):
    """A stolen file must not give the passwords away (S10)."""
    for host, path in (
        (crm_ext, "/etc/apache2/civicrm/people-crm.htpasswd"),
        (crm_int, "/etc/apache2/civicrm/front-door.htpasswd"),
    ):
        file = host.file(path)
        entries = [line for line in file.content_string.splitlines() if line and not line.startswith("#")]
        assert entries
        assert all(line.split(":")[1].startswith("$2y$") for line in entries)
        assert (file.user, file.group, file.mode) == ("root", "www-data", 0o640)


@pytest.mark.mutates
@pytest.mark.parametrize(("name", "server_name"), [*CRM_SITES.items(), *LIVE_APIS.items()])
def test_each_site_runs_php_as_its_own_user(browse, front_door, crm_int, crm_ext, name, server_name):
    """Own docroot, own pool, own uid over a unix socket: what one site may read, another may not (S3, S4)."""
    host, base = (crm_int, "/srv/civicrm") if name in CRM_SITES else (crm_ext, "/srv/donate-api")
    probe = f"{base}/{name}/web/acceptance-probe.php"
    host.check_output(f'printf %s "{PROBE.replace("$", chr(92) + "$")}" > {probe}')
    try:
        status, answer = browse(f"https://{server_name}/acceptance-probe.php", user=front_door)
        assert status == 200, answer
        uid, sapi, _version = json.loads(answer.strip().rsplit("\n", 1)[-1])
    finally:
        host.check_output(f"rm {probe}")
    assert (host.user(name).uid, "fpm-fcgi") == (uid, sapi)
    (socket,) = host.check_output(f"ls /run/php/{name}.sock /run/php-fpm-{name}/{name}.sock 2>/dev/null; true").split()
    assert host.socket(f"unix://{socket}").is_listening
    assert host.file(socket).group == "www-data"


def test_sites_without_an_application_show_their_health(browse, front_door):
    """The whole path to a site can be checked before anybody deploys to it."""
    for name in ("staging-crm", "test-crm"):
        status, answer = browse(f"https://{CRM_SITES[name]}/", user=front_door)
        assert status == 200
        assert json.loads(answer.strip().rsplit("\n", 1)[-1])["site"] == name


def test_the_live_donation_apis_answer_and_the_planned_ones_do_not(browse, crm_ext):
    """Six names are defined; the three that are not live yet render nothing (S5)."""
    for name, server_name in LIVE_APIS.items():
        status, answer = browse(f"https://{server_name}/")
        assert (status, json.loads(answer.strip().rsplit("\n", 1)[-1])["site"]) == (200, name)
    for server_name in PLANNED_APIS:
        status, _ = browse(f"https://{server_name}/", insecure="")
        assert status == 404, server_name
    served = crm_ext.check_output("apache2ctl -S 2>&1")
    assert not [name for name in PLANNED_APIS if name in served]


def test_an_unknown_host_never_reaches_a_site(browse, front_door, crm_ext):
    """Neither at ext nor at int is there a default site; the header alone decides nothing (S4)."""
    for header in ("unknown.example", "localhost", "198.51.100.12", "crm.torproject.test.evil.test"):
        status, answer = browse("https://crm-ext-01.torproject.test/", user=front_door, header=f"Host: {header}")
        assert status in (400, 404, 421), (header, answer)


SENTENCE = "The CRM does not answer. Try again in a minute."
NO_DONATIONS = "Donations cannot be taken now. Try again later."


@pytest.mark.mutates
def test_an_int_that_is_away_is_said_in_words(browse, front_door, crm_int, eventually):
    """No web server there, and no way there: never a stock page."""
    url = f"https://{CRM_SITES['test-crm']}/"
    crm_int.check_output("systemctl stop apache2")
    try:
        status, answer = browse(url, user=front_door)
        assert status in (502, 503) and SENTENCE in answer, answer
        # The kept connections are closed now: what follows is a packet without an answer.
        rules = "add table inet away; add chain inet away input { type filter hook input priority -400 ; }; "
        crm_int.check_output(f"nft '{rules}add rule inet away input tcp dport 443 drop'")
        status, answer = browse(url, user=front_door)
        assert status in (502, 503, 504) and SENTENCE in answer, answer
    finally:
        crm_int.check_output("nft 'add table inet away; delete table inet away'")
        crm_int.check_output("systemctl start apache2")
    eventually(lambda: browse(url, user=front_door)[0] == 200)


@pytest.mark.mutates
@pytest.mark.parametrize(
    ("host_name", "name", "said"), [("crm_int", "test-crm", SENTENCE), ("crm_ext", "test-donate-api", NO_DONATIONS)]
)
def test_a_killed_php_fpm_gives_503_and_comes_back(request, browse, front_door, eventually, host_name, name, said):
    """systemd restarts what dies, on both hosts; while it is away the visitor is told so, in words (S3)."""
    host = request.getfixturevalue(host_name)
    url = f"https://{(CRM_SITES | LIVE_APIS)[name]}/"
    (unit,) = host.check_output("systemctl list-units --plain --no-legend 'php*-fpm.service' | cut -d' ' -f1").split()
    host.check_output(f"systemctl stop {unit}")
    try:
        status, answer = browse(url, user=front_door)
        assert status == 503 and said in answer, answer
    finally:
        host.check_output(f"systemctl start {unit}")
    eventually(lambda: browse(url, user=front_door)[0] == 200)
    host.check_output(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    eventually(lambda: browse(url, user=front_door)[0] == 200)


def test_files_that_no_site_serves(browse, front_door, crm_int):
    """CiviCRM's private directories, dumps and version control stay inside, proved with real paths."""
    for path in (
        "/.git/config", "/.env", "/composer.json", "/vendor/autoload.php", "/dump.sql", "/wp-config.php", "/xmlrpc.php",
        "/wp-content/uploads/civicrm/ConfigAndLog/x.log", "/wp-content/uploads/civicrm/templates_c/en_US/x.php",
        "/wp-content/uploads/civicrm/upload/x", "/wp-content/uploads/civicrm/custom/x", "/wp-content/uploads/x.php",
        "/wp-content/plugins/civicrm/civicrm.settings.php",
    ):  # fmt: skip
        status, _ = browse(f"https://{CRM_SITES['crm']}{path}", user=front_door)
        assert status in (403, 404), path


@pytest.mark.parametrize("written", ["{}", "{}.", "{}:80", "{}:8080"])
def test_plain_http_only_redirects(browse, written):
    """Nothing is ever served without TLS, but a typed address still works, however its name is written."""
    for name in (CRM_SITES["crm"], LIVE_APIS["donate-api"]):
        status, answer = browse(f"http://{name}/x?y=z", header=f"Host: {written.format(name)}")
        assert status == 308
        assert f"location: https://{name}/x?y=z\r" in answer.lower()


@pytest.mark.parametrize("name", ["unknown.example", "198.51.100.12", "crm.torproject.test.evil.test"])
def test_plain_http_sends_nobody_to_a_strangers_name(browse, name):
    status, answer = browse(f"http://{CRM_SITES['crm']}/x", header=f"Host: {name}")
    assert (status, "location:" in answer.lower()) == (404, False)


@pytest.mark.parametrize("written", ["{}.", "{}:443", "{}:8443", "CRM.torproject.TEST"])
def test_int_sees_one_name_however_the_client_writes_it(browse, front_door, written):
    """A page that took the client's spelling for its own would link to it."""
    url, name = f"https://{CRM_SITES['crm']}/wp-login.php", CRM_SITES["crm"]
    status, answer = browse(url, user=front_door, header=f"Host: {written.format(name)}")
    assert (status, 'name="pwd"' in answer) == (200, True), answer
    assert f"https://{name}/" in answer and written.format(name) not in answer


@pytest.mark.parametrize(("host_name", "address"), [("crm_ext", "127.0.0.1"), ("crm_int", "10.77.0.11")])
def test_apache_is_what_we_make_of_it_and_nothing_else(request, host_name, address):
    """What Debian switches on besides: modules, snippets, /icons/; and its version is nobody's business."""
    host = request.getfixturevalue(host_name)
    modules = set(re.findall(r"^ (\w+)_module", host.check_output("apache2ctl -M 2>/dev/null"), re.MULTILINE))
    assert not modules & {
        "status",
        "info",
        "autoindex",
        "negotiation",
        "userdir",
        "cgi",
        "cgid",
        "dav",
        "http2",
        "include",
    }
    assert host.check_output("ls /etc/apache2/conf-enabled").split() == ["civicrm.conf", "workers.conf"]
    answer = host.check_output(f"curl -ski https://{address}/icons/README https://{address}/server-status")
    assert re.findall(r"(?im)^server: (.*?)\r?$", answer) == ["Apache", "Apache"]
    assert re.findall(r"(?m)^HTTP/1.1 (\d+)", answer) == ["404", "404"]


@pytest.mark.parametrize(
    "path", ["/server-status", "/server-status?auto", "/icons/README", "/cgi-bin/", "/javascript/"]
)
def test_a_front_door_password_opens_nothing_of_apaches_own(browse, front_door, path):
    """They would be answered at ext or at int, before the site."""
    for name in ("crm", "test-crm"):
        status, answer = browse(f"https://{CRM_SITES[name]}{path}", user=front_door)
        assert "Apache Status" not in answer and "Public Domain Icons" not in answer
        assert status == 404 if name == "crm" else '"site"' in answer or status == 404, answer


UPLOADS = {
    "a drawing": ("image/svg+xml", ""),
    "a page that is sent as a file": ("text/html", "inline; filename=x.html"),
    "XHTML": ("application/xhtml+xml", ""),
}


@pytest.mark.mutates
@pytest.mark.parametrize(("content_type", "disposition"), UPLOADS.values(), ids=UPLOADS)
def test_an_uploaded_file_runs_no_script_as_the_site(browse, front_door, crm_int, content_type, disposition):
    """However it is asked for: the path is encoded, and a script of the application sends it."""
    probe = "/srv/civicrm/test-crm/web/file-probe.php"
    sent = f"header('Content-Type: {content_type}');" + (
        f"header('Content-Disposition: {disposition}');" if disposition else ""
    )
    crm_int.check_output(f'echo "<?php {sent} echo 1;" >{probe}')
    try:
        for path in ("/file-probe.php", "/file%2Dprobe.php?q=%63ivicrm/file"):
            _, answer = browse(f"https://{CRM_SITES['test-crm']}{path}", user=front_door)
            policies = re.findall(r"(?im)^content-security-policy: (.*?)\r?$", answer)
            assert len(policies) == 1 and policies[0].startswith("sandbox; default-src 'none'"), answer
    finally:
        crm_int.check_output(f"rm {probe}")


@pytest.mark.mutates
@pytest.mark.parametrize("disposition", ["", "inline; filename=x.pdf"], ids=["shown", "sent as a file"])
def test_a_pdf_is_shown(browse, front_door, crm_int, disposition):
    """Chrome's viewer does not start in a sandbox. CiviCRM names the file."""
    probe = "/srv/civicrm/test-crm/web/pdf-probe.php"
    sent = "header('Content-Type: application/pdf');" + (
        f"header('Content-Disposition: {disposition}');" if disposition else ""
    )
    crm_int.check_output(f'echo "<?php {sent} echo 1;" >{probe}')
    try:
        _, answer = browse(f"https://{CRM_SITES['test-crm']}/pdf-probe.php", user=front_door)
        policies = re.findall(r"(?im)^content-security-policy: (.*?)\r?$", answer)
        assert len(policies) == 1 and "sandbox" not in policies[0], answer
        assert "application/pdf" in answer
    finally:
        crm_int.check_output(f"rm {probe}")


@pytest.fixture(scope="module")
def sslyze():
    """The command sslyze, in an environment of its own: it wants an older cryptography than the rest."""
    directory = ROOT / ".lab" / "sslyze"
    pins = ROOT / "tests/tools/sslyze.txt"
    if not (directory / "bin/sslyze").is_file():
        subprocess.run(["python3", "-m", "venv", directory], check=True)
        subprocess.run([directory / "bin/pip", "install", "-q", "--no-deps", "-r", pins], check=True, timeout=300)
    return directory / "bin/sslyze"


@pytest.mark.parametrize("server_name", [CRM_SITES["crm"], LIVE_APIS["donate-api"]])
def test_tls_is_mozillas_intermediate_profile(sslyze, crm_ext, tmp_path, server_name):
    """Protocols, ciphers, curves and known attacks; only the lab's certificates live longer than it wants (P15)."""
    address = crm_ext.check_output("ip -4 -o address show scope global dev eth0").split()[3].split("/")[0]
    authority = tmp_path / "ca.pem"
    authority.write_text(crm_ext.file("/usr/local/share/ca-certificates/civicrm-private-ca.crt").content_string)
    done = subprocess.run(
        [
            sslyze,
            "--mozilla_config=intermediate",
            "--certinfo_ca_file",
            authority,
            "--sni",
            server_name,
            f"{address}:443",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    assert "Checking results" in verdict, done.stdout + done.stderr
    missed = set(re.findall(r"^\s+\* (\w+):", verdict, re.MULTILINE))
    assert missed <= {"maximum_certificate_lifespan"}, verdict


def test_browsers_are_told_what_pages_may_do(browse, front_door):
    """On the login page behind the first password, where it matters, and on the 401 before it."""
    for user in (front_door, None):
        _, answer = browse(f"https://{CRM_SITES['crm']}/wp-login.php", user=user)
        lines = re.findall(r"(?im)^([a-z-]+): (.*?)\r?$", answer.split("\r\n\r\n")[0])
        headers = {name.lower(): value for name, value in lines}
        assert headers["strict-transport-security"].startswith("max-age=31536000")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        names = re.findall(r"(?im)^(content-security-policy|x-frame-options):", answer)
        assert len(names) == len({name.lower() for name in names}), "a header that comes twice contradicts itself"


def test_cookies_are_sent_back_by_tls_and_by_the_site_alone(browse, front_door):
    _, answer = browse(f"https://{CRM_SITES['crm']}/wp-login.php", user=front_door)
    cookies = re.findall(r"(?im)^set-cookie: (.*?)\r?$", answer)
    assert cookies
    for cookie in cookies:
        assert "secure" in cookie.lower() and "samesite=lax" in cookie.lower(), cookie
    assert all("httponly" in cookie.lower() for cookie in cookies if cookie.startswith("PHPSESSID"))


@pytest.mark.alone
@pytest.mark.mutates
def test_connections_to_int_are_used_again(world, browse, front_door, crm_int, crm_ext):
    """A TLS handshake through the tunnel for each picture of a page would be most of its time."""
    log = "/var/log/apache2/staging-crm.log"
    opened = "nstat -az TcpPassiveOpens | awk '/TcpPassiveOpens/ {print $2}'"
    before, lines = int(crm_int.check_output(opened)), int(crm_int.check_output(f"wc -l < {log}"))
    browse(f"https://{CRM_SITES['staging-crm']}/?[1-50]", user=front_door, output="/dev/null")
    assert int(crm_int.check_output(f"wc -l < {log}")) - lines == 50
    assert int(crm_int.check_output(opened)) - before < 15
