"""What becomes of a damaged link at the front door: nothing passes to int that did not pass before."""

from __future__ import annotations

import re

import pytest
from bypasses import METHODS, TARGETS
from damaged import CLICK, beyond_repair, harmless, optout
from loading import load

sites = load("plugins/filter/sites.py")
public_paths = load("plugins/filter/public_paths.py")
NAME = "crm.example.org"


class Rewriting:
    """mod_rewrite of a rendered vhost, as far as it is used there, and the rules that mark a request as public."""

    def __init__(self, text: str) -> None:
        self.public = re.findall(r'^\s*SetEnvIfExpr "%\{THE_REQUEST\} =~ m#(.*?)#" public_path=', text, re.MULTILINE)
        self.rules: list[tuple[list[tuple[str, str, bool]], str, str]] = []
        conditions: list[tuple[str, str, bool]] = []
        for line in text.splitlines():
            if found := re.match(r'\s*RewriteCond "(.*?)" "(.*?)"( \[OR\])?( \[NV\])?$', line):
                conditions.append((found[1], found[2], bool(found[3])))
            elif found := re.match(r'\s*RewriteRule "\^" "(.*?)" \[(.*)\]$', line):
                self.rules.append((conditions, found[1], found[2]))
                conditions = []
            else:
                assert not line.strip().startswith(("RewriteCond", "RewriteRule", "RewriteMap")), line

    def __call__(self, request: str, **headers: str) -> str:
        """Return "public", "password", "404" or the address of a redirection."""
        if any(re.search(pattern, request) for pattern in self.public):
            headers["public_path"] = "x"
        variables = {"THE_REQUEST": request, **{f"ENV:{k}": v for k, v in headers.items()}}
        variables |= {f"HTTP:{k.replace('_', '-')}": v for k, v in headers.items()}
        for _ in range(1000):
            for conditions, target, flags in self.rules:
                groups = self.met(conditions, variables)
                if groups is None:
                    continue
                if status := re.search(r"R=(\d+)", flags):
                    return self.filled(target, groups, variables).removesuffix("?") if target != "-" else status[1]
                if found := re.search(r"E=(\w+):(.*?)(?:,|$)", flags):
                    variables[f"ENV:{found[1]}"] = self.filled(found[2], groups, variables)
                if "N=" in flags or flags == "L":
                    break
            else:
                break
            if flags == "L":
                break
        return "public" if "public_path" in headers else "password"

    def met(self, conditions, variables) -> list[str] | None:
        groups, alternative = [""], False
        for test, pattern, is_or in conditions:
            # "=x" compares.
            pattern = f"^{pattern[1:]}$" if pattern.startswith("=") else pattern
            found = None if alternative else re.search(pattern, self.filled(test, groups, variables))
            if found:
                groups = [found[0], *found.groups("")]
            if not found and not alternative and not is_or:
                return None
            # One of several is enough: the others are passed over.
            alternative = is_or and (alternative or bool(found))
        return groups

    def filled(self, text: str, groups, variables) -> str:
        text = re.sub(r"%\{([\w:-]+)\}", lambda found: variables.get(found[1], ""), text) if "%{" in text else text
        return re.sub(r"%([1-9])", lambda found: groups[int(found[1])], text) if groups[1:] else text


@pytest.fixture(scope="module")
def vhost(render):
    """A function (**site) -> a front door's vhost."""

    def _vhost(**site) -> str:
        given = {"name": "crm", "server_name": NAME, "environment": "production", "cms": "wordpress", "state": "live"}
        (item,) = sites.live_sites([given | {"mail_policy": "deliver"} | site], "/srv/x")
        return render(
            "civicrm_ext",
            "etc/apache2/sites-available/front-door.conf",
            item=["front-door", item],
            civicrm_ext_backend_address="10.77.0.11",
        )

    return _vhost


@pytest.fixture(scope="module")
def ask(vhost):
    """A function (target, method, **headers) -> what becomes of a request."""
    rewriting = Rewriting(vhost())
    return lambda target, method="GET", **headers: rewriting(f"{method} {target} HTTP/1.1", **headers)


@pytest.mark.parametrize("link", [optout(), CLICK, "/civicrm/mailing/view/?reset=1&id=12"])
def test_a_harmless_variant_is_sent_to_the_link(ask, link):
    """Who leaves a list must not meet a password prompt for a full stop; the next button is the one for spam."""
    assert ask(link) == "public"
    variants = {what: variant for what, variant in harmless(link).items() if variant != link}
    assert {what: ask(variant) for what, variant in variants.items()} == dict.fromkeys(
        variants, f"https://{NAME}{link}"
    )


@pytest.mark.parametrize("link", [optout()])
def test_what_cannot_be_mended_gets_a_page(ask, link):
    variants = beyond_repair(link)
    assert {what: ask(variant) for what, variant in variants.items()} == dict.fromkeys(variants, "404")
    assert ask(CLICK[:-1]) == "404"


def test_no_bypass_is_mended(ask):
    """It meets the password or gets the page."""
    answers = {target: ask(target) for target in TARGETS}
    assert set(answers.values()) == {"password", "404"}, answers
    # The acceptance test of these wants most of them to meet the password.
    assert list(answers.values()).count("password") > len(answers) / 2


def test_a_redirection_leads_only_to_what_passes_by_itself(ask):
    """Whatever is put anywhere into a link: its target is on the list, so no other request reaches int by it."""
    pieces = [chr(number) for number in range(33, 127)] + [
        "%26",
        "%3F",
        "%3D",
        "&amp;",
        "=3D",
        "%20",
        "%2f",
        "utm_x=1&",
    ]
    for piece in pieces:
        for place in range(1, len(optout()) + 1):
            answer = ask(optout()[:place] + piece + optout()[place:])
            if answer.startswith("https:"):
                assert ask(answer.removeprefix(f"https://{NAME}")) == "public", (piece, place)


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "get"])
def test_only_what_a_browser_opens_is_mended(ask, method):
    assert ask(f"{optout()}.", method) == "password"
    assert {ask(target, given) for given, target in METHODS} == {"password"}


@pytest.mark.parametrize("header", ["Authorization", "Content_Length", "Transfer_Encoding"])
def test_who_gives_a_password_or_a_body_gets_neither_page_nor_redirection(ask, header):
    """A colleague's request passes as before, and no redirection can lead to itself."""
    assert ask(f"{optout()}.", **{header: "x"}) == "password"


def test_who_is_refused_stays_refused(ask):
    assert ask(f"{optout()}.", refused="1") == "429"


def test_other_requests_meet_the_password(ask):
    for target in ("/", "/civicrm/", "/wp-login.php", "/wp-includes/css/x.css.", "/civicrm/mailing/unsubscribes"):
        assert ask(target) == "password", target


def test_a_site_without_public_paths_has_no_such_page(vhost):
    text = vhost(environment="staging", mail_policy="catch")
    assert "damaged" not in text and "ErrorDocument 404" not in text


def test_the_page_says_what_to_do_and_repeats_nothing(vhost):
    page = re.search(r'ErrorDocument 404 "(.*)"$', vhost(), re.MULTILINE)[1]
    assert f"mailto:postmaster@{NAME}" in page and "SERVER_NAME" not in page
    assert page.isascii() and '"' not in page and "%" not in page and "\\" not in page


def test_the_path_of_an_entry_is_near_itself_and_nothing_longer():
    pattern = public_paths.near_miss_pattern(
        [{"name": "a", "kind": "page", "path": "/a.html", "methods": ["GET"]},
         {"name": "b", "kind": "asset", "path": "/b.css", "methods": ["GET"]},
         {"name": "c", "kind": "page", "path": "/c", "methods": ["POST"]}],
        [],
    )  # fmt: skip
    near = ("/a.html", "/a.html?x", "/a.html.", "/a.html%20")
    other = ("/a.htm", "/axhtml", "/a.html5", "/a.html/", "/b.css.", "/c.", "/x/a.html")
    assert [target for target in near + other if re.search(pattern, f"GET {target} HTTP/1.1")] == list(near)
