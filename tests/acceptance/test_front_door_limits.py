"""Ten wrong passwords shut a stranger out; neither a colleague behind the same address nor a donor notices (P13)."""

from __future__ import annotations

import re
import time

import pytest

pytestmark = pytest.mark.web

SITE = "https://crm.torproject.test"
LOGIN = f"{SITE}/wp-login.php"
VIEW = f"{SITE}/civicrm/mailing/view/?reset=1&id="
DONATE = "https://donate-api.torproject.test/"


@pytest.fixture
def addresses(world, crm_ext, eventually):
    """Two addresses outside that nobody ever logged in from; afterwards nobody is refused any more."""
    network = re.search(r"inet (\d+\.\d+\.\d+)\.\d+/24", world.check_output("ip -4 -o address show scope global"))[1]
    device = world.check_output("ip -4 -o route get 198.18.0.1").split(" dev ")[1].split()[0]
    found = [f"{network}.{number}" for number in (241, 242)]
    # Jails that start anew forget what was counted so far.
    crm_ext.check_output("fail2ban-client reload --restart --unban")
    for address in found:
        world.check_output(f"ip address replace {address}/24 dev {device}")
        # Written over and not replaced: Apache holds the file open.
        log = "/var/log/apache2/front-door-logins.log"
        crm_ext.check_output(f"kept=$(sed '/ {address}=/d' {log}) && printf '%s\\n' \"$kept\" > {log}")
    yield found
    crm_ext.check_output("fail2ban-client unban --all")
    for address in found:
        world.check_output(f"ip address delete {address}/24 dev {device}")


@pytest.fixture
def bob(vault):
    return f"bob:{vault['vault_people']['bob']['password']}"


def guess(world, address: str, name: str, times: int, url: str = LOGIN) -> list[int]:
    """Return the answers to that many wrong passwords."""
    curl = "curl -s --connect-timeout 1 -o /dev/null -w '%{http_code} ' --cacert /etc/ssl/lab-ca.pem"
    curl += f" --interface {address}"
    statuses = world.run(f"for n in $(seq {times}); do {curl} -u {name}:wrong$n {url}; done").stdout
    return [int(status) for status in statuses.split()]


@pytest.mark.mutates
def test_ten_wrong_passwords_shut_a_stranger_out(browse, world, addresses, front_door, eventually):
    """Refused before a password is looked at, the right one included; what is public and the donation API stay open."""
    stranger, elsewhere = addresses
    assert set(guess(world, stranger, "alice", 9)) == {401}
    assert browse(LOGIN, user="alice:wrong", interface=stranger)[0] == 401
    # Asked without a password: a right one would make the stranger a colleague.
    eventually(lambda: browse(LOGIN, interface=stranger)[0] == 429, within=20)
    assert browse(LOGIN, user=front_door, interface=stranger)[0] == 429
    status, answer = browse(LOGIN, interface=stranger)
    assert status == 429
    assert "retry-after: 600" in answer.lower()
    assert browse(f"{SITE}/civicrm/mailing/open/?qid=", interface=stranger, head="")[0] == 200
    assert browse(DONATE, interface=stranger)[0] == 200
    assert browse(LOGIN, user=front_door, interface=elsewhere)[0] == 200


@pytest.mark.mutates
def test_nine_wrong_passwords_are_forgiven(browse, world, addresses, front_door):
    assert set(guess(world, addresses[0], "alice", 9)) == {401}
    time.sleep(3)  # fail2ban has read them by then: nothing tells that it has
    assert browse(LOGIN, user=front_door, interface=addresses[0])[0] == 200


@pytest.mark.mutates
def test_a_colleague_behind_the_same_address_is_not_refused(browse, world, addresses, bob, front_door, eventually):
    """Where somebody logged in, only the login that was guessed at is refused, there alone; a new colleague gets in."""
    office, elsewhere = addresses
    assert browse(LOGIN, user=bob, interface=office)[0] == 200
    guess(world, office, "alice", 12)
    eventually(lambda: browse(LOGIN, user=front_door, interface=office)[0] == 429, within=20)
    assert browse(LOGIN, user=bob, interface=office)[0] == 200
    assert browse(LOGIN, interface=office)[0] == 401
    assert browse(LOGIN, user=front_door, interface=elsewhere)[0] == 200


@pytest.mark.mutates
def test_a_path_or_another_host_does_not_hide_the_failures(world, crm_ext, addresses, browse, eventually):
    """They count together, whatever was asked for, and whatever headers say."""
    for number in range(10):
        name = ("crm", "staging.crm", "test.crm")[number % 3]
        guess(world, addresses[0], f"user{number}", 1, f"-H 'X-Front-Door: x' https://{name}.torproject.test/{number}")
    eventually(lambda: browse(LOGIN, interface=addresses[0])[0] == 429, within=20)


@pytest.mark.mutates
def test_who_goes_on_is_dropped_by_the_packet_filter(world, crm_ext, addresses, browse, eventually, bob):
    """An answer costs a TLS handshake; a flood gets none, from the flooder's own address alone."""
    stranger, elsewhere = addresses
    guess(world, stranger, "alice", 10)
    eventually(lambda: browse(LOGIN, interface=stranger)[0] == 429, within=20)
    guess(world, stranger, "alice", 55)
    drops = "nft list set inet f2b-table addr-set-civicrm-flood"
    eventually(lambda: stranger in crm_ext.run(drops).stdout, within=20)
    assert browse(LOGIN, interface=stranger, connect_timeout="3")[0] == 0
    assert browse(LOGIN, user=bob, interface=elsewhere)[0] == 200


@pytest.mark.mutates
def test_an_ipv6_network_is_dropped_but_for_the_admin_and_monitoring(crm_ext, eventually):
    """The first ban makes the rule, which a shell reads: until then nothing shows whether it can be made."""
    network = "2001:db8:ffff:1::"
    crm_ext.check_output(f"fail2ban-client set civicrm-flood banip {network}")
    try:
        drops = "nft list set inet f2b-table addr6-set-civicrm-flood"
        eventually(lambda: network in crm_ext.run(drops).stdout, within=20)
        rules = crm_ext.check_output("nft list chain inet f2b-table f2b-chain").splitlines()
        (rule,) = [line for line in rules if "@addr6-set-civicrm-flood" in line]
        # Newer releases of nft print the comparison.
        assert "ip6 saddr & ffff:ffff:ffff:ffff:: @addr6-set-civicrm-flood" in rule.replace("== @", "@")
        assert "ip6 saddr != fd77::13" in rule
    finally:
        crm_ext.check_output(f"fail2ban-client set civicrm-flood unbanip {network}")


@pytest.mark.parametrize("jail", ["address", "login", "flood"])
def test_monitoring_and_the_admin_are_never_refused(crm_ext, jail):
    """The jails' own answer; what the inventory names stands in it."""
    ignored = crm_ext.check_output(f"fail2ban-client get civicrm-{jail} ignoreip")
    assert {"198.51.100.1", "10.77.0.13", "fd77::13"} <= set(re.findall(r"[0-9a-f.:]{7,}", ignored)), ignored


@pytest.mark.alone
@pytest.mark.mutates
def test_public_pages_are_limited_per_address(world, browse, addresses, front_door):
    """A flood of public pages ends at ext with 429; logins from that address go on, and so do other addresses."""
    office, elsewhere = addresses
    answers = world.check_output(
        f"curl -s --interface {office} --cacert /etc/ssl/lab-ca.pem -o /dev/null -w '%{{http_code}} ' '{VIEW}[1-80]'"
    ).split()
    assert answers.count("429") >= 15, answers
    assert browse(LOGIN, user=front_door, interface=office)[0] == 200
    assert browse(f"{VIEW}1", interface=elsewhere)[0] != 429
