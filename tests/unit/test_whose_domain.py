"""Whose domain is it? Postfix and every command that says a provider's name give one answer (N1, N10).

`mailbox-watch` and `postfix-trace` name no provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from reports import arf, dsn, newsletter, verp
from unit_return_path import delivery, program

from civicrm_tools.mail import breaker, forecast, hosted, postfix, queue, reports
from civicrm_tools.mail.hosted import Domains, Known
from civicrm_tools.mail.providers import Owners, Providers

WHOSE = {
    "gmail.com": "gmail",
    "GMail.COM": "gmail",
    "gmail.com.": "gmail",
    "sub.gmail.com": "default",
    "notgmail.com": "default",
    "hosted.example": "gmail",
    "Hosted.Example.": "gmail",
    "sub.hosted.example": "default",
    "xn--bcher-kva.example": "gmail",
    "orange.fr": "orange",
    "unknown.example": "default",
    # Hosted once by a provider that has left the table.
    "left.example": "default",
}
HOSTED = {"hosted.example": "gmail", "xn--bcher-kva.example": "gmail", "left.example": "gone"}

Answer = Callable[[str], str]


@pytest.fixture
def known(settings_file: Path, tmp_path: Path) -> Path:
    """The hosted domains as Postfix and as postfix-providers keep them; returns the table of providers."""
    (tmp_path / "hosted_domains").write_text("".join(f"{domain} {name}\n" for domain, name in HOSTED.items()))
    learned = {domain: Known(["mx.google.example"], 1.0, 1.0) for domain, name in HOSTED.items() if name == "gmail"}
    hosted.save(tmp_path / "domains.json", Domains(learned))
    return tmp_path / "providers.json"


@pytest.fixture
def postfix_queue(known: Path, mta, run) -> Answer:
    """What Postfix' own tables say of a message in the queue."""
    etc = mta.root / "etc"
    table = json.loads(known.read_text())["providers"]
    lines = [f"{domain} {provider['name']}:" for provider in table for domain in provider["domains"]]
    # In place of pipemap:{hash:hosted_domains,texthash:provider_transports}: who has left has no transport there.
    lines += [f"{domain} {name}:" for domain, name in HOSTED.items() if name != "gone"]
    (etc / "transport").write_text("".join(f"{line}\n" for line in lines))

    def answer(domain: str) -> str:
        mta.put("4jWDX1GX7zLW0x", to=f"Ada@{domain}")
        name = json.loads(run(queue.main, "list", "--json")[1])[0]["recipients"][0]["provider"]
        assert Providers(postfix.instance("postfix")).of(f"Ada@{domain}") == name
        assert run(queue.main, "list", "--provider", name)[1]
        assert run(queue.main, "list", "--domain", domain)[1]
        return str(name)

    return answer


@pytest.fixture
def postfix_providers_check(known: Path, run, tmp_path: Path) -> Answer:
    where = ("--table", known, "--state", tmp_path / "domains.json")
    return lambda domain: json.loads(run(forecast.main, *where, "check", "--json", domain)[1])[0]["provider"]


@pytest.fixture
def postfix_providers_time(known: Path, run, tmp_path: Path) -> Answer:
    where = ("--table", known, "--state", tmp_path / "domains.json")
    return lambda domain: json.loads(run(forecast.main, *where, "time", "1", "--json", "--domain", domain)[1])[0][
        "provider"
    ]


@pytest.fixture
def bounce_breaker(known: Path, settings_file: Path, run, tmp_path: Path) -> Answer:
    """Whose mailing a storm of refusals pauses."""
    program(tmp_path / "pause", f'echo "$2" >{tmp_path}/paused')

    def answer(domain: str) -> str:
        new = tmp_path / "crm/Maildir/.Incoming/new"
        for part in ("tmp", "new", "cur"):
            (new.parent / part).mkdir(parents=True)
        for number in range(25):
            # By servers of many names: those of one name would be a storm of their own.
            remote = f"mx.c{number}.example"
            message = dsn(f"x{number}@{domain}", "5.7.1", "550 5.7.1 blocked", number + 1, remote=remote)
            (new / f"17000000{number}.M1P1.mx").write_bytes(message)
        assert run(breaker.main, "--config", settings_file, "run")[0] == 0
        return (tmp_path / "paused").read_text().strip()

    return answer


@pytest.fixture
def abuse_report(known: Path, settings_file: Path, run, tmp_path: Path) -> Answer:
    """Whose a complaint is, and whose the deliveries that it is measured by."""

    def answer(domain: str) -> str:
        log = delivery("4jW8WD6NjJzDSVs", verp(queue=300), f"ada@{domain}", "x@mx.example.org")
        (tmp_path / "mail.log").write_text(log)
        report = tmp_path / "report.eml"
        report.write_bytes(arf(newsletter(queue=300)))
        status, said, _ = run(reports.main, "--config", settings_file, "--json", "--metrics", report)
        assert status == 0
        name = json.loads(said)["persons"][0]["provider"]
        text = (tmp_path / "metrics" / "abuse-report.prom").read_text()
        for metric in ("mail_complaints_total", "mail_complaint_base_deliveries_total"):
            assert f'{metric}{{provider="{name}",site="crm",job="7"}} 1\n' in text
        return str(name)

    return answer


@pytest.fixture
def owners(known: Path, tmp_path: Path) -> Answer:
    return Owners(known, tmp_path / "hosted_domains").of


@pytest.mark.parametrize("domain", WHOSE)
@pytest.mark.parametrize(
    "tool",
    ["postfix_queue", "postfix_providers_check", "postfix_providers_time", "bounce_breaker", "abuse_report", "owners"],
)
def test_all_tools_give_one_answer(request: pytest.FixtureRequest, tool: str, domain: str):
    assert request.getfixturevalue(tool)(domain) == WHOSE[domain]


@pytest.mark.parametrize("domain", ["bücher.example", "BÜCHER.example.", "b\u00fccher\u3002example"])
@pytest.mark.parametrize("tool", ["postfix_queue", "postfix_providers_check", "postfix_providers_time", "owners"])
def test_a_domain_that_is_not_ascii_is_the_same_as_its_a_labels(request: pytest.FixtureRequest, tool: str, domain: str):
    """An operator types what a reader has written; one budget holds for both."""
    assert request.getfixturevalue(tool)(domain) == "gmail"


def test_without_a_table_all_is_default(tmp_path: Path):
    """The role mail_tools works without the role postfix_mailing."""
    owners = Owners(tmp_path / "none", tmp_path / "none")
    assert (owners.names, owners.of("ada@gmail.com")) == (["default"], "default")
