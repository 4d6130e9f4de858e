"""What measures the queues on its own, as its operator gets it."""

from __future__ import annotations

import re


def test_each_measure_is_a_file_of_node_exporters_directory(render):
    """A file elsewhere is read by nobody, and without the directory there is nothing to do."""
    text = render("mail_tools", "etc/systemd/system/mail-tools-metrics.service")
    (directory,) = re.findall(r"^ConditionPathIsDirectory=(.*)$", text, re.M)
    outputs = re.findall(r"^ExecStart=/usr/local/sbin/(\S+) .*--output (\S+)$", text, re.M)
    assert outputs == [
        ("postfix-queues-sizes", f"{directory}/postfix_queues.prom"),
        ("mailing", f"{directory}/mailing.prom"),
    ]


def test_twice_a_minute(render):
    assert "OnCalendar=*:*:0/30 UTC\n" in render("mail_tools", "etc/systemd/system/mail-tools-metrics.timer")


def test_the_queue_of_the_host_that_takes_unsubscribes_is_measured_too(render):
    """A wish waited there, unseen, while Postfix was dead."""
    text = render("one_click", "etc/systemd/system/one-click-metrics.service")
    (directory,) = re.findall(r"^ConditionPathIsDirectory=(.*)$", text, re.M)
    assert f"ExecStart=/usr/local/sbin/postfix-queues-sizes --output {directory}/postfix_queues.prom\n" in text
    assert "OnCalendar=*:*:0/30 UTC\n" in render("one_click", "etc/systemd/system/one-click-metrics.timer")
