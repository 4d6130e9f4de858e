"""Every alert can fire, has been seen to fire, and says where to read on."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from alert_rules import FILES, label_values, metrics, rules
from loading import ROOT, TOOLS

RULES = rules()
TESTS = ROOT / "tests" / "alerts"
# What node_exporter, its library and Prometheus make themselves.
FOREIGN = re.compile(r"up|node_\w+|promhttp_\w+")


def constants(path: Path) -> set[str]:
    """Every text in a Python file, f-strings with * for what is filled in."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {word for text in found for word in re.findall(r"[\w*-]+", text)}


def sources() -> list[set[str]]:
    """The words that the host tools write, for each package of them, and those of mtail's program."""
    found: dict[str, set[str]] = {}
    for path in TOOLS.glob("civicrm_tools/*/*.py"):
        found.setdefault(path.parent.name, set()).update(constants(path))
    for path in ROOT.glob("roles/*/files/**/*.mtail"):
        text = path.read_text()
        found[path.name] = set(re.findall(r"^counter (\w+)", text, re.MULTILINE)) | set(re.findall(r'"(\w+)"', text))
    return list(found.values())


SOURCES = sources()


def written(name: str) -> bool:
    """Whether a tool writes a metric of that name; one that is put together has its parts in the same package."""
    for words in SOURCES:
        if name in words:
            return True
        for word in words:
            if 0 < word.count("*") < len(word) and len(word) > 8:
                found = re.fullmatch(word.replace("*", r"(\w+)"), name)
                # donation_intake_* is filled with spool_oldest_seconds.
                if found and all(part in words for part in found.groups()):
                    return True
    return False


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_how_bad_it_is_what_it_is_and_where_to_read_on(rule):
    """At three in the morning the page that helps is one step away."""
    assert rule["labels"]["severity"] in ("warning", "page")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert "\n" not in rule["annotations"]["summary"]
    page, _, section = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert page.startswith("docs/")
    assert section in slugs


def test_alerts_have_different_names():
    names = [rule["alert"] for rule in RULES]
    assert len(names) > 30
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_a_tool_of_this_project_writes(rule):
    """A metric that was renamed would make its alert silent for ever."""
    names = metrics(rule["expr"])
    assert names
    assert [name for name in names if not FOREIGN.fullmatch(name) and not written(name)] == []


# Labels whose values come from the inventory, from Prometheus' own configuration or from the exporter's library.
GIVEN = {"civicrm_hosts", "civicrm_mail", "civicrm_", "hosts", "mail", "fetch_bounces", "process_mailing", "ca"}
GIVEN |= {"gathering"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_labels_that_somebody_sets(rule):
    words = set().union(*SOURCES)
    assert [v for v in label_values(rule["expr"]) if v not in words | GIVEN] == []


def test_jobs_have_the_names_of_the_scrape_configuration_and_of_the_inventory():
    """What the rules ask for by name, which no tool writes."""
    config = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["civicrm_hosts", "civicrm_mail"]
    jobs = yaml.safe_load((ROOT / "roles/civicrm_int/defaults/main.yml").read_text())["civicrm_int_jobs"]
    assert {job["name"] for job in jobs} == {"fetch_bounces", "process_mailing"}
    assert "'ca':" in (ROOT / "roles/ipsec/vars/main.yml").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_alert_is_tested_where_it_fires_and_where_it_must_not(path):
    """tests/alerts is run by promtool: an alert that nobody has seen fire is a hope."""
    text = yaml.safe_load((TESTS / path.name).read_text())
    assert [(TESTS / name).resolve() for name in text["rule_files"]] == [path]
    fires, silent = set(), set()
    for case in text["tests"]:
        for check in case["promql_expr_test"]:
            (name,) = re.findall(r'alertname="(\w+)"', check["expr"])
            (fires if check["exp_samples"] else silent).add(name)
    alerts = {rule["alert"] for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]}
    assert alerts == fires == silent
