"""What the archive's operator gets on both hosts: one key, one directory, and a vhost that runs nothing (S37)."""

from __future__ import annotations

import json
import re

import pytest
from loading import load

from civicrm_tools.newsletter import archive

sites = load("plugins/filter/sites.py")
SITE = {"name": "newsletter", "server_name": "newsletter.example.org", "state": "live"}
KEY = "ssh-ed25519 AAAAC3Nz newsletter-archive@newsletter"


@pytest.fixture
def vhost(render):
    def _vhost(**variables) -> str:
        (item,) = sites.live_sites([SITE], "/srv/newsletter")
        return render(
            "civicrm_ext",
            "etc/apache2/sites-available/newsletter.conf",
            item=["newsletter", item],
            **{"civicrm_ext_tls_source": "private_ca"} | variables,
        )

    return _vhost


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_key_writes_one_directory_from_two_addresses_and_nothing_else(render):
    text = render(
        "newsletter_site",
        "srv/newsletter/.ssh/authorized_keys",
        item="newsletter",
        newsletter_site_public_key=KEY,
        newsletter_site_sources=["10.77.0.11", "fd77::11"],
    )
    assert lines(text) == [
        'restrict,from="10.77.0.11,fd77::11",command="/usr/bin/rrsync -wo -no-del /srv/newsletter/newsletter/web" '
        + KEY
    ]


def policy(text: str) -> dict[str, str]:
    (value,) = re.findall(r'Content-Security-Policy "(.*)"', text)
    return dict(part.strip().split(" ", 1) for part in value.split(";"))


def test_pages_may_load_a_style_sheet_and_nothing_else(vhost):
    """Whatever int is made to write, no reader's browser runs it or tells anybody."""
    assert policy(vhost()) == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert policy(vhost(civicrm_ext_newsletter_image_hosts=["p.example"]))["img-src"] == "'self' https://p.example"


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/", True),
        ("/index.html", True),
        ("/2026-01-31-7.html", True),
        ("/style.css", True),
        ("/x.php", False),
        ("/x.html.php", False),
        ("/.htaccess", False),
        ("/.x.html", False),
        ("/.ssh/authorized_keys", False),
        ("/a/b.html", False),
        ("/x.svg", False),
        ("/x.html/", False),
        ("//", False),
    ],
)
def test_pages_and_their_style_sheet_are_all_that_is_answered(vhost, path, served):
    (pattern,) = re.findall(r'RedirectMatch 404 "(.*)"', vhost())
    assert (re.search(pattern, path) is None) is served


def test_nothing_is_run_and_nothing_but_reading_is_allowed(vhost):
    text = vhost()
    assert "DocumentRoot /srv/newsletter/newsletter/web\n" in text
    assert "php" not in text and "Proxy" not in text
    for directive in ("Options None", "AllowOverride None", "Require method GET HEAD"):
        assert f"        {directive}\n" in text
    for header in ("Strict-Transport-Security", "X-Content-Type-Options nosniff", "Referrer-Policy no-referrer"):
        assert f"Header always set {header}" in text


ARCHIVE = {
    "newsletter_archive_command": "/usr/local/bin/news --public",
    "newsletter_archive_command_user": "crm",
    "newsletter_archive_target_host": "10.77.0.12",
    "newsletter_archive_known_host_key": "ssh-ed25519 AAAAC3Nz",
}


def test_the_tool_reads_what_the_inventory_says(render, tmp_path):
    """Every setting that the tool asks for is in its file."""
    path = tmp_path / "config.json"
    path.write_text(render("newsletter_archive", "etc/newsletter-archive.json", **ARCHIVE))
    config = archive.Config.read(path)
    assert config.command == ["/usr/local/bin/news", "--public"]
    assert config.command_user == "crm" and config.user == "newsletter-archive"
    assert config.target == {"host": "10.77.0.12", "user": "newsletter", "port": 22}
    assert json.loads(path.read_text())["tokens"]["contact.display_name"] == "reader"


def test_one_host_key_is_accepted(render):
    text = render("newsletter_archive", "etc/newsletter-archive.known_hosts", **ARCHIVE)
    assert lines(text) == ["newsletter-archive-target ssh-ed25519 AAAAC3Nz"]


def test_the_service_waits_for_the_application(render):
    text = render("newsletter_archive", "etc/systemd/system/newsletter-archive.service", **ARCHIVE)
    assert "ConditionFileIsExecutable=/usr/local/bin/news\n" in text
