"""mtail's surroundings as its operator gets them."""

from __future__ import annotations

import pytest

DROP_IN = "etc/systemd/system/mtail.service.d/civicrm.conf"


def test_every_instance_is_announced_in_the_log(render):
    lines = render("mail_metrics", DROP_IN, mail_metrics_instances=["postfix", "postfix-gmail"]).splitlines()
    assert "ExecStartPost=-logger -p mail.info -t mail_metrics counting for postfix" in lines
    assert "ExecStartPost=-logger -p mail.info -t mail_metrics counting for postfix-gmail" in lines


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("", "http://localhost:3903/"),
        ("127.0.0.1", "http://127.0.0.1:3903/"),
        ("fd77::11", "http://[fd77::11]:3903/"),
    ],
)
def test_the_start_waits_for_the_address_in_use(render, address, url):
    text = render("mail_metrics", DROP_IN, mail_metrics_address=address)
    assert f"{url}\n" in text


def test_without_an_address_mtail_listens_on_all(render):
    assert "\nHOST=\n" in render("mail_metrics", "etc/default/mtail")


def test_memory_is_bounded(render):
    assert "MemoryMax=64M" in render("mail_metrics", DROP_IN, mail_metrics_memory_max="64M")
