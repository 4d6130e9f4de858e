"""Random secrets for a new installation: passwords, keys and certificates, in memory only."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import itertools
import secrets
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from passlib.hash import bcrypt, sha512_crypt

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

TOKEN_BYTES = 16  # 128 bits: nobody guesses it, so its bcrypt cost may be the lowest
BCRYPT_ROUNDS = 5
CA_DAYS = 3650
CERTIFICATE_DAYS = 825
DKIM_BITS = 2048  # what every receiver takes; the record of a longer one passes the size of a DNS answer by UDP


def token() -> str:
    """Return a password of 128 random bits, URL-safe, 22 characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def credential(username: str) -> dict[str, str]:
    """Return {username, password, password_hash}; the hash is bcrypt in Apache's $2y$ form."""
    password = token()
    digest = bcrypt.using(rounds=BCRYPT_ROUNDS, ident="2y").hash(password)
    return {"username": username, "password": password, "password_hash": digest}


def new_secrets(
    existing: dict[str, Any] | None,
    sites: list[str],
    ipsec_endpoints: list[dict[str, str]],
    int_certificate_names: list[str],
    ext_certificate_names: list[str],
    people: list[str],
    backup_hosts: list[str],
    donation_sites: list[str] | None = None,
    dkim_names: list[str] | None = None,
    newsletter_sites: list[str] | None = None,
    payment_sites: list[str] | None = None,
) -> dict[str, Any]:
    """Return `existing` with everything that is missing made up; nothing in it is ever changed.

    existing: the vault's content, or None for a new installation.
    sites, people, backup_hosts, donation_sites, newsletter_sites: names, one entry each in vault_sites, vault_people,
    vault_backup_keys and vault_backup_signing_keys, vault_donation_queues, vault_newsletter_keys.
    payment_sites: API sites whose payments are proved; keys in vault_payment_keys that stand for the provider\'s.
    ipsec_endpoints: [{name, id, outer_address}]; one certificate each, one PPK and one PSK for each pair.
    dkim_names: names of DKIM's records, <selector>._domainkey.<domain>; one RSA key each in vault_dkim_keys.
    """
    vault = dict(existing or {})

    def fill(key: str, names: list[str], make: Any) -> None:
        vault[key] = {**{n: make(n) for n in names if n not in vault.get(key, {})}, **vault.get(key, {})}

    if "vault_private_ca" not in vault:
        vault["vault_private_ca"] = _authority("private CA", ec.generate_private_key(ec.SECP256R1()))
    if "vault_ipsec_ca" not in vault:
        vault["vault_ipsec_ca"] = _authority("IPsec CA", ed25519.Ed25519PrivateKey.generate())
    if "vault_front_door_credential" not in vault:
        vault["vault_front_door_credential"] = credential("front-door")
    fill("vault_sites", sites, _site)
    fill("vault_people", people, credential)
    fill("vault_queue", ["writer", "worker"], lambda _: token())
    fill("vault_donation_queues", donation_sites or [], lambda _: {"writer": token(), "worker": token()})
    if payment_sites:
        fill("vault_payment_keys", payment_sites, lambda _: {"notice_keys": [token()], "lookup_key": token()})
    fill("vault_dkim_keys", dkim_names or [], lambda _: _rsa_key())
    if newsletter_sites:
        fill("vault_newsletter_keys", newsletter_sites, lambda n: _ssh_key(f"newsletter-archive@{n}"))
    fill("vault_backup_keys", backup_hosts, lambda n: _ssh_key(f"backup@{n}"))
    fill("vault_backup_signing_keys", backup_hosts, lambda _: secrets.token_hex(32))
    identities = {e["name"]: e for e in ipsec_endpoints}
    fill("vault_ipsec_endpoints", list(identities), lambda n: _endpoint(vault["vault_ipsec_ca"], identities[n]))
    pairs = _pairs(identities)
    fill("vault_ipsec_ppks", pairs, lambda _: secrets.token_hex(32))
    fill("vault_ipsec_psks", pairs, lambda _: secrets.token_hex(32))
    for key, names in (
        ("vault_int_certificates", int_certificate_names),
        ("vault_ext_certificates", ext_certificate_names),
    ):
        fill(key, names, lambda n: _server(vault["vault_private_ca"], n))
    return vault


ROTATED = {"ppk": "vault_ipsec_ppks", "psk": "vault_ipsec_psks", "certificates": "vault_ipsec_endpoints"}


def with_next_keys(vault: dict[str, Any], kind: str, ipsec_endpoints: list[dict[str, str]]) -> dict[str, Any]:
    """Return `vault` with new keys of a kind (ppk, psk, certificates) beside those in use, under <key>_next.

    What an interrupted rotation left there stays as it is, so that it can be finished.
    """
    key = _rotated(kind)
    if vault.get(f"{key}_next"):
        return vault
    identities = {e["name"]: e for e in ipsec_endpoints}
    if kind == "certificates":
        new: dict[str, Any] = {n: _endpoint(vault["vault_ipsec_ca"], e) for n, e in identities.items()}
    else:
        new = {pair: secrets.token_hex(32) for pair in _pairs(identities)}
    return {**vault, f"{key}_next": new}


def keys_within(vault: dict[str, Any], kind: str, ready: list[str]) -> list[str]:
    """Return which next keys concern endpoints in `ready` alone: names of pairs, or of endpoints."""
    return sorted(name for name in vault.get(f"{_rotated(kind)}_next", {}) if set(name.split("--")) <= set(ready))


def with_next_in_use(vault: dict[str, Any], kind: str, names: list[str]) -> dict[str, Any]:
    """Return `vault` with the next keys of these names in the place of those that were in use."""
    key = _rotated(kind)
    left = {name: value for name, value in vault.get(f"{key}_next", {}).items() if name not in names}
    moved = {name: vault[f"{key}_next"][name] for name in names}
    rest = {k: v for k, v in vault.items() if k != f"{key}_next"}
    return {**rest, key: {**vault.get(key, {}), **moved}, **({f"{key}_next": left} if left else {})}


def peers_to_reauthenticate(names: list[str], local: str, endpoints: list[str], managed: list[str]) -> list[str]:
    """Return the peers to which `local` shall make new SAs, as the first managed endpoint of a pair with new keys.

    names: pairs, or endpoints, that have new keys.
    """
    peers = []
    for pair in _pairs(sorted(endpoints)):
        ends = pair.split("--")
        affected = pair in names or set(ends) & set(names)
        if affected and local == next((end for end in ends if end in managed), None):
            peers += [end for end in ends if end != local]
    return peers


def _rotated(kind: str) -> str:
    if kind not in ROTATED:
        raise AnsibleFilterError(f"'{kind}' cannot be rotated: use one of {', '.join(ROTATED)}")
    return ROTATED[kind]


def _pairs(names: Iterable[str]) -> list[str]:
    return ["--".join(sorted(pair)) for pair in itertools.combinations(names, 2)]


def _site(_name: str) -> dict[str, str]:
    mailbox_password = token()
    return {
        "database_password": token(),
        "mailbox_password": mailbox_password,
        "mailbox_password_hash": "{SHA512-CRYPT}" + sha512_crypt.using(rounds=5000).hash(mailbox_password),
        "admin_password": token(),
        "site_key": secrets.token_hex(32),
    }


def _ssh_key(comment: str) -> dict[str, str]:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return {"private_key": private.decode(), "public_key": f"{public.decode()} {comment}"}


def _rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=DKIM_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _authority(name: str, key: PrivateKey) -> dict[str, str]:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key, CA_DAYS).add_extension(x509.BasicConstraints(True, 0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pem(key, builder.sign(key, _digest(key)))


def _endpoint(authority: dict[str, str], endpoint: dict[str, str]) -> dict[str, str]:
    addresses = [x509.IPAddress(ipaddress.ip_address(endpoint["outer_address"]))]
    names = [x509.DNSName(endpoint["id"]), *addresses]
    return _issue(authority, endpoint["id"], names, ed25519.Ed25519PrivateKey.generate())


def _server(authority: dict[str, str], name: str) -> dict[str, str]:
    return _issue(authority, name, [x509.DNSName(name)], ec.generate_private_key(ec.SECP256R1()))


def _issue(authority: dict[str, str], name: str, names: list[x509.GeneralName], key: PrivateKey) -> dict[str, str]:
    issuer_key = serialization.load_pem_private_key(authority["private_key"].encode(), None)
    if not isinstance(issuer_key, PrivateKey):
        raise AnsibleFilterError("the private key of an authority must be an Ed25519 or an EC key")
    issuer = x509.load_pem_x509_certificate(authority["certificate"].encode())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, issuer.subject, key, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _pem(key, builder.sign(issuer_key, _digest(issuer_key)))


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, days: int) -> x509.CertificateBuilder:
    # An hour back: the hosts' clocks need not agree to the second on the first day.
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    return builder.not_valid_after(start + datetime.timedelta(days=days))


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _pem(key: PrivateKey, certificate: x509.Certificate) -> dict[str, str]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "private_key": private.decode(),
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
    }


def redis_acl_hash(password: str) -> str:
    """Return the SHA-256 hex digest that a Redis ACL takes after '#', so that no password lies on the host."""
    if not password:
        raise AnsibleFilterError("redis_acl_hash: the password is empty")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(password.encode())
    return digest.finalize().hex()


def new_password(_: str) -> str:
    """Return a password of 128 random bits; what it is given does not matter."""
    return token()


def mariadb_hash(password: str) -> str:
    """Return the password as mysql_native_password stores it: '*' and the SHA-1 of the SHA-1, in capitals.

    The server's own format; a password of 128 random bits needs no slow hash.
    """
    if not password:
        raise AnsibleFilterError("mariadb_hash: the password is empty")
    once = hashlib.sha1(password.encode()).digest()  # noqa: S324 (MariaDB's format)
    return "*" + hashlib.sha1(once).hexdigest().upper()  # noqa: S324 (the same)


def with_site_secret(vault: dict[str, Any], site: str, secrets_of_site: dict[str, str | None]) -> dict[str, Any]:
    """Return the vault with some of a site's secrets replaced; None takes one away."""
    changed = {**vault["vault_sites"][site], **secrets_of_site}
    kept = {key: value for key, value in changed.items() if value is not None}
    return {**vault, "vault_sites": {**vault["vault_sites"], site: kept}}


class FilterModule:
    """Expose the filters to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "new_secrets": new_secrets,
            "with_next_keys": with_next_keys,
            "keys_within": keys_within,
            "with_next_in_use": with_next_in_use,
            "peers_to_reauthenticate": peers_to_reauthenticate,
            "redis_acl_hash": redis_acl_hash,
            "new_password": new_password,
            "mariadb_hash": mariadb_hash,
            "with_site_secret": with_site_secret,
        }
