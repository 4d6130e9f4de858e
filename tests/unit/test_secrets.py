"""The vault of a new installation: complete, random, and never overwritten."""

import copy
import re
import subprocess

import pytest
from cryptography import x509
from loading import load
from passlib.hash import bcrypt, sha512_crypt

filters = load("plugins/filter/secrets.py")
new_secrets = filters.new_secrets

ENDPOINTS = [
    {"name": name, "id": f"{name}.example.org", "outer_address": f"192.0.2.{n}"}
    for n, name in enumerate("abc", start=1)
]


def make(existing=None, sites=("crm",), people=("alice",)):
    return new_secrets(existing, list(sites), ENDPOINTS, ["crm.example.org"], ["crm.example.org"], list(people), ["a"])


@pytest.fixture(scope="module")
def vault():
    return make()


def test_a_second_run_changes_nothing(vault):
    assert make(copy.deepcopy(vault)) == vault


def test_a_site_of_newsletters_gets_one_key_that_later_runs_keep(vault):
    """int writes its pages with it; an installation without such a site has none."""
    assert "vault_newsletter_keys" not in vault
    grown = new_secrets(copy.deepcopy(vault), ["crm"], ENDPOINTS, [], [], [], ["a"], newsletter_sites=["newsletter"])
    assert {key: grown[key] for key in vault} == vault
    key = grown["vault_newsletter_keys"]["newsletter"]
    assert key["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert re.fullmatch(r"ssh-ed25519 \S+ newsletter-archive@newsletter", key["public_key"])
    again = new_secrets(copy.deepcopy(grown), ["crm"], ENDPOINTS, [], [], [], ["a"], newsletter_sites=["newsletter"])
    assert again == grown


def test_a_new_site_gets_secrets_and_the_others_keep_theirs(vault):
    grown = make(copy.deepcopy(vault), sites=["crm", "test-crm"])
    assert grown["vault_sites"]["crm"] == vault["vault_sites"]["crm"]
    assert grown["vault_sites"]["test-crm"]["database_password"] != vault["vault_sites"]["crm"]["database_password"]


def test_no_two_secrets_are_equal_and_each_has_128_bits(vault):
    site = vault["vault_sites"]["crm"]
    passwords = [site["database_password"], site["mailbox_password"], *vault["vault_queue"].values()]
    assert len(set(passwords)) == len(passwords)
    assert all(re.fullmatch(r"[\w-]{22}", p) for p in passwords)


def test_hashes_fit_their_passwords(vault):
    alice, site = vault["vault_people"]["alice"], vault["vault_sites"]["crm"]
    assert alice["password_hash"].startswith("$2y$")
    assert bcrypt.verify(alice["password"], alice["password_hash"])
    assert sha512_crypt.verify(site["mailbox_password"], site["mailbox_password_hash"].removeprefix("{SHA512-CRYPT}"))


@pytest.mark.parametrize("kind", ["ppks", "psks"])
def test_each_pair_of_endpoints_has_its_own_key(vault, kind):
    keys = vault[f"vault_ipsec_{kind}"]
    assert set(keys) == {"a--b", "a--c", "b--c"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys.values())
    assert len({*vault["vault_ipsec_ppks"].values(), *vault["vault_ipsec_psks"].values()}) == 6


def test_a_vault_from_before_psks_gets_them_and_keeps_the_rest(vault):
    old = {key: value for key, value in vault.items() if key != "vault_ipsec_psks"}
    new = make(copy.deepcopy(old))
    assert set(new) - set(old) == {"vault_ipsec_psks"}
    assert {key: new[key] for key in old} == old


KINDS = {"ppk": "vault_ipsec_ppks", "psk": "vault_ipsec_psks", "certificates": "vault_ipsec_endpoints"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_rotation_keeps_the_old_keys_until_the_new_ones_are_in_use(vault, kind):
    """An interrupted one is finished with the same new keys, never with a third set."""
    key = KINDS[kind]
    begun = filters.with_next_keys(vault, kind, ENDPOINTS)
    assert {name: begun[name] for name in vault} == vault
    assert set(begun) - set(vault) == {f"{key}_next"}
    assert filters.with_next_keys(begun, kind, ENDPOINTS) == begun
    names = filters.keys_within(begun, kind, ["a", "b", "c"])
    assert names == sorted(vault[key])
    done = filters.with_next_in_use(begun, kind, names)
    assert set(done) == set(vault)
    assert all(done[key][name] != vault[key][name] for name in names)
    assert {name: done[name] for name in vault if name != key} == {name: vault[name] for name in vault if name != key}


@pytest.mark.parametrize(("kind", "ready"), [("ppk", ["a--b"]), ("psk", ["a--b"]), ("certificates", ["a", "b"])])
def test_an_endpoint_of_another_admin_keeps_its_keys_until_they_are_installed(vault, kind, ready):
    key = KINDS[kind]
    begun = filters.with_next_keys(vault, kind, ENDPOINTS)
    assert filters.keys_within(begun, kind, ["a", "b"]) == ready
    part = filters.with_next_in_use(begun, kind, ready)
    assert set(part[f"{key}_next"]) == set(vault[key]) - set(ready)
    kept = set(vault[key]) - set(ready)
    assert all(part[key][name] == vault[key][name] for name in kept)
    # The second run finishes with the same keys.
    again = filters.with_next_keys(part, kind, ENDPOINTS)
    assert again == part
    rest = filters.keys_within(again, kind, ["a", "b", "c"])
    assert filters.with_next_in_use(again, kind, rest)[key] == {**vault[key], **begun[f"{key}_next"]}


def test_new_certificates_are_of_the_same_authority(vault, tmp_path):
    begun = filters.with_next_keys(vault, "certificates", ENDPOINTS)
    (tmp_path / "ca.pem").write_text(vault["vault_ipsec_ca"]["certificate"])
    for name, made in begun["vault_ipsec_endpoints_next"].items():
        (tmp_path / name).write_text(made["certificate"])
        subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "ca.pem", tmp_path / name], check=True)
        assert made["private_key"] != vault["vault_ipsec_endpoints"][name]["private_key"]


def test_one_end_of_each_pair_makes_the_new_sas():
    """Two that start at once would make two SAs; nobody would leave the old keys in use."""
    three, managed = ["a", "b", "c"], ["b", "c"]

    def start(names):
        return {local: filters.peers_to_reauthenticate(names, local, three, managed) for local in managed}

    assert start(["a--b", "a--c", "b--c"]) == {"b": ["a", "c"], "c": ["a"]}
    assert start(["b--c"]) == {"b": ["c"], "c": []}
    assert start(["c"]) == {"b": ["c"], "c": ["a"]}


def test_only_what_exists_can_be_rotated(vault):
    with pytest.raises(filters.AnsibleFilterError, match="'ca' cannot be rotated: use one of ppk, psk, certificates"):
        filters.with_next_keys(vault, "ca", ENDPOINTS)


def test_certificates_verify_with_openssl_against_their_authority(vault, tmp_path):
    for authority, leaf in (
        (vault["vault_private_ca"], vault["vault_int_certificates"]["crm.example.org"]),
        (vault["vault_ipsec_ca"], vault["vault_ipsec_endpoints"]["a"]),
    ):
        (tmp_path / "ca.pem").write_text(authority["certificate"])
        (tmp_path / "leaf.pem").write_text(leaf["certificate"])
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_an_endpoints_identity_is_a_name_of_its_certificate(vault):
    certificate = x509.load_pem_x509_certificate(vault["vault_ipsec_endpoints"]["b"]["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["b.example.org"]


def test_a_password_is_hashed_as_mariadb_does_it():
    """MariaDB's own PASSWORD('secret-password')."""
    assert filters.mariadb_hash("secret-password") == "*76B77C0E8DC27C364F7DA2638BFC6D012F4359E9"
    assert re.fullmatch(r"[\w-]{22}", filters.new_password(""))


def test_one_sites_secret_changes_and_nothing_else(vault):
    changed = filters.with_site_secret(vault, "crm", {"database_password": "new", "database_password_next": None})
    assert changed["vault_sites"]["crm"] == vault["vault_sites"]["crm"] | {"database_password": "new"}
    assert {k: v for k, v in changed.items() if k != "vault_sites"} == {
        k: v for k, v in vault.items() if k != "vault_sites"
    }
    started = filters.with_site_secret(vault, "crm", {"database_password_next": "n"})
    assert "database_password_next" not in vault["vault_sites"]["crm"]
    ended = filters.with_site_secret(started, "crm", {"database_password": "n", "database_password_next": None})
    assert "database_password_next" not in ended["vault_sites"]["crm"]
    assert make(copy.deepcopy(started), people=("alice",)) == started, "secrets.yml leaves a started rotation alone"


def test_signing_keys_are_kept_and_a_new_selector_gets_its_own():
    """A rebuilt host signs as before; a new key comes beside the old one, which receivers still ask for (P1)."""
    one = new_secrets(None, [], [], [], [], [], [], dkim_names=["a._domainkey.example.org"])
    two = new_secrets(
        copy.deepcopy(one), [], [], [], [], [], [], dkim_names=["a._domainkey.example.org", "b._domainkey.example.org"]
    )
    keys = two["vault_dkim_keys"]
    assert keys["a._domainkey.example.org"] == one["vault_dkim_keys"]["a._domainkey.example.org"]
    assert len(set(keys.values())) == 2
    done = subprocess.run(
        ["openssl", "pkey", "-noout", "-text"],
        input=keys["b._domainkey.example.org"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert "(2048 bit" in done.stdout
