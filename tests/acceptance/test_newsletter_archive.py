"""A sent newsletter is a public page that names none of its readers (S37)."""

from __future__ import annotations

import re
import shlex
import time

import pytest
from newsletters import newsletter, run_job

ARCHIVE = "https://newsletter.torproject.test"
EXT = "10.77.0.12"
SSH = (
    "ssh -F /dev/null -i /etc/newsletter-archive.key -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=10 "
    "-o UserKnownHostsFile=/etc/newsletter-archive.known_hosts -o HostKeyAlias=newsletter-archive-target"
)
HTML = """<html><head><style>p{{color:red}}</style></head><body onload="alert(1)">
<p onclick="alert(1)">Dear {{contact.display_name}}, this is number {stamp}. {text}</p><script>alert(1)</script>
<p><a href="https://blog.torproject.test/?p=3&utm_source=news">Read</a>
<a href="https://crm.torproject.test/civicrm/mailing/view?reset=1&id=1&cs=abc_1_2">Yours</a></p>
<p><a href="{{action.unsubscribeUrl}}">Unsubscribe</a> <a href="{{action.optOutUrl}}">Opt out</a> {{domain.address}}</p>
<form action="https://evil.test"><input name="q"></form></body></html>
"""


def send(crm_int, eventually, text: str) -> dict[str, str]:
    """Send a public newsletter to one person and wait until CiviCRM says that it is complete: id and subject."""
    stamp = str(time.time_ns())
    html = shlex.quote(HTML.format(stamp=stamp, text=text))
    crm_int.check_output(f"printf %s {html} >/tmp/newsletter-{stamp}.html")
    command = f"create --group archive-{stamp} --contact archive-{stamp}@accepting.test --subject 'Archive {stamp}'"
    number = newsletter(crm_int, f"{command} --html /tmp/newsletter-{stamp}.html")["mailing"]
    crm_int.check_output(f"rm /tmp/newsletter-{stamp}.html")
    query = f"UPDATE crm.civicrm_mailing SET visibility = 'Public Pages' WHERE id = {number}"  # noqa: S608
    crm_int.check_output(f'mariadb -e "{query}"')

    def complete() -> bool:
        run_job(crm_int, "process-mailing")
        return newsletter(crm_int, f"status --mailing {number}")["status"] == "Complete"

    eventually(complete, within=40, every=1)
    return {"id": str(number), "subject": f"Archive {stamp}", "stamp": stamp}


def publish(crm_int) -> None:
    """Run the archive as its timer would; a run that has begun may have looked too early."""
    unit = "newsletter-archive.service"
    crm_int.check_output(
        f"timeout 60 sh -c 'while [ $(systemctl is-active {unit}) = activating ]; do sleep 0.2; done'; "
        f"systemctl start {unit}"
    )


def listed(crm_int) -> dict[str, str]:
    """{id: what newsletter-archive says of it}."""
    lines = crm_int.check_output("newsletter-archive list").splitlines()
    return dict(line.split("\t", 1) for line in lines)


@pytest.fixture(scope="module")
def published(crm_int, eventually) -> dict[str, str]:
    made = send(crm_int, eventually, "Ordinary words.")
    publish(crm_int)
    return made


@pytest.mark.mutates
def test_a_newsletter_is_read_by_everybody_and_names_nobody(browse, crm_int, published):
    """No password; no token, no hash of the reader, no link that only one reader has, no script."""
    status, index = browse(f"{ARCHIVE}/")
    assert status == 200
    (name,) = re.findall(rf'href="([^"]+)">{published["subject"]}<', index)
    assert name.endswith(f"-{published['id']}.html")
    status, page = browse(f"{ARCHIVE}/{name}")
    assert status == 200
    assert f"Dear reader, this is number {published['stamp']}. Ordinary words." in page
    assert 'href="https://blog.torproject.test/?p=3"' in page
    body = re.split(r"\r?\n\r?\n", page, maxsplit=1)[1]
    assert "Unsubscribe" in body
    for left in (
        "{",
        "civicrm",
        "crm.torproject.test",
        "archive-",
        "<script",
        "alert",
        "onclick",
        "<form",
        "utm_",
        "cs=",
    ):
        assert left not in body, left
    query = "SELECT q.hash FROM crm.civicrm_mailing_event_queue q JOIN crm.civicrm_mailing_job j ON j.id = q.job_id"
    hashes = crm_int.check_output(f'mariadb -NBe "{query} WHERE j.mailing_id = {published["id"]}"').split()
    assert hashes
    assert not [one for one in hashes if one in page]


@pytest.mark.mutates
def test_a_browser_runs_nothing_of_it(browse, published):
    headers = re.split(r"\r?\n\r?\n", browse(f"{ARCHIVE}/")[1], maxsplit=1)[0].lower()
    assert "content-security-policy: default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'" in headers
    for header in ("strict-transport-security: max-age=", "x-content-type-options: nosniff", "x-frame-options: deny"):
        assert header in headers
    assert browse(f"{ARCHIVE}/style.css")[0] == 200
    assert browse(f"{ARCHIVE}/", data="x=1")[0] in (403, 405)


@pytest.mark.mutates
def test_a_newsletter_that_may_name_a_reader_is_kept_back_and_counted(browse, crm_int, eventually, published):
    """The human is told; the others are published all the same, and withdrawing it ends the report."""
    refused = send(crm_int, eventually, "Your address: civicrm+u.1.2.26d7b951968ebe4b@crm.torproject.test")
    publish(crm_int)
    said = listed(crm_int)
    assert re.match(r"refused\t.*an address of CiviMail", said[refused["id"]])
    assert said[published["id"]].startswith("published\t")
    assert refused["subject"] not in browse(f"{ARCHIVE}/")[1]
    metrics = crm_int.check_output("curl -s localhost:9100/metrics")
    assert float(re.search(r"^newsletter_archive_refused (\S+)$", metrics, re.MULTILINE)[1]) >= 1
    crm_int.check_output(f"newsletter-archive withdraw {refused['id']}")
    publish(crm_int)
    assert listed(crm_int)[refused["id"]] == "withdrawn"


@pytest.mark.mutates
def test_a_page_can_be_taken_back(browse, crm_int, eventually, published):
    """What should not have been published is gone from the public within seconds."""
    made = send(crm_int, eventually, "A mistake.")
    publish(crm_int)
    name = listed(crm_int)[made["id"]].split("\t")[1]
    assert "A mistake." in browse(f"{ARCHIVE}/{name}")[1]
    crm_int.check_output(f"newsletter-archive withdraw {made['id']}")
    status, page = browse(f"{ARCHIVE}/{name}")
    assert status == 200 and "Withdrawn" in page and "A mistake." not in page
    assert name not in browse(f"{ARCHIVE}/")[1]


@pytest.mark.mutates
def test_the_key_writes_one_directory_and_does_nothing_else(crm_int, published):
    """No shell, no reading, no deleting, no other directory, no other user."""
    run_as = "runuser -u newsletter-archive --"
    assert crm_int.run(f"{run_as} {SSH} newsletter@{EXT} id").rc != 0
    assert crm_int.run(f"{run_as} {SSH} root@{EXT} id").rc == 255
    rsync = f"{run_as} rsync -e {shlex.quote(SSH)}"
    assert crm_int.run(f"{rsync} newsletter@{EXT}:./index.html /dev/null").rc != 0
    assert crm_int.run(f"{rsync} /etc/hostname newsletter@{EXT}:../../escaped").rc != 0
    assert crm_int.run(f"{rsync} -r --delete /var/lib/newsletter-archive/refused/ newsletter@{EXT}:.").rc != 0


@pytest.mark.mutates
def test_what_is_written_there_is_never_run(browse, crm_ext, published):
    """A key that was stolen from int puts no program on ext."""
    web = "/srv/newsletter/newsletter/web"
    names = ["x.php", ".htaccess", "x.svg", "x.cgi"]
    try:
        for name in names:
            crm_ext.check_output(f"echo '<?php echo 6*7;' >{web}/{name}; chmod 755 {web}/{name}")
            assert browse(f"{ARCHIVE}/{name}")[0] == 404, name
        crm_ext.check_output(f"ln -s /etc/hostname {web}/x.html")
        assert browse(f"{ARCHIVE}/x.html")[0] == 403
        assert browse(f"{ARCHIVE}/")[0] == 200
    finally:
        crm_ext.check_output("cd {} && rm -f {}".format(web, " ".join([*names, "x.html"])))


def test_only_the_archives_user_reaches_exts_ssh_and_only_it_holds_the_key(crm_int):
    """The sites' code reads no key; the archive reads nothing of the sites."""
    probe = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{EXT}/22'"
    assert crm_int.run(f"runuser -u newsletter-archive -- {probe}").rc == 0
    for user in ("crm", "www-data"):
        assert crm_int.run(f"runuser -u {user} -- {probe}").rc != 0
        assert crm_int.run(f"runuser -u {user} -- cat /etc/newsletter-archive.key").rc != 0
    assert crm_int.file("/var/lib/newsletter-archive/state.json").user == "newsletter-archive"
    assert crm_int.run("runuser -u newsletter-archive -- ls /srv/civicrm/crm").rc != 0
    assert crm_int.run("runuser -u newsletter-archive -- cat /etc/lab-civicrm/secrets.php").rc != 0
