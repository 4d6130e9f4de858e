"""Who got a mailing leaves it with one click, although the CRM is private (N4, N5)."""

from __future__ import annotations

import email
import re
import time

import pytest
from newsletters import ledger, newsletter, run_job

SITE = "https://crm.torproject.test"
FORM = "List-Unsubscribe=One-Click"


def membership(crm_int, address: str) -> str:
    """What CiviCRM says of the person's place on the mailing list: Added or Removed."""
    query = "SELECT DISTINCT g.status FROM crm.civicrm_group_contact g JOIN crm.civicrm_email e USING (contact_id)"
    return crm_int.check_output(f"mariadb -NBe \"{query} WHERE e.email = '{address}'\"")


def submitted(crm_ext, person: str) -> int:
    """How many mails for an unsubscribe address ext has taken: in its queue, or in its log as sent."""
    queued = crm_ext.check_output("postqueue -j").count(f"+{person}@")
    return queued + int(crm_ext.run(f"grep -c '+{person}@.*status=sent' /var/log/mail.log").stdout)


@pytest.fixture(scope="module")
def readers(crm_int, world, eventually) -> dict[str, str]:
    """{address: one-click URL} of four persons who got a newsletter."""
    stamp = time.time_ns()
    people = [f"{name}-{stamp}@accepting.test" for name in ("ada", "bob", "eve", "joe")]
    newsletter(crm_int, f"create --group one-click-{stamp} " + " ".join(f"--contact {person}" for person in people))
    run_job(crm_int, "process-mailing")
    urls = {}
    for person in people:
        entry = eventually(lambda p=person: ledger(world, recipient=p), within=60)[0]
        message = email.message_from_string(world.file(entry["message"]).content_string)
        assert message.get_all("List-Unsubscribe-Post") == [FORM]
        (header,) = message.get_all("List-Unsubscribe")
        https, mailto = re.fullmatch(r"<(https://\S+)>,\s*<mailto:(\S+)>", header).groups()
        assert https.rsplit("/", 1)[1] in mailto
        urls[person] = https
    return urls


def gone(crm_int, address: str) -> bool:
    run_job(crm_int, "fetch-bounces")
    return membership(crm_int, address) == "Removed"


@pytest.mark.mutates
@pytest.mark.parametrize("options", [{}, {"head": ""}], ids=["get", "head"])
def test_looking_changes_nothing(browse, crm_int, crm_ext, readers, options):
    """Link scanners ask for every address in a mail; only a person's or a mail program's POST counts (N5)."""
    person, url = next(iter(readers.items()))
    status, answer = browse(url, **options)
    assert status == 200
    assert not re.search(r"(?im)^(set-cookie|location):", answer)
    assert ('method="post"' in answer) == (not options)
    assert browse(f"{url}?{FORM}")[0] == 404, "the page that helps"
    assert submitted(crm_ext, url.rsplit("/", 1)[1]) == 0
    assert membership(crm_int, person) == "Added"


@pytest.mark.mutates
def test_a_post_takes_one_person_off_the_list(browse, crm_int, readers, eventually):
    """No password, no cookie, no redirect; CiviCRM itself does it, from the mail to its own address (N4)."""
    person, url = next(iter(readers.items()))
    status, answer = browse(url, data=FORM)
    assert status == 200, answer
    assert not re.search(r"(?im)^(set-cookie|location|www-authenticate):", answer)
    eventually(lambda: gone(crm_int, person), within=60, every=2)
    assert {membership(crm_int, other) for other in list(readers)[1:]} == {"Added"}


@pytest.mark.mutates
def test_a_mail_programs_other_form_is_taken_as_well(browse, crm_int, crm_ext, readers, eventually):
    """RFC 8058 allows multipart/form-data; and a program may post twice, which is one mail (N4)."""
    person, url = list(readers.items())[1]
    for _ in range(2):
        assert browse(url, form=FORM)[0] == 200
    eventually(lambda: gone(crm_int, person), within=60, every=2)
    assert submitted(crm_ext, url.rsplit("/", 1)[1]) == 1


@pytest.mark.mutates
def test_while_the_link_is_down_it_is_accepted_and_applied_later(browse, crm_int, crm_ext, readers, eventually):
    """Providers do not try again: 200 means that it will happen (N5)."""
    person, url = list(readers.items())[2]
    crm_ext.check_output("systemctl stop strongswan.service")
    try:
        assert browse(url, data=FORM)[0] == 200
        eventually(lambda: url.rsplit("/", 1)[1] in crm_ext.check_output("postqueue -j"), within=20)
        assert membership(crm_int, person) == "Added"
    finally:
        crm_ext.check_output("systemctl start strongswan.service")
    eventually(lambda: "INSTALLED" in crm_ext.run("swanctl --list-sas").stdout, within=30)

    def applied() -> bool:
        # Postfix would try again by itself within minutes.
        crm_ext.check_output("postqueue -f")
        return gone(crm_int, person)

    eventually(applied, within=60, every=2)


@pytest.mark.mutates
def test_a_wrong_hash_changes_nothing_and_is_not_told(browse, crm_int, crm_ext, readers, eventually):
    """Else anybody could take people off the list, or find out who is on it (N5)."""
    person, url = list(readers.items())[3]
    wrong = url[:-16] + "".join("1" if digit == "0" else "0" for digit in url[-16:])
    asked, forged = browse(url.replace(url[-16:], wrong[-16:])), browse(wrong, data=FORM)
    assert (asked[0], forged[0]) == (200, 200)
    eventually(lambda: wrong.rsplit("/", 1)[1] in crm_int.check_output("grep 'status=sent' /var/log/mail.log"))
    run_job(crm_int, "fetch-bounces")
    assert membership(crm_int, person) == "Added"
    # The right one is answered with the same words.
    right = browse(url, data=FORM)
    assert right[1].split("\r\n\r\n", 1)[1] == forged[1].split("\r\n\r\n", 1)[1]


@pytest.mark.mutates
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/one-click/b.1.2.0123456789abcdef"),
        ("POST", "/one-click/o.1.2.0123456789abcdef"),
        ("POST", "/one-click/u.1.2.0123456789ABCDEF"),
        ("POST", "/one-click/u.01.2.0123456789abcdef"),
        ("POST", "/one-click/u.1.2.0123456789abcdef/"),
        ("POST", "/one-click/u.1.2.0123456789abcdef?x=1"),
        ("POST", "/one-click/u%2e1.2.0123456789abcdef"),
        ("GET", "/one-click/"),
        ("GET", "/one-click/index.php"),
        ("PUT", "/one-click/u.1.2.0123456789abcdef"),
        ("GET", "/one-clickx"),
        ("GET", "/"),
    ],
)
def test_every_other_path_meets_the_password(browse, method, path):
    body = {"data": FORM} if method != "GET" else {}
    status, answer = browse(SITE + path, request=method, **body)
    near = method == "GET" and path.startswith("/one-click/")
    assert (status, "This link is damaged" in answer) == ((404, True) if near else (401, False))


@pytest.mark.mutates
def test_a_site_that_sends_to_nobody_has_no_such_path(browse):
    assert browse("https://staging.crm.torproject.test/one-click/u.1.2.0123456789abcdef", data=FORM)[0] == 401


@pytest.mark.mutates
def test_a_body_that_asks_for_nothing_or_for_too_much_is_refused(browse):
    url = f"{SITE}/one-click/u.1.2.0123456789abcdef"
    assert browse(url, data="unsubscribe=1")[0] == 400
    assert browse(url, data=f"{FORM}&x={'a' * 40000}")[0] == 400


@pytest.mark.mutates
def test_what_postfix_does_not_take_is_not_answered_with_success(browse, crm_ext):
    """A 200 that was lost is a person who gets more mail, and reports it as spam (N4)."""
    url = f"{SITE}/one-click/u.1.2.0123456789abcdef"
    crm_ext.check_output("cp -p /etc/postfix/main.cf /run/acceptance-main.cf")
    try:
        crm_ext.check_output("postconf -e authorized_submit_users=root")
        status, answer = browse(url, data=FORM)
        assert status == 503
        assert "not" in answer
        assert re.search(r"(?im)^retry-after: ", answer)
    finally:
        crm_ext.check_output("cp -p /run/acceptance-main.cf /etc/postfix/main.cf && rm /run/acceptance-main.cf")


@pytest.mark.mutates
@pytest.mark.alone
def test_while_postfix_does_not_run_a_post_is_refused_and_seen(browse, crm_ext, readers):
    """It was answered 200, and the wish waited unseen (N5, N51)."""
    url = list(readers.values())[3]
    crm_ext.check_output("systemctl stop postfix.service")
    try:
        status, answer = browse(url, data=FORM)
        crm_ext.check_output("systemctl start one-click-metrics.service")
        text = crm_ext.file("/var/lib/prometheus/node-exporter/postfix_queues.prom").content_string
    finally:
        crm_ext.check_output("systemctl start postfix.service")
    assert status == 503, answer
    assert 'postfix_up{postfix_instance="postfix"} 0' in text
    assert browse(url, data=FORM)[0] == 200
    crm_ext.check_output("systemctl start one-click-metrics.service")
    text = crm_ext.file("/var/lib/prometheus/node-exporter/postfix_queues.prom").content_string
    assert 'postfix_up{postfix_instance="postfix"} 1' in text
    assert 'postfix_queue_length{postfix_instance="postfix",queue="hold"} 0' in text
