"""CiviMail's addresses, both generations: read exactly, written only in today's form (S43-S48)."""

from __future__ import annotations

import pytest
from contract_addresses import DOMAIN, HASH, NONE, READ_ONLY, TODAY
from hypothesis import example, given, settings
from hypothesis import strategies as st

from civicrm_tools.mail import addresses as contract
from civicrm_tools.mail.addresses import Address, Generation, Verb

DOMAINS = {DOMAIN, "old.example.org"}
addresses = st.builds(
    Address,
    verb=st.sampled_from([verb for verb in Verb if verb is not Verb.SUBSCRIBE]),
    job=st.integers(1, contract.ID_LIMIT - 1),
    queue=st.integers(1, contract.ID_LIMIT - 1),
    hash=st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=16, max_size=16),
    domain=st.sampled_from(sorted(DOMAINS)),
)


@pytest.mark.parametrize("text", TODAY)
def test_todays_addresses_are_read_and_written_the_same(text):
    """The address that goes back to CiviCRM is the one that it made; only the domain's case may differ."""
    address = contract.parse(text, domains=DOMAINS)
    assert address.generation is Generation.TODAY
    local, _, domain = text.rpartition("@")
    assert contract.format(address) == f"{local}@{domain.lower()}"


@pytest.mark.parametrize("text", READ_ONLY)
def test_old_addresses_are_read(text):
    address = contract.parse(text, domains=DOMAINS)
    assert address is not None
    assert address.domain == DOMAIN


@pytest.mark.parametrize("text", NONE)
def test_nothing_else_is_an_address(text):
    """One letter off is another person or nobody: never unsubscribe on it."""
    assert contract.parse(text, domains=DOMAINS) is None


def test_every_field_is_told():
    """A complaint about a mailing of 2006 still names job, queue and person."""
    old = contract.parse(f"bounce.1.22.333.{HASH}-first.last=example.net@{DOMAIN}", domains=DOMAINS)
    assert old == Address(
        Verb.BOUNCE, 22, 333, HASH, DOMAIN, Generation.WORDS_2006, domain_id=1, recipient="first.last@example.net"
    )
    assert contract.format(old.to(Verb.OPT_OUT)) == f"civicrm+o.22.333.{HASH}@{DOMAIN}"
    group = contract.parse(f"subscribe.1.7@{DOMAIN}", domains=DOMAINS)
    assert (group.verb, group.domain_id, group.group) == (Verb.SUBSCRIBE, 1, 7)


@pytest.mark.parametrize("text", [f"civicrm+s.1.2.{HASH}@{DOMAIN}", f"subscribe.1.7@{DOMAIN}"])
def test_subscribe_is_never_written(text):
    """CiviCRM no longer takes it."""
    with pytest.raises(ValueError, match="subscribe"):
        contract.format(contract.parse(text, domains=DOMAINS))


@pytest.mark.parametrize(
    "fields", [{"job": 0}, {"queue": -1}, {"job": contract.ID_LIMIT}, {"hash": HASH[1:]}, {"hash": HASH.upper()}]
)
def test_no_broken_address_is_written(fields):
    good = {"verb": Verb.BOUNCE, "job": 1, "queue": 2, "hash": HASH, "domain": DOMAIN}
    with pytest.raises(ValueError, match=r"must be"):
        contract.format(Address(**good | fields))


@pytest.mark.parametrize(("localpart", "separator"), [("", "."), ("bounce.", "."), ("a+b.c-", "-"), ("x", "||")])
def test_local_part_and_separator_are_settings(localpart, separator):
    """CiviCRM lets the sysadmin choose both; none of their signs may act as a pattern."""
    address = Address(Verb.UNSUBSCRIBE, 12, 34, HASH, DOMAIN)
    text = contract.format(address, localpart=localpart, separator=separator)
    assert contract.parse(text, localpart=localpart, separator=separator, domains=DOMAINS) == address
    assert (
        contract.parse(text.replace(separator, "_"), localpart=localpart, separator=separator, domains=DOMAINS) is None
    )


@settings(deadline=None)
@given(addresses)
def test_what_is_written_is_read_again(address):
    text = contract.format(address)
    assert contract.parse(text, domains=DOMAINS) == address
    assert contract.parse(text.encode(), domains=DOMAINS) == address
    assert len(text.rpartition("@")[0]) <= 64


@settings(deadline=None)
@given(
    st.one_of(st.text(), st.binary(), st.from_regex(contract.pattern("civicrm+", ".")).map(lambda s: f"{s}@{DOMAIN}"))
)
@example(f"civicrm+b.1.2.{HASH}@{DOMAIN}\n")
@example("civicrm+b.1.2." + "9" * 10**6)
@example(b"\xff\0" * 1000)
def test_no_input_raises_and_what_is_read_can_be_told_apart(text):
    """Reports are written by strangers."""
    address = contract.parse(text, domains=DOMAINS)
    if address is not None and address.generation is Generation.TODAY and address.verb is not Verb.SUBSCRIBE:
        assert contract.format(address) == text


@settings(deadline=None)
@given(addresses, st.data())
def test_one_changed_character_is_never_the_same_person(address, data):
    """A damaged address must not reach a stranger as the same one: it differs or it is none."""
    text = contract.format(address)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=0x2FF).filter(lambda c: c.lower() != text[place]))
    assert contract.parse(text[:place] + other + text[place + 1 :], domains=DOMAINS) != address
