"""certificate-expiry tells what a daemon really shows to a client, not what lies in a file (P15)."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from civicrm_tools.host import certificate_expiry

NOW = datetime.datetime.now(datetime.UTC)
SMTP = (b"220 mx ESMTP\r\n", ((b"EHLO", b"250-mx\r\n250 STARTTLS\r\n"), (b"STARTTLS", b"220 go\r\n")))
IMAP = (
    b"* OK here\r\n",
    ((b"CAPABILITY", b"* CAPABILITY IMAP4rev1 STARTTLS\r\n{tag} OK\r\n"), (b"STARTTLS", b"{tag} OK\r\n")),
)


@pytest.fixture(scope="module")
def module():
    return certificate_expiry


@pytest.fixture
def pem(tmp_path):
    """A function (name, days) -> a file with key and self-signed certificate for that name."""

    def _pem(name: str, days: float):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=900))
            .not_valid_after(NOW + datetime.timedelta(days=days))
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / f"{name}.pem"
        none = serialization.NoEncryption()
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
            + made.public_bytes(serialization.Encoding.PEM)
        )
        return path

    return _pem


@contextlib.contextmanager
def daemon(pem, greeting=b"", dialogue=(), names=None):
    """A daemon that shows `pem`, or by SNI one of names; with a dialogue only after it. Gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    others = {}
    for name, file in (names or {}).items():
        others[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        others[name].load_cert_chain(file)

    def choose(connection, name, _):
        connection.context = others.get(name, context)

    context.sni_callback = choose

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.settimeout(5)
                with contextlib.suppress(OSError), client:
                    client.sendall(greeting) if greeting else None
                    for word, answer in dialogue:
                        line = client.recv(1024)
                        assert word in line, line
                        client.sendall(answer.replace(b"{tag}", line.split()[0]))
                    with context.wrap_socket(client, server_side=True) as tls:
                        tls.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def ask(module, port, name="crm.test", starttls=None, address="127.0.0.1"):
    return module.ask(module.Endpoint(name, address, port, starttls), NOW)


@pytest.mark.parametrize("days", [0.5, 30, 825, -3], ids=["today", "month", "long", "expired"])
def test_days_are_those_of_the_certificate_shown(module, pem, monkeypatch, days):
    """An expired one too: that is when the figure is needed."""
    file = pem("crm.test", days)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with daemon(file) as port:
        shown = ask(module, port)
    assert shown.days == pytest.approx(days, abs=0.02)
    assert shown.trusted == (days > 0), shown.problem
    assert bool(shown.problem) == (days < module.ENOUGH_DAYS)


def test_the_name_asked_for_decides_which_certificate_is_shown(module, pem, monkeypatch):
    """One address serves many names: the one that runs out is found behind the others."""
    first, second = pem("crm.test", 400), pem("donate.test", 3)
    monkeypatch.setenv("SSL_CERT_FILE", str(second))
    with daemon(first, names={"donate.test": second}) as port:
        assert ask(module, port, "donate.test").days == pytest.approx(3, abs=0.02)
        assert ask(module, port, "crm.test").days == pytest.approx(400, abs=0.02)


def test_a_certificate_for_another_name_is_not_trusted(module, pem, monkeypatch):
    """A name that no vhost serves gets the default's certificate, which may run for years."""
    file = pem("other.test", 400)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with daemon(file) as port:
        shown = ask(module, port)
    assert shown.days == pytest.approx(400, abs=0.02)
    assert not shown.trusted
    assert "not trusted: hostname mismatch" in shown.problem


def test_an_authority_that_nobody_knows_is_not_trusted(module, pem):
    with daemon(pem("crm.test", 400)) as port:
        assert not ask(module, port).trusted


@pytest.mark.parametrize(("protocol", "greeting", "dialogue"), [("smtp", *SMTP), ("imap", *IMAP)])
def test_tls_that_a_command_starts_is_looked_at(module, pem, monkeypatch, protocol, greeting, dialogue):
    file = pem("mx.test", 50)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with daemon(file, greeting, dialogue) as port:
        shown = ask(module, port, "mx.test", protocol)
    assert (shown.trusted, shown.problem) == (True, "")
    assert shown.days == pytest.approx(50, abs=0.02)


def test_a_daemon_that_is_away_shows_nothing(module):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shown = ask(module, port)
    assert (shown.days, shown.trusted) == (None, False)
    assert "refused" in shown.problem and "\n" not in shown.problem


def test_a_daemon_that_says_nothing_does_not_hold_up_the_others(module, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shown = ask(module, listener.getsockname()[1])
    assert (shown.days, shown.problem) == (None, "no answer within 1 s")


def test_metrics_name_each_daemon_and_one_that_is_away_has_no_days(module, pem, tmp_path, monkeypatch, capsys):
    """A missing figure and a small one are two alerts."""
    file = pem("crm.test", 3)
    with daemon(file) as port, socket.create_server(("127.0.0.1", 0)) as closed:
        away = closed.getsockname()[1]
        closed.close()
        config, output = tmp_path / "config.json", tmp_path / "certificates.prom"
        shown = [{"server_name": "crm.test", "address": "127.0.0.1", "port": p} for p in (port, away)]
        config.write_text(json.dumps({"shown": shown}))
        monkeypatch.setattr(module, "CONFIG", config)
        assert module.main(["--output", str(output)]) == 3
    samples = dict(line.rsplit(" ", 1) for line in output.read_text().splitlines() if line[0] != "#")
    assert samples[f'certificate_shown{{name="crm.test",port="{port}"}}'] == "1"
    assert samples[f'certificate_shown{{name="crm.test",port="{away}"}}'] == "0"
    assert float(samples[f'certificate_expiry_days{{name="crm.test",port="{port}"}}']) == pytest.approx(3, abs=0.02)
    assert f'certificate_expiry_days{{name="crm.test",port="{away}"}}' not in samples
    assert int(samples["certificate_expiry_last_run_timestamp_seconds"]) >= int(NOW.timestamp())
    assert {name.split("{")[0] for name in samples} == {family.name for family in module.families({}, 0)}
    assert output.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_is_shown_as_json(module, pem, tmp_path, monkeypatch, capsys):
    with daemon(pem("crm.test", 3)) as port:
        (tmp_path / "config.json").write_text(
            json.dumps({"shown": [{"server_name": "crm.test", "address": "127.0.0.1", "port": port}]})
        )
        monkeypatch.setattr(module, "CONFIG", tmp_path / "config.json")
        assert module.main(["--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)
    assert row.pop("days") == pytest.approx(3, abs=0.02)
    assert row.pop("problem").startswith("not trusted")
    assert row == {"name": "crm.test", "address": "127.0.0.1", "port": port, "trusted": False}


@pytest.mark.parametrize("config", ["", "{}", '{"shown": [{"server_name": "x"}]}', '{"shown": [1]}'])
def test_a_broken_configuration_is_one_line(module, tmp_path, monkeypatch, capsys, config):
    path = tmp_path / "config.json"
    path.write_text(config)
    monkeypatch.setattr(module, "CONFIG", path)
    assert module.main([]) == 1
    assert capsys.readouterr().err.startswith(f"certificate-expiry: {path}: ")
