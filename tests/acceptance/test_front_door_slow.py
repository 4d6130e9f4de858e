"""Slow and greedy clients hold nobody up: a worker of PHP is there for whoever has sent a request (N48)."""

from __future__ import annotations

import base64
import json
import time
import uuid
from contextlib import ExitStack

import pytest
from slow_clients import slow_clients

pytestmark = [pytest.mark.alone, pytest.mark.mutates]

CRM = "crm.torproject.test"
TEST = "test.crm.torproject.test"
API = "test.donate-api.torproject.test"
ONE_CLICK = "/one-click/u.1.2.0123456789abcdef"
FORM = "application/x-www-form-urlencoded"
# Two addresses outside.
GREEDY = ("198.51.100.24", "198.51.100.25")
SOON = 5.0  # seconds in which others must be served; idle, it takes a tenth of one


def post(host: str, path: str, content_type: str, size: int, *headers: str) -> bytes:
    """Return the beginning of a POST whose body is to come; of unknown size, in chunks, where size is 0."""
    length = f"Content-Length: {size}" if size else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {content_type}", length, *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
def served(browse):
    """A function (url, **curl options): others get their answer soon."""

    def _served(url: str, user: str | None = None, status: int = 200, **options: str) -> str:
        start = time.monotonic()
        found, answer = browse(url, user=user, max_time="15", **options)
        took = time.monotonic() - start
        assert (found, took < SOON) == (status, True), f"{url}: {found} after {took:.1f} s"
        return answer

    return _served


@pytest.fixture
def authorization(front_door):
    return f"Authorization: Basic {base64.b64encode(front_door.encode()).decode()}"


# Each from an address of its own, as public forms are limited to so many a minute.
@pytest.mark.parametrize(
    ("size", "source"),
    [(0, "198.51.100.24"), (2000, "198.51.100.25"), (60000, "198.51.100.26")],
    ids=["chunked", "small", "large"],
)
def test_slow_senders_silence_nobody(served, front_door, authorization, size, source):
    """Twenty each at the donation API, one-click, a public form and behind the password: more than PHP has workers."""
    drip = b"1\r\n \r\n" if not size else b" "
    kinds = [
        post(API, "/donations", "application/json", size),
        post(CRM, ONE_CLICK, FORM, size),
        post(CRM, "/civicrm/mailing/unsubscribe/", FORM, size),
        post(CRM, "/wp-login.php", FORM, size, authorization),
    ]
    with ExitStack() as stack:
        sites = [API, CRM, CRM, CRM]
        calls = [slow_clients(site, head, drip, source=source) for site, head in zip(sites, kinds, strict=True)]
        held = [stack.enter_context(call) for call in calls]
        time.sleep(2)
        for _ in range(2):
            served(f"https://{API}/")
            served(f"https://{CRM}{ONE_CLICK}")
            served(f"https://{CRM}/civicrm/mailing/view/?reset=1&id=1")
            served(f"https://{CRM}/wp-login.php", user=front_door)
    assert [(one["opened"], one["left"]) for one in held] == [(20, 20)] * len(kinds), "the senders gave up"


def test_slow_readers_silence_nobody(served, front_door, authorization, crm_int):
    """PHP is done with an answer of a megabyte when Apache has it, however slowly it is read."""
    probe = "/srv/civicrm/test-crm/web/slow-reader-probe.php"
    crm_int.check_output(f"echo '<?php echo str_repeat(\"x\", 1000000);' >{probe}")
    head = f"GET /slow-reader-probe.php HTTP/1.1\r\nHost: {TEST}\r\n{authorization}\r\n\r\n".encode()
    try:
        with slow_clients(TEST, head, window=4096, count=40) as held:
            time.sleep(2)
            for _ in range(3):
                served(f"https://{TEST}/", user=front_door)
        assert held["left"] == 40
    finally:
        crm_int.check_output(f"rm {probe}")


def test_one_address_does_not_take_all_connections(served):
    """What it has beyond the limit is refused, and others get theirs."""
    greedy, other = GREEDY
    with slow_clients(CRM, b"GET / HTTP/1.1\r\n", b"x", count=270, source=greedy) as held:
        assert 240 <= held["opened"] <= 250
        served(f"https://{API}/", interface=other)


@pytest.fixture
def network(world, crm_ext):
    """Networks that are the world's, as a person at home has one: their first 48 bits; and ext's address."""
    prefix, ext = "fd66:0:0", "fd67::12"
    own = world.check_output("ip -6 -o address show dev eth0 scope link").split()[3].split("/")[0]
    world.check_output(
        f"ip -6 route replace local {prefix}::/48 dev lo; ip -6 route replace {ext} dev eth0; "
        f"ip -6 address replace {prefix}:2::1/128 dev lo"
    )
    crm_ext.check_output(
        f"ip -6 address replace {ext}/128 dev eth0 nodad; ip -6 route replace {prefix}::/48 via {own} dev eth0"
    )
    yield prefix, ext
    crm_ext.check_output(f"ip -6 route delete {prefix}::/48 dev eth0; ip -6 address delete {ext}/128 dev eth0")
    world.check_output(
        f"ip -6 route delete local {prefix}::/48 dev lo; ip -6 route delete {ext} dev eth0; "
        f"ip -6 address delete {prefix}:2::1/128 dev lo"
    )


def test_a_network_of_64_bits_counts_as_one(served, network):
    """Who has one has more addresses than anybody could count; the network beside it is somebody else's."""
    prefix, ext = network
    greedy = f"{prefix}:{1000 + int(time.time()) % 8000}::"  # of which no earlier run has taken its share
    with slow_clients(CRM, b"GET / HTTP/1.1\r\n", b"x", count=420, source=greedy, at=ext) as held:
        assert 240 <= held["opened"] <= 360, "250, and ten more in each second that it took"
        served(f"https://{API}/", interface=f"{prefix}:2::1", resolve=f"{API}:443:[{ext}]")


@pytest.mark.parametrize("kind", ["donation", "one-click", "form"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_the_public_has_a_limit(browse, kind, chunked):
    """What is larger ends at ext, and reaches no PHP there or on int."""
    url = {
        "donation": f"https://{API}/donations",
        "one-click": f"https://{CRM}{ONE_CLICK}",
        "form": f"https://{CRM}/civicrm/mailing/unsubscribe/",
    }[kind]
    options = {"header": "Transfer-Encoding: chunked"} if chunked else {}
    status, answer = browse(url, data="x" * 70000, **options)
    assert status == (400 if chunked else 413)
    if kind == "donation" and not chunked:
        assert json.loads(answer.strip().rpartition("\n")[2])["error"]["code"] == "too_large"


def test_a_large_body_in_chunks_arrives_whole(browse, front_door, crm_int):
    """PHP reads as much as it is told to come: without a length, that was nothing."""
    probe = "/srv/civicrm/test-crm/web/body-probe.php"
    crm_int.check_output(f"echo '<?php echo strlen(file_get_contents(\"php://input\"));' >{probe}")
    try:
        options = {"header": "Transfer-Encoding: chunked", "data": "x" * 100000}
        status, answer = browse(f"https://{TEST}/body-probe.php", user=front_door, **options)
        assert (status, answer.strip().rpartition("\n")[2]) == (200, "100000")
    finally:
        crm_int.check_output(f"rm {probe}")


@pytest.fixture
def upload(browse, world, front_door, crm_int):
    """A function (MiB) -> (status, the answer's last line) of a file that somebody with a password sends the CRM.

    The CRM's answer is the length that PHP was told.
    """
    probe, body = "/srv/civicrm/test-crm/web/upload-probe.php", "/tmp/upload-probe"
    crm_int.check_output(f"echo '<?php echo $_SERVER[\"CONTENT_LENGTH\"];' >{probe}")

    def _upload(size: int) -> tuple[int, str]:
        world.check_output(f"head -c {size * 1024 * 1024} /dev/zero >{body}")
        options = {"header": "Content-Type: application/octet-stream", "data_binary": f"@{body}", "max_time": "180"}
        status, answer = browse(f"https://{TEST}/upload-probe.php", user=front_door, **options)
        return status, answer.strip().rpartition("\n")[2]

    yield _upload
    crm_int.check_output(f"rm {probe}")
    world.check_output(f"rm -f {body}")


@pytest.mark.parametrize("size", [2, 31])
def test_a_colleagues_file_reaches_the_crm(upload, size):
    """Through both hosts, each of which puts it on the disk first; PHP's own limits come after that."""
    assert upload(size) == (200, str(size * 1024 * 1024))


def test_a_colleagues_file_has_a_limit(upload):
    """civicrm_ext_upload_max_mb, 32 in the lab."""
    assert upload(33)[0] == 413


def test_a_donation_in_chunks_is_taken_whole(browse):
    """Not read as nothing: it is refused for its size, and not as no JSON."""
    body = {"idempotency_key": str(uuid.uuid4()), "note": "x" * 17000}
    data = json.dumps(body).replace('"', '\\"')
    _, answer = browse(f"https://{API}/donations", header="Transfer-Encoding: chunked", json=data)
    assert json.loads(answer.strip().rpartition("\n")[2])["error"]["code"] == "too_large"
