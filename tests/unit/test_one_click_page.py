"""A POST is one mail, also when a mail program posts twice; and no wish is lost for it (N4, N5)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loading import ROOT
from unit_return_path import program

PAGE = ROOT / "roles/one_click/files/usr/local/share/one-click/index.php"
PERSON = "u.7.100.26d7b951968ebe4b"
# What PHP-FPM takes from the request.
REQUEST = """<?php
$_POST = ["List-Unsubscribe" => "One-Click"];
register_shutdown_function(function () { fwrite(STDERR, (string) http_response_code()); });
"""


class Page:
    """The page, with a sendmail that notes the recipients."""

    def __init__(self, place: Path) -> None:
        self.place, self.state, self.outbox = place, place / "state", place / "outbox"
        self.state.mkdir()
        self.sendmail("exit 0")
        program(place / "postqueue", "exit 0")
        (place / "request.php").write_text(REQUEST)
        config = {
            "localpart": "civicrm+", "mail_domain": "crm.example.org",
            "state": str(self.state), "sendmail": str(place / "sendmail"),
            "postqueue": str(place / "postqueue"), "patience": 1.5,
        }  # fmt: skip
        (place / "site.json").write_text(json.dumps(config))

    def sendmail(self, end: str) -> None:
        program(self.place / "sendmail", f'cat >/dev/null; echo "$3" >>{self.outbox}; sleep 0.05; {end}')

    def post(self, person: str = PERSON) -> int:
        """The status that the answer has."""
        given = {"REQUEST_URI": f"/one-click/{person}", "REQUEST_METHOD": "POST"}
        done = subprocess.run(
            ["php", "-n", "-d", "variables_order=EGPCS", "-d", f"auto_prepend_file={self.place / 'request.php'}",
             "-d", "error_log=/dev/null", str(PAGE)],
            env=os.environ | given | {"ONE_CLICK_CONFIG": str(self.place / "site.json")},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return int(done.stderr.strip() or 0)

    def sent(self) -> list[str]:
        return self.outbox.read_text().split() if self.outbox.exists() else []


@pytest.fixture
def page(tmp_path) -> Page:
    return Page(tmp_path)


def test_a_second_post_for_one_mail_is_no_second_mail(page):
    """A provider posts again when the answer is slow; each mail is one more confirmation to the person."""
    assert [page.post() for _ in range(3)] == [200, 200, 200]
    assert page.sent() == [f"civicrm+{PERSON}@crm.example.org"]


def test_two_posts_at_once_are_one_mail(page):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: page.post(), range(4))) == [200] * 4
    assert len(page.sent()) == 1


def test_other_peoples_wishes_are_their_own(page):
    people = [f"u.7.{n}.26d7b951968ebe4b" for n in range(1, 9)]
    assert [page.post(person) for person in people] == [200] * 8
    assert page.sent() == [f"civicrm+{person}@crm.example.org" for person in people]


def test_what_postfix_did_not_take_is_tried_again(page):
    """Only what lies on the disk may count as done."""
    page.sendmail("exit 75")
    assert page.post() == 503
    page.sendmail("exit 0")
    assert page.post() == 200
    assert len(page.sent()) == 2


def test_after_a_while_it_is_a_new_wish(page):
    """Who came back to the list may leave it again by the same mail; a clock that was wrong blocks nobody."""
    assert page.post() == 200
    (notes,) = page.state.iterdir()
    for then in (time.time() - 901, time.time() + 3600):
        notes.write_text(re.sub(r"^\d+", str(int(then)), notes.read_text()))
        before = len(page.sent())
        assert page.post() == 200
        assert len(page.sent()) == before + 1


def test_without_its_notes_the_wish_is_handed_over_all_the_same(page):
    page.state.rmdir()
    assert [page.post(), page.post()] == [200, 200]
    assert len(page.sent()) == 2


def test_made_up_people_do_not_fill_the_disk(page):
    """Anybody may post a hash that nobody has: the notes stay small."""
    assert page.post() == 200
    (notes,) = page.state.iterdir()
    notes.write_text("\n".join(f"{int(time.time())} {n:064x}" for n in range(5000)))
    assert page.post() == 200
    assert notes.stat().st_size < 65536


def test_the_notes_name_nobody(page):
    assert page.post() == 200
    (notes,) = page.state.iterdir()
    assert "26d7b951968ebe4b" not in notes.read_text()


def test_while_postfix_is_down_nobody_is_told_that_it_is_done(page):
    """sendmail succeeds all the same, and the wish waited unseen for ever (N5)."""
    program(page.place / "postqueue", "exit 69")
    assert page.post() == 503
    assert page.sent() == []
    program(page.place / "postqueue", "exit 0")
    assert page.post() == 200


def test_a_restart_of_postfix_is_waited_for(page):
    """Mail programs do not try again: a second without Postfix loses no wish."""
    program(page.place / "postqueue", f"test -e {page.place}/again || {{ touch {page.place}/again; exit 69; }}")
    assert page.post() == 200


def test_of_a_long_queue_only_the_beginning_is_read(page):
    program(page.place / "postqueue", "trap 'exit 1' PIPE; while :; do echo '{}' || exit 1; done")
    began = time.monotonic()
    assert page.post() == 200
    assert time.monotonic() - began < 10
