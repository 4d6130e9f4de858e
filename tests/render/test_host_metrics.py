"""The exporter's options as the host gets them."""

import shlex

OPTIONS = "etc/default/prometheus-node-exporter"


def options(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("ARGS="))
    return shlex.split(shlex.split(line)[0].removeprefix("ARGS="))


def test_it_listens_on_the_addresses_given_and_on_loopback_only(render):
    """A public exporter tells the world what runs here."""
    text = render("host_metrics", OPTIONS, host_metrics_addresses=["10.77.0.11", "fd77::11"])
    listening = [o.split("=", 1)[1] for o in options(text) if o.startswith("--web.listen-address=")]
    assert listening == ["127.0.0.1:9100", "10.77.0.11:9100", "[fd77::11]:9100"]


def test_without_addresses_it_listens_on_loopback(render):
    text = render("host_metrics", OPTIONS)
    assert [o for o in options(text) if "listen" in o] == ["--web.listen-address=127.0.0.1:9100"]


def test_writers_of_metrics_are_members_of_the_group(render):
    lines = render("host_metrics", "etc/sysusers.d/host-metrics.conf", host_metrics_writers=["mtail"]).splitlines()
    assert [line for line in lines if line[0] != "#"] == ["g metrics -", "m mtail metrics"]
