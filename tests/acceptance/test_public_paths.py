"""Who got a mailing can read it and leave it without a password; whatever else looks like that meets one (S10)."""

from __future__ import annotations

import base64
import json
import re
import shlex

import pytest
from bypasses import FORMS, METHODS, TARGETS, UNSUBSCRIBE, VIEW
from damaged import beyond_repair, harmless
from newsletters import contact, newsletter, run_job

NAME = "crm.torproject.test"
SITE = f"https://{NAME}"
ADDRESS = "public-paths@accepting.test"

# Sends raw requests, one connection each, and prints the status of each answer; 0 when there is none.
RAW_CLIENT = """
import base64, json, socket, ssl, sys
tls = ssl.create_default_context(cafile='/etc/ssl/lab-ca.pem')
statuses = []
for request in json.loads(sys.stdin.read()):
    with tls.wrap_socket(socket.create_connection((NAME, 443), timeout=20), server_hostname=NAME) as connection:
        connection.sendall(base64.b64decode(request))
        line = connection.makefile('rb').readline().split()
    statuses.append(int(line[1]) if len(line) > 1 else 0)
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def raw(world):
    """A function (requests) -> statuses: what curl would put right is sent as it stands."""

    def _raw(requests: list[str]) -> list[int]:
        encoded = json.dumps([base64.b64encode(request.encode("latin-1")).decode() for request in requests])
        script = RAW_CLIENT.replace("NAME", repr(NAME))
        return json.loads(world.check_output(f"printf %s {shlex.quote(encoded)} | python3 -c {shlex.quote(script)}"))

    return _raw


@pytest.fixture(scope="module")
def links(crm_int):
    """The links of a mailing that one contact got: {"unsubscribe": path and query, "optout": ..., "view": ...}."""
    mailing = newsletter(crm_int, f"create --group public-paths --contact {ADDRESS}")["mailing"]
    run_job(crm_int, "process-mailing")
    (recipient,) = newsletter(crm_int, f"status --mailing {mailing}")["recipients"]
    person = "reset=1&jid={job_id}&qid={queue_id}&h={hash}".format(
        hash=recipient["envelope_sender"].split("@")[0].rsplit(".", 1)[1], **recipient
    )
    return {
        "unsubscribe": f"{UNSUBSCRIBE}?{person}",
        "optout": f"/civicrm/mailing/optout/?{person}",
        "view": f"/civicrm/mailing/view/?reset=1&id={mailing}",
        "open": f"/civicrm/mailing/open/?qid={recipient['queue_id']}",
    }


def passed_to_int(crm_int) -> int:
    """Return how many requests of the site int has seen."""
    return int(crm_int.check_output("wc -l < /var/log/apache2/crm.log"))


def request(target: str, method: str = "GET", *headers: str, body: str = "") -> str:
    """Return a raw request for the site that closes the connection."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {NAME}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body])


@pytest.mark.mutates
@pytest.mark.parametrize(
    "option", [{}, {"http1.0": ""}, {"header": "Content-Length: 0"}], ids=["1.1", "1.0", "length 0"]
)
@pytest.mark.parametrize("name", ["unsubscribe", "optout", "view", "open"])
def test_links_of_a_mailing_answer_without_a_password(browse, links, name, option):
    image = {"head": ""} if name == "open" else {}
    status, answer = browse(SITE + links[name], **option, **image)
    assert status == 200, answer
    wanted = {"view": "Lab newsletter", "open": "image/gif"}.get(name, "email_confirm")
    assert wanted in answer


@pytest.mark.mutates
def test_all_that_the_unsubscribe_page_loads_is_public(browse, raw, links):
    """One style sheet behind the password, and each recipient who wants to leave sees a password prompt."""
    _, page = browse(SITE + links["unsubscribe"])
    loaded = re.findall(rf"""<(?:script|link rel=["']stylesheet["'])[^>]*(?:src|href)=["']{SITE}([^"']+)""", page)
    assert len(loaded) > 10
    targets = [target.replace("&amp;", "&").replace("&#038;", "&") for target in loaded]
    statuses = dict(zip(targets, raw([request(target) for target in targets]), strict=True))
    assert {target: status for target, status in statuses.items() if status != 200} == {}


@pytest.mark.mutates
def test_a_recipient_leaves_by_the_form_without_a_password(browse, crm_int, links):
    """The whole way, as a browser goes it: the page, its form, the confirmation; and CiviCRM knows."""
    assert contact(crm_int, ADDRESS)["groups"] == ["public-paths"]
    jar = {"cookie-jar": "/tmp/public-paths-cookies", "cookie": "/tmp/public-paths-cookies"}
    _, page = browse(SITE + links["unsubscribe"], **jar | {"cookie": "none=1"})
    key = re.search(r'name="qfKey" type="hidden" value="([^"]+)"', page)[1]
    form = f"qfKey={key}&_qf_default=Unsubscribe%3Anext&email_confirm={ADDRESS}&_qf_Unsubscribe_next=1"
    status, answer = browse(SITE + UNSUBSCRIBE, data=form, **jar)
    assert status == 302, answer
    confirmation = re.search(r"(?im)^location: (\S+)", answer)[1]
    assert browse(confirmation, **jar)[0] == 200
    assert contact(crm_int, ADDRESS)["groups"] == []


def test_every_bypass_meets_the_password_and_never_reaches_int(raw, crm_int):
    """By path, by query, by encoding, by method: one request line that is not on the list is not public."""
    before = passed_to_int(crm_int)
    attempts = [("GET", target) for target in TARGETS] + METHODS
    statuses = raw([request(target, method) for method, target in attempts])
    assert len(attempts) >= 80
    answers = dict(zip(attempts, statuses, strict=True))
    assert {attempt: status for attempt, status in answers.items() if status not in (400, 401, 403, 404, 501)} == {}
    assert statuses.count(401) > len(statuses) / 2
    assert passed_to_int(crm_int) == before


@pytest.mark.mutates
def test_a_damaged_link_still_leads_to_its_page(browse, links):
    """A full stop or HTML's ampersand, and the reader met a password prompt: the next button is the one for spam."""
    for what, variant in harmless(links["optout"]).items():
        status, answer = browse(SITE + variant, **{"path-as-is": "", "globoff": ""})
        assert (status, re.search(r"(?im)^location: (\S+)", answer)[1]) == (302, SITE + links["optout"]), what
    status, answer = browse(f"{SITE}{links['optout']}.", location="")
    assert (status, "email_confirm" in answer) == (200, True), answer


@pytest.mark.mutates
def test_a_link_that_cannot_be_mended_shows_a_page_that_helps(browse, crm_int, links, front_door):
    """Without a password, and int never hears of it; who gives one goes on as before."""
    before = passed_to_int(crm_int)
    for what, variant in beyond_repair(links["optout"]).items():
        status, answer = browse(SITE + variant)
        assert (status, "This link is damaged" in answer) == (404, True), what
        assert "www-authenticate" not in answer.lower(), what
    assert passed_to_int(crm_int) == before
    browse(SITE + beyond_repair(links["optout"])["an unknown parameter"], user=front_door)
    assert passed_to_int(crm_int) == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        ["X-HTTP-Method-Override: DELETE"],
        ["X-Original-URL: /civicrm/dashboard"],
        ["X-Rewrite-URL: /civicrm/dashboard"],
        ["X-Front-Door: password"],
        ["X-Forwarded-Host: evil.test", "X-Forwarded-Proto: http"],
        ["Connection: X-Front-Door, X-Forwarded-For"],
    ],
    ids=str,
)
def test_no_header_turns_a_public_path_into_another(raw, browse, crm_int, links, headers):
    """A client's header neither chooses the path nor takes away the mark that int looks at."""
    extra = {"header": headers[0], "http1.1": ""}
    status, answer = browse(SITE + links["view"], **extra)
    assert (status, "Lab newsletter" in answer) == (200, True)
    last = crm_int.check_output("tail -n 1 /var/log/apache2/crm.log")
    assert f"{links['view']} HTTP" in last
    assert last.split()[2] == "view", "int did not know that the path was public"
    (status,) = raw([request("/civicrm/dashboard/", "GET", *headers)])
    assert status == 401


@pytest.mark.parametrize(("content_type", "body"), FORMS)
def test_no_field_of_a_form_chooses_another_route(raw, crm_int, content_type, body):
    """WordPress takes a route from a posted field first; int lets only the form's own fields in."""
    headers = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    assert raw([request(UNSUBSCRIBE, "POST", *headers, body=body)]) == [403]


@pytest.mark.parametrize("headers", [["Content-Length: 3"], ["Transfer-Encoding: chunked"]], ids=str)
def test_a_get_with_a_body_is_not_public(raw, crm_int, headers):
    before = passed_to_int(crm_int)
    body = "a=b" if "Length" in headers[0] else "3\r\na=b\r\n0\r\n\r\n"
    assert raw([request(VIEW, "GET", *headers, body=body)]) == [401]
    assert passed_to_int(crm_int) == before


def test_a_style_sheet_that_does_not_exist_is_no_route(browse):
    """Else every such name would start the CMS."""
    status, answer = browse(f"{SITE}/wp-content/themes/no-such-theme/style.css")
    assert (status, "<html lang" in answer) == (404, False)


@pytest.mark.parametrize("name", ["staging.crm.torproject.test", "test.crm.torproject.test"])
def test_staging_and_test_have_no_public_paths(browse, name):
    """Their mail reaches people who have the password."""
    assert browse(f"https://{name}{VIEW}")[0] == 401


@pytest.mark.mutates
def test_int_says_which_requests_were_public(browse, front_door, crm_int, crm_ext, links):
    """Both hosts' logs tell a visitor from a person who gave a password."""
    browse(SITE + links["view"])
    browse(SITE + links["view"], user=front_door)
    for host in (crm_int, crm_ext):
        lines = host.check_output("tail -n 2 /var/log/apache2/crm.log").splitlines()
        assert [line.split()[2] for line in lines] == ["view", "view"]
    browse(f"{SITE}/wp-login.php", user=front_door)
    assert crm_int.check_output("tail -n 1 /var/log/apache2/crm.log").split()[2] == "-"
    assert crm_ext.check_output("tail -n 1 /var/log/apache2/crm.log").split()[2:4] == ["-", "alice"]
