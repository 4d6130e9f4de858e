"""Apache's configuration as its operator gets it, before any site."""

import re

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from loading import ROOT


@pytest.fixture
def apache(render):
    """Render a template of the role with an address of each family."""

    def _render(template: str, **variables):
        return render(
            "apache",
            template,
            **{
                "apache_listen": ["192.0.2.5:443", "[2001:db8::5]:443"],
                "apache_default_certificate_file": "/etc/ssl/civicrm/host.pem",
            }
            | variables,
        )

    return _render


def test_it_listens_on_the_given_addresses_and_nowhere_else(apache):
    """A service on an inner address must not answer on the outer one as well."""
    assert re.findall(r"^Listen (.*)$", apache("etc/apache2/ports.conf"), re.MULTILINE) == [
        "192.0.2.5:443",
        "[2001:db8::5]:443",
    ]


def test_port_80_only_redirects_and_only_where_it_is_asked_for(apache):
    names = {"apache_redirect_names": ["crm.example.org", "api.example.org"]}
    assert "Listen 80\n" in apache("etc/apache2/ports.conf", **names)
    assert ":80" not in apache("etc/apache2/sites-available/000-unknown.conf")
    unknown = apache("etc/apache2/sites-available/000-unknown.conf", **names)
    _, default, plain = unknown.split("<VirtualHost *:80>")
    assert "Redirect 404 /\n" in default and "RewriteRule" not in default
    assert "ServerName crm.example.org\n    ServerAlias api.example.org\n" in plain
    assert "RewriteRule ^ https://%{SERVER_NAME}%{REQUEST_URI} [R=308,L]" in plain
    assert "DocumentRoot" not in unknown
    assert "Proxy" not in unknown


def test_an_unknown_name_gets_404_on_every_listener(apache):
    """First in the alphabet: without it the first site would answer to any name."""
    unknown = apache("etc/apache2/sites-available/000-unknown.conf")
    assert "<VirtualHost 192.0.2.5:443 [2001:db8::5]:443>" in unknown
    assert "Redirect 404 /\n" in unknown
    assert "SSLCertificateFile /etc/ssl/civicrm/host.pem" in unknown


def test_nothing_is_served_unless_a_site_says_so(apache):
    text = apache("etc/apache2/conf-available/civicrm.conf")
    root = re.search(r"<Directory />(.*?)</Directory>", text, re.DOTALL)[1]
    assert "Require all denied" in root
    assert "AllowOverride None" in root


@pytest.mark.parametrize(
    ("path", "denied"),
    [
        ("/.git/config", True),
        ("/.env", True),
        ("/sites/.htaccess", True),
        ("/dump.sql", True),
        ("/index.php~", True),
        ("/index.php.bak", True),
        ("/.well-known/acme-challenge/x", False),
        ("/index.php", False),
        ("/civicrm/mailing/open", False),
    ],
)
def test_what_is_never_content_is_denied(apache, path, denied):
    text = apache("etc/apache2/conf-available/civicrm.conf")
    pattern = re.search(r'<LocationMatch "(.*)">\n\s*Require all denied', text)[1]
    assert bool(re.search(pattern, path)) is denied


def test_only_current_tls_is_spoken(apache):
    text = apache("etc/apache2/conf-available/civicrm.conf")
    assert re.search(r"^SSLProtocol -all \+TLSv1\.2 \+TLSv1\.3$", text, re.MULTILINE)
    ciphers = re.search(r"^SSLCipherSuite (.*)$", text, re.MULTILINE)[1].split(":")
    assert ciphers
    assert all(re.match(r"ECDHE-.*(GCM|POLY1305)", cipher) for cipher in ciphers)


def test_sizes_are_the_given_ones(apache):
    sizes = {"apache_request_body_max_mb": 2, "apache_max_request_workers": 75}
    assert "LimitRequestBody 2097152\n" in apache("etc/apache2/conf-available/civicrm.conf", **sizes)
    assert "MaxRequestWorkers 75\n" in apache("etc/apache2/conf-available/workers.conf", **sizes)


def test_what_only_a_restart_changes_stands_in_a_file_that_asks_for_one(apache):
    """At a reload Apache keeps its ServerLimit, and lowers MaxRequestWorkers to it."""
    (task,) = (t for t in yaml.safe_load((ROOT / "roles/apache/tasks/main.yml").read_text()) if "unit_set" in t)
    after = {e["src"]: set(e) & {"restart", "reload"} for e in task["unit_set"]["entries"] if "src" in e}
    holding = []
    for name in ("acme", "civicrm", "workers"):
        source = f"etc/apache2/conf-available/{name}.conf"
        limits = re.findall(r"^(ServerLimit|ThreadLimit|MaxRequestWorkers) ", apache(source), re.MULTILINE)
        holding += [(limit, after[f"{source}.j2"]) for limit in limits]
    assert holding == [("ServerLimit", {"restart"}), ("MaxRequestWorkers", {"restart"})], "each once"


@pytest.mark.parametrize("profile", ["civicrm_ext", "civicrm_int"])
@pytest.mark.parametrize("upload", [32, 100])
def test_what_the_front_door_lets_in_passes_the_limit_of_both_hosts(apache, profile, upload):
    """mod_proxy applies LimitRequestBody to a body that it has to put on the disk (AH01088): 413 for every upload."""
    path = ROOT / "roles" / profile / "tasks/web.yml"
    tasks = DataLoader().load_from_file(str(path), trusted_as_template=True)
    (given,) = (task["vars"] for task in tasks if task["ansible.builtin.import_role"]["name"] == "apache")
    text = apache(
        "etc/apache2/conf-available/civicrm.conf",
        civicrm_ext_upload_max_mb=upload,
        **{name: given[name] for name in ("apache_request_body_max_mb",) if name in given},
    )
    limit = int(re.search(r"^LimitRequestBody (\d+)$", text, re.MULTILINE)[1])
    assert limit == 0 or limit >= upload * 1024 * 1024


def test_a_worker_gets_a_request_when_its_body_is_there(apache):
    """A filter, and the request for a length: with one of them alone mod_proxy hands the body on as it comes (N48)."""
    text = apache("etc/apache2/conf-available/civicrm.conf", apache_body_rate_min_bytes_per_second=700)
    assert re.search(
        r'^<Location "/">\n    SetInputFilter BUFFER\n</Location>\nSetEnv proxy-sendcl 1$', text, re.MULTILINE
    )
    assert re.search(r"^RequestReadTimeout handshake=\d+ header=\S+ body=20,MinRate=700$", text, re.MULTILINE)
    assert "FlushMaxThreshold 1048576\n" in text
    assert "Environment=TMPDIR=/var/tmp\n" in apache("etc/systemd/system/apache2.service.d/civicrm.conf")


def test_no_slow_stream_hides_in_a_connection_of_http2(apache):
    """RequestReadTimeout counts connections, so streams would be free to wait (N48)."""
    modules = (ROOT / "roles/apache/vars/main.yml").read_text()
    assert "http2.load" not in modules


def test_no_log_line_holds_a_user_name_and_each_has_the_time_to_answer(apache):
    text = apache("etc/apache2/conf-available/civicrm.conf")
    form = re.search(r'^LogFormat "(.*)" civicrm$', text, re.MULTILINE)[1]
    assert "%u" not in form
    assert form.endswith("%D")


def test_a_killed_apache_comes_back(apache):
    text = apache("etc/systemd/system/apache2.service.d/civicrm.conf")
    assert "Restart=always\n" in text and "StartLimitIntervalSec=0\n" in text


def test_keys_are_exchanged_as_mozillas_intermediate_profile_says(render, apache):
    groups = "SSLOpenSSLConfCmd Groups {}X25519:prime256v1:secp384r1\n"
    assert groups.format("X25519MLKEM768:") in apache("etc/apache2/conf-available/civicrm.conf")
    older = render(
        "apache",
        "etc/apache2/conf-available/civicrm.conf",
        distribution="Debian-12",
        apache_listen=[],
        apache_default_certificate_file="/x",
    )
    assert groups.format("") in older
    assert "SSLSessionTickets Off" in older


def test_acme_names_are_those_given_and_a_new_certificate_is_used_at_once(apache):
    text = apache(
        "etc/apache2/conf-available/acme.conf",
        apache_acme_domains=["crm.example.org", "donate.example.org"],
        apache_acme_contact="admin@example.org",
    )
    assert re.findall(r"^MDomain (.*)$", text, re.MULTILINE) == ["crm.example.org", "donate.example.org"]
    assert "MDCertificateAuthority https://acme-v02.api.letsencrypt.org/directory\n" in text
    assert "MDContactEmail admin@example.org\n" in text
    assert "MDCACertificateFile" not in text
    command = re.search(r"^MDMessageCmd (\S+)$", text, re.MULTILINE)[1]
    script = (ROOT / f"roles/apache/files{command}").read_text()
    mark = re.search(r"renewed\) touch (\S+)", script)[1]
    assert f"PathChanged={mark}\n" in apache("etc/systemd/system/apache-certificates.path")
    assert "systemctl reload apache2.service" in apache("etc/systemd/system/apache-certificates.service")
