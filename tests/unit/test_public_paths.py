"""Which requests pass the front door without a password, by the shipped lists and by any other."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from bypasses import METHODS, TARGETS
from loading import ROOT, load

public_paths = load("plugins/filter/public_paths.py")

SHIPPED = yaml.safe_load((ROOT / "roles/civicrm_ext/vars/main.yml").read_text())
LISTS = {
    "wordpress": SHIPPED["__civicrm_ext_mailing_paths"] + SHIPPED["__civicrm_ext_wordpress_assets"],
    "drupal": SHIPPED["__civicrm_ext_mailing_paths"] + SHIPPED["__civicrm_ext_drupal_paths"],
    "standalone": SHIPPED["__civicrm_ext_mailing_paths"] + SHIPPED["__civicrm_ext_standalone_assets"],
}
ENTRY = {"name": "page", "kind": "page", "path": "/page.html", "methods": ["GET"]}
HASH = "075d2e857b0cb0dd"


def passes(entries, target, method="GET", protocol="HTTP/1.1"):
    """Return the marks of the rules that a request line meets."""
    line = f"{method} {target} {protocol}"
    return [r["mark"] for r in public_paths.public_path_rules(entries) if re.search(r["request"], line)]


@pytest.mark.parametrize("cms", LISTS)
@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"])
@pytest.mark.parametrize(
    ("method", "target", "mark"),
    [
        ("GET", f"/civicrm/mailing/unsubscribe/?reset=1&jid=2&qid=1&h={HASH}", "public page unsubscribe"),
        ("GET", f"/civicrm/mailing/optout?h=0z{HASH[2:]}&qid=1&jid=2&reset=1", "public page unsubscribe"),
        ("GET", f"/civicrm/mailing/unsubscribe/?reset=1&jid=2&qid=1&h={HASH}&confirm=1", "public page unsubscribe"),
        ("HEAD", "/civicrm/mailing/view/?reset=1&id=12", "public page view"),
        ("GET", "/civicrm/mailing/open/?qid=", "public tracking open"),
        ("GET", "/civicrm/mailing/url/?u=3&qid=44", "public tracking click"),
        ("GET", "/civicrm/ajax/l10n-js/en_US/?cid=&r=Rd7ZF", "public page translation"),
    ],
)
def test_links_of_a_mailing_pass(cms, protocol, method, target, mark):
    assert passes(LISTS[cms], target, method, protocol) == [mark]


@pytest.mark.parametrize("cms", LISTS)
def test_the_form_of_an_unsubscribe_names_its_fields(cms):
    """int lets these be posted and nothing else: the body is not seen by the front door."""
    (mark,) = passes(LISTS[cms], "/civicrm/mailing/unsubscribe/", "POST")
    fields = mark.split(" ", 3)[3]
    for name in ("qfKey", "entryURL", "_qf_default", "email_confirm", "_qf_Optout_next", "List-Unsubscribe"):
        assert re.fullmatch(fields, name), name
    for name in ("q", "civiwp", "page", "rest_route", "task", "pagename", "_method", "_qf_", "snippet", "XqfKey"):
        assert not re.fullmatch(fields, name), name


@pytest.mark.parametrize(
    ("cms", "target"),
    [
        ("wordpress", "/wp-includes/css/dist/block-library/style.min.css?ver=5.7.11"),
        ("wordpress", "/wp-content/plugins/civicrm/civicrm/bower_components/font-awesome/fonts/x.woff2?v=4.7.0"),
        ("wordpress", "/wp-content/uploads/civicrm/persist/contribute/images/logo_1.JPG"),
        ("drupal", "/sites/default/files/css/css_Ab-c.css?delta=0&language=en&theme=olivero&include=eJx_-"),
        ("drupal", "/core/misc/drupal.js?t1abc2"),
        ("drupal", "/sites/all/modules/civicrm/extern/open.php?q=12"),
        ("standalone", "/core/css/civicrm.css?r=Ab12x"),
    ],
)
def test_what_those_pages_load_passes(cms, target):
    assert len(passes(LISTS[cms], target)) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cms", LISTS)
def test_nothing_else_passes(cms, target):
    assert passes(LISTS[cms], target) == []


@pytest.mark.parametrize(("method", "target"), METHODS)
def test_other_methods_do_not_pass(method, target):
    assert passes(LISTS["wordpress"], target, method) == []


@pytest.mark.parametrize("protocol", ["HTTP/0.9", "HTTP/1.2", "HTTP/3.0", "HTTP/1.1 x", ""])
def test_other_protocols_do_not_pass(protocol):
    assert passes(LISTS["wordpress"], "/civicrm/mailing/open/?qid=1", protocol=protocol) == []


BYTES = [chr(number) for number in range(33, 127)] + ["%2f", "%2e", "%00", "%5c", "/../", "//", ";", "?q=a", "&q=a"]


@pytest.mark.parametrize("piece", BYTES)
def test_one_more_piece_anywhere_never_opens_another_route(piece):
    """Each printable byte and each trick, at each place of a public link: what still passes is in the list."""
    link = "/civicrm/mailing/view/?reset=1&id=1"
    known = re.compile(r"/civicrm/mailing/view/?\?(reset=1&id=[0-9a-z]{1,32}|id=[0-9a-z]{1,32}&reset=1)")
    for place in range(len(link) + 1):
        target = link[:place] + piece + link[place:]
        assert not passes(LISTS["wordpress"], target) or known.fullmatch(target), target


def test_a_pattern_that_is_too_wide_still_admits_nothing_hidden():
    """The shape of each rule holds whatever an entry says."""
    wide = [ENTRY | {"path": None, "pattern": "/[A-Za-z0-9_./-]*", "query": {"a": "[a-z]*"}}]
    del wide[0]["path"]
    assert passes(wide, "/any/thing?a=b")
    for target in (
        "/a//b",
        "/a/../b",
        "/./a",
        "/.git/config",
        "/x.php/y",
        "/x.pHtml/y.css",
        "/a?a=b&a=c",
        "/" + "a" * 700,
    ):
        assert passes(wide, target) == [], target


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "Page"}, "name must be"),
        ({"name": "a b"}, "name must be"),
        ({"kind": "form"}, "kind 'form' is none of"),
        ({"methods": []}, "methods"),
        ({"methods": ["PUT"]}, "methods"),
        ({"pattern": "/x"}, "either path or pattern"),
        ({"path": "/a?b"}, "path '/a?b'"),
        ({"path": "page"}, "path 'page'"),
        ({"path": "/a b"}, "path '/a b'"),
        ({"path": "/a%2fb"}, "path"),
        ({"query": {"a[]": "1"}}, "no plain name"),
        ({"query": {"a": ".*"}}, "query a"),
        ({"query": {"a": "[^&]+"}}, "query a"),
        ({"query": {"a": r"\S"}}, "query a"),
        ({"query": {"a": "(b"}}, "query a"),
        ({"query": {"a": "(?i)b"}}, "query a"),
        ({"query": {"a": 'b"'}}, "query a"),
        ({"query": {"a": "b#"}}, "query a"),
        ({"query": {"a": 1}}, "query a"),
        ({"fields": ["q"]}, "fields are for POST"),
        ({"fields": [".*"], "methods": ["POST"]}, "fields"),
        ({"fields": ["a b"], "methods": ["POST"]}, "fields"),
    ],
)
def test_entries_that_would_open_too_much_are_refused(change, problem):
    """A wildcard would match a question mark; whoever needs one has to say what it stands for."""
    (found,) = public_paths.public_path_problems([ENTRY | change])[:1]
    assert problem in found
    with pytest.raises(AnsibleFilterError, match=re.escape(problem)):
        public_paths.public_path_rules([ENTRY | change])


def test_patterns_that_match_wildly_are_refused():
    for pattern in ("/.*", "/a/[^/]+", r"/\d+", "/a|b c", "no/slash", "/a(", "/(?:a)", "/a?b\\\\"):
        assert public_paths.public_path_problems(
            [{k: v for k, v in ENTRY.items() if k != "path"} | {"pattern": pattern}]
        )


def test_a_name_stands_once():
    assert public_paths.public_path_problems([ENTRY, ENTRY]) == ["public path 'page' stands twice"]


@pytest.mark.parametrize("cms", LISTS)
def test_the_shipped_lists_are_sound(cms):
    assert public_paths.public_path_problems(LISTS[cms]) == []


@pytest.mark.parametrize("cms", LISTS)
def test_what_is_written_to_apache_needs_no_quoting(cms):
    for rule in public_paths.public_path_rules(LISTS[cms]):
        assert not re.search(r'["#\n]|\\\\|\$\{|%\{', rule["request"])
        assert not re.search(r'["\\$#%\n]', rule["mark"])


@pytest.mark.parametrize(
    ("site", "names"),
    [
        ({"environment": "production"}, ["page"]),
        ({"environment": "staging"}, []),
        ({"environment": "staging", "public_paths_enabled": True}, ["page"]),
        ({"environment": "production", "public_paths_enabled": False}, []),
        ({"environment": "production", "public_paths": [ENTRY | {"name": "own"}]}, ["page", "own"]),
        ({"environment": "production", "cms": "drupal"}, []),
    ],
)
def test_public_paths_are_for_production_and_a_site_may_add_its_own(site, names):
    entries = public_paths.site_public_paths({"cms": "wordpress"} | site, {"wordpress": [ENTRY]})
    assert [e["name"] for e in entries] == names
