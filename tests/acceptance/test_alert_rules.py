"""The alert rules are loaded, fire when they should, and ask for metrics that are there (N7, N8, N9, N19, P15)."""

import io
import re
import subprocess
import tarfile

import pytest
from alert_rules import FILES, metrics, rules
from fixtures import ROOT

DIRECTORY = "/tmp/alert-rules"
EXPORTERS = ["10.77.0.11:9100", "10.77.0.11:3903", "10.77.0.12:9100"]
MADE_BY_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def promtool(ops):
    """The monitoring host with promtool, the rules and their tests; Debian's package brings no daemon."""
    ops.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends promtool")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("monitoring", "tests/alerts"):
            tar.add(ROOT / name, name)
    unpack = ["podman", "exec", "-i", "ops", "sh", "-c", f"rm -rf {DIRECTORY}; mkdir {DIRECTORY}; tar x -C {DIRECTORY}"]
    subprocess.run(unpack, input=archive.getvalue(), check=True, timeout=300)
    yield ops
    ops.check_output(f"rm -rf {DIRECTORY}")


@pytest.mark.mutates
def test_prometheus_takes_the_configuration_with_all_rules(promtool):
    """The shipped scrape configuration loads every rule file; templates in annotations are parsed too."""
    done = promtool.run(f"cd {DIRECTORY}/monitoring && promtool check config prometheus.yml")
    assert done.rc == 0, done.stdout + done.stderr
    assert f"{len(FILES)} rule files found" in done.stdout


@pytest.mark.mutates
@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_rules_fire_when_they_should_and_only_then(promtool, name):
    done = promtool.run(f"cd {DIRECTORY}/tests/alerts && promtool test rules {name}")
    assert done.rc == 0, done.stdout + done.stderr


@pytest.mark.mutates
def test_every_metric_that_a_rule_asks_for_is_read_through_the_link(crm_int, crm_ext, ops, eventually):
    """On the real exporters, from where Prometheus stands: a rule on a metric that nobody has is silent for ever."""
    for host in (crm_int, crm_ext):
        host.check_output("systemctl start certificate-expiry.service")
    for job in ("process-mailing", "fetch-bounces"):
        crm_int.check_output(f"systemctl start civicrm-crm-{job}.service")
    crm_int.check_output("systemctl start newsletter-archive.service")
    needed = set().union(*(metrics(rule["expr"]) for rule in rules())) - MADE_BY_PROMETHEUS

    def missing():
        text = "".join(ops.check_output(f"curl -sS --max-time 10 http://{address}/metrics") for address in EXPORTERS)
        return needed - set(re.findall(r"^(\w+)(?:\{| )", text, re.MULTILINE))

    eventually(lambda: not missing(), within=45, every=3)


def test_no_file_of_metrics_is_refused(crm_int, crm_ext):
    """Two tools that write one metric with different help texts would make the exporter drop it."""
    for host in (crm_int, crm_ext):
        assert "node_textfile_scrape_error 0" in host.check_output("curl -s localhost:9100/metrics")
