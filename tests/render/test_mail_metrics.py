"""mtail's surroundings as its operator gets them."""

from __future__ import annotations

DROP_IN = "etc/systemd/system/mtail.service.d/civicrm.conf"


def test_every_instance_is_announced_in_the_log(render):
    """By root, as for Debian's User=mtail rsyslog has another file."""
    lines = render("mail_metrics", DROP_IN, mail_metrics_instances=["postfix", "postfix-gmail"]).splitlines()
    assert "ExecStartPost=-+logger -p mail.info -t mail_metrics counting for postfix" in lines
    assert "ExecStartPost=-+logger -p mail.info -t mail_metrics counting for postfix-gmail" in lines


def test_mtail_listens_on_loopback_and_the_named_addresses_have_a_socket(render):
    """On all addresses a mistake in the firewall would show it to everyone."""
    assert "\nHOST=127.0.0.1\n" in render("mail_metrics", "etc/default/mtail")
    assert "http://127.0.0.1:3903/\n" in render("mail_metrics", DROP_IN)
    addresses = ["10.77.0.11", "fd77::11"]
    socket = render("mail_metrics", "etc/systemd/system/mail-metrics.socket", mail_metrics_addresses=addresses)
    streams = [line for line in socket.splitlines() if line.startswith("ListenStream=")]
    assert streams == ["ListenStream=10.77.0.11:3903", "ListenStream=[fd77::11]:3903"]


def test_memory_is_bounded(render):
    assert "MemoryMax=64M" in render("mail_metrics", DROP_IN, mail_metrics_memory_max="64M")
