"""One form of an unsubscribe address, wherever it is looked for (N4)."""

from __future__ import annotations

import json
import re

import pytest
from contract_addresses import DOMAIN, HASH, LOCALPART, NONE, READ_ONLY, TODAY
from loading import ROOT, load

sites = load("plugins/filter/sites.py")
public_paths = load("plugins/filter/public_paths.py")
PAGE = ROOT / "roles/one_click/files/usr/local/share/one-click/index.php"
SITE = {
    "name": "crm",
    "server_name": DOMAIN,
    "environment": "production",
    "state": "live",
    "cms": "wordpress",
    "mail_policy": "deliver",
}


@pytest.fixture
def vhost(render):
    def _vhost(**site) -> str:
        (item,) = sites.live_sites([SITE | site])
        return render(
            "civicrm_ext",
            "etc/apache2/sites-available/front-door.conf",
            item=["front-door", item],
            civicrm_ext_backend_address="10.77.0.11",
        )

    return _vhost


def page_takes(path: str) -> bool:
    """What the page's own pattern says; PCRE's D is Python's fullmatch."""
    (pattern,) = re.findall(r"PATH = '#\^(.*)\$#D';", PAGE.read_text())
    return re.fullmatch(pattern, path) is not None


def door_takes(vhost: str, method: str, path: str) -> bool:
    patterns = re.findall(r"=~ m#(.*)#\" public_path=one-click ", vhost)
    assert len(patterns) == 2
    return any(re.search(pattern, f"{method} {path} HTTP/1.1") for pattern in patterns)


@pytest.mark.parametrize("address", [*TODAY, *READ_ONLY, *NONE])
def test_page_and_front_door_take_exactly_the_unsubscribe_addresses_of_today(vhost, address):
    """Of the addresses that Postfix takes, those that unsubscribe: wider is a hole, narrower a wish that is lost."""
    person = address.removeprefix(LOCALPART).split("@")[0]
    wanted = address in TODAY and person.startswith("u.")
    path = f"/one-click/{person}"
    assert page_takes(path) is wanted
    assert door_takes(vhost(), "POST", path) is wanted


@pytest.mark.parametrize(
    "person",
    [
        f"u.01.2.{HASH}",
        f"u.0.2.{HASH}",
        f"u.1.02.{HASH}",
        f"u.1.12345678901.{HASH}",
        f"u.1.2.{HASH}0",
        f"u.1.2.{HASH[:-1]}",
        f"u.1.2.{HASH.upper()}",
        f"u.1.2.{HASH}/",
        f"u.1.2.{HASH}\n",
        f"u%2e1.2.{HASH}",
        f"ux1.2.{HASH}",
    ],
)
def test_nearly_an_unsubscribe_address_is_none(vhost, person):
    """int's Postfix would refuse the mail: the person would have been told that it worked."""
    assert not page_takes(f"/one-click/{person}")
    assert not door_takes(vhost(), "POST", f"/one-click/{person}")


def test_the_link_in_a_mailing_is_the_path_that_is_taken(render, vhost):
    """int writes it, ext answers it: two profiles, one address."""
    (mail,) = sites.site_mail(sites.live_sites([SITE | {"php_version": "8.4"}]))
    path = mail["unsubscribe_url"].removeprefix(f"https://{DOMAIN}") + "/u.1.2.0123456789abcdef"
    assert door_takes(vhost(), "POST", path)
    assert door_takes(vhost(), "GET", path)
    assert not door_takes(vhost(), "POST", f"{path}?List-Unsubscribe=One-Click")
    assert not door_takes(vhost(), "PUT", path)


@pytest.mark.parametrize("policy", ["catch", "hold"])
def test_a_site_that_reaches_nobody_has_no_path(vhost, policy):
    assert "one-click" not in vhost(mail_policy=policy)
    assert sites.one_click_sites(sites.live_sites([SITE | {"mail_policy": policy}])) == []
    assert "unsubscribe_url" not in sites.site_mail(sites.live_sites([SITE | {"mail_policy": policy}]))[0]


def test_it_is_answered_on_this_host_and_only_where_the_path_is_public(vhost):
    """The rest of /one-click/ reaches neither PHP nor int."""
    text = vhost()
    location = re.search(r'<Location "/one-click/">(.*?)</Location>', text, re.S)[1]
    handler = re.search(r"<If \"reqenv\('public_path'\) == 'one-click'\">\s*(.*?)\s*</If>", location, re.S)[1]
    assert handler == 'SetHandler "proxy:unix:/run/php/one-click.sock|fcgi://one-click"'
    assert location.count("SetHandler") == 1
    assert text.index('ProxyPass "/one-click/" "!"') < text.index('ProxyPass "/" ')


def test_mail_programs_that_post_for_many_people_are_no_flood(vhost):
    """The higher of both limits: one address of a webmail provider posts for all of its users."""
    assert len(re.findall(r"public_path=one-click public_tracking=1 QS_Cond=tracking", vhost())) == 2


def test_each_sites_configuration_is_its_return_address(render):
    (item,) = sites.one_click_sites(sites.live_sites([SITE | {"mail_domain": "m.example.org"}]))
    text = render("one_click", "etc/one-click/site.json", item=item)
    assert json.loads(text) == {"localpart": LOCALPART, "mail_domain": "m.example.org"}


def test_the_page_sets_no_cookie_and_sends_nobody_elsewhere():
    """RFC 8058, 3.1: a mail program follows no redirect and keeps no cookie."""
    assert re.findall(r"header\('([\w-]+):", PAGE.read_text()) == [
        "Cache-Control",
        "Content-Type",
        "Allow",
        "Retry-After",
    ]
    assert not re.search(r"setcookie|session_start|\$_COOKIE|\$_REQUEST|\$_GET", PAGE.read_text())
