"""What all tools share: files replaced at once, locks, metrics, programs, systemd, ssh, certificates."""

from __future__ import annotations

import datetime
import hashlib
import multiprocessing
import os
import pwd
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from loading import TOOLS

from civicrm_tools.core import certificates, command, files, locks, mariadb, metrics, ssh, streams, systemd
from civicrm_tools.core.command import Failure, about
from civicrm_tools.core.files import Missing, Unreadable
from civicrm_tools.core.metrics import Family
from civicrm_tools.core.run import TOO_LATE, ProgramFailed, as_user, last_line, run, start

# Commands


def framed(raised: BaseException | None = None, **options: object) -> int:
    def body(argv: object) -> int:
        if raised:
            raise raised
        return 7

    return command.run("tool", body, [], **options)


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 7, ""),
        (Failure("no queue"), 3, "tool: no queue\n"),
        (Failure("no queue", 5), 5, "tool: no queue\n"),
        (PermissionError(13, "Permission denied", "/x"), 3, "tool: cannot read or write /x: run it as root\n"),
        (PermissionError(13, "Permission denied"), 3, "tool: [Errno 13] Permission denied\n"),
        (OSError(28, "No space left"), 3, "tool: [Errno 28] No space left\n"),
        (sqlite3.Error("locked"), 3, "tool: locked\n"),
        (KeyboardInterrupt(), 130, "tool: interrupted\n"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_a_status(capsys, raised, status, said):
    assert framed(raised, also=(sqlite3.Error,), failed=3) == status
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        framed(ZeroDivisionError())


def test_a_mistake_in_the_arguments_is_one_line(capsys):
    assert command.run("tool", lambda argv: len(vars(command.Parser(prog="tool").parse_args(argv))), ["--x"]) == 2
    assert capsys.readouterr().err == "tool: unrecognized arguments: --x (see tool --help)\n"


def test_a_failure_is_told_with_what_was_done_and_what_holds_now():
    said = r"^the dump failed: no space; nothing was changed$"
    with pytest.raises(Failure, match=said) as raised, about("the dump failed", "nothing was changed"):
        raise Failure("no space", 4)
    assert raised.value.status == 4


SIGNALLED = """
import os, signal, sys
from civicrm_tools.core import command
def body(argv):
    command.end_by_signals("tool")
    try:
        os.kill(os.getpid(), int(argv[0]))
        signal.pause()
    finally:
        print("cleaned up")
sys.exit(command.run("tool", body, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_command_like_an_error(number):
    words = [sys.executable, "-B", "-c", SIGNALLED, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, env={"PYTHONPATH": str(TOOLS)})
    assert (done.returncode, done.stdout, done.stderr) == (1, "cleaned up\n", f"tool: stopped by {number.name}\n")


# Files


def test_a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "state.json"
    path.write_text("old")
    path.chmod(0o644)
    files.write(path, "new\n", mode=0o600)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_of_a_service_changes_no_mode(tmp_path):
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "x.prom", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.prom").stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["fchmod", "fsync", "replace"])
def test_an_error_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch, step):
    """A disk that is full, say, at any step."""
    path = tmp_path / "state.json"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path if step == "replace" else files.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """And the name before the caller goes on: a power cut leaves the old or the new file, never an empty one."""
    done = []
    for module, name in ((os, "fsync"), (Path, "replace")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real: done.append(name) or real(*a))
    files.write(tmp_path / "a", "x")
    assert done == ["fsync", "replace", "fsync"]


def write_often(path: Path, text: str) -> None:
    for _ in range(300):
        files.write(path, text, sync=False)


def test_two_writers_at_once_leave_one_whole_text(tmp_path):
    path, texts = tmp_path / "x", ["a" * 100_000, "b" * 50_000]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    while not path.exists():
        time.sleep(0.001)
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_into_what_is_built_of_it(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": [1, "\u00e4"]})
    assert files.read_json(tmp_path / "x.json", lambda raw: raw["a"]) == [1, "\u00e4"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged: Expecting value"),
        (b"{", "damaged: Expecting property name"),
        (b"\xff\xfe{", "damaged: "),
        (b"[" * 100_000, "damaged: nested too deeply"),
        (b"{}", "damaged: it lacks 'a': remove it"),
        (b"[]", "damaged: list indices"),
        (b'{"a": "x"}', "damaged: invalid literal for int"),
        (b'{"a": null}', "damaged: int() argument"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable) as raised:
        files.read_json(path, lambda raw: int(raw["a"]), hint="remove it")
    assert str(raised.value).startswith(f"{path}: {said}")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_told_from_one_that_cannot_be_read(tmp_path):
    with pytest.raises(Missing, match=r"none\.json: there is no such file"):
        files.read_json(tmp_path / "none.json", dict)
    with pytest.raises(Unreadable, match=": cannot be read: Is a directory") as raised:
        files.read_json(tmp_path, dict)
    assert not isinstance(raised.value, Missing)


@dataclass
class Record:
    name: str
    place: Path


def test_a_record_has_its_fields_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"name": "a", "place": "/srv/a", "comment": "by hand"}')
    assert files.read_record(path, Record) == Record("a", Path("/srv/a"))
    path.write_text('{"name": "a"}')
    with pytest.raises(Unreadable, match=r"x\.json: damaged: it lacks 'place'$"):
        files.read_record(path, Record)


# Locks

HOLD = """
import sys, time
from pathlib import Path
from civicrm_tools.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(TOOLS)}) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_refused_and_told_who_is_the_first(tmp_path, holder):
    with (
        pytest.raises(locks.Busy, match=rf"^another one runs \(process {holder.pid}\)$"),
        locks.locked(tmp_path / "lock", wait=0, busy="another one runs"),
    ):
        pass


def test_the_second_waits_no_longer_than_it_may(tmp_path, holder):
    begun = time.monotonic()
    with pytest.raises(locks.Busy, match="another process holds"), locks.locked(tmp_path / "lock", wait=0.3):
        pass
    assert 0.3 <= time.monotonic() - begun < 5


def test_a_dead_holder_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locks.locked(tmp_path / "lock", wait=5):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_afterwards_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), locks.locked(tmp_path / "new" / "lock", wait=0):
        raise KeyError
    with locks.locked(tmp_path / "new" / "lock", wait=0):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


# Metrics


def test_metrics_have_help_type_and_escaped_labels():
    """A label may hold what a stranger wrote, such as the name of a mailbox."""
    text = metrics.exposition(
        [
            Family("a_total", "counter", "What\nit \\ is.", [({"name": 'x"y\\z\n'}, 3), ({"name": ""}, 0.5)]),
            metrics.gauge("b_timestamp_seconds", "When.", 1790000000.123),
            Family("c", "gauge", "Nothing yet.", []),
        ]
    )
    assert text == (
        "# HELP a_total What\\nit \\\\ is.\n# TYPE a_total counter\n"
        'a_total{name="x\\"y\\\\z\\n"} 3\na_total{name=""} 0.5\n'
        "# HELP b_timestamp_seconds When.\n# TYPE b_timestamp_seconds gauge\nb_timestamp_seconds 1790000000.123\n"
        "# HELP c Nothing yet.\n# TYPE c gauge\n"
    )


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(), max_size=3), st.floats(0, 1e15))
def test_what_was_written_is_read_back(labels, value):
    """The file is the only memory of some counters."""
    text = metrics.exposition([Family("a_total", "counter", "A.", [(labels, value)])])
    assert metrics.parse(text) == {("a_total", frozenset(labels.items())): pytest.approx(value)}


def test_where_nobody_collects_nothing_is_written(tmp_path):
    assert not metrics.write(tmp_path / "none" / "x.prom", [])
    assert not (tmp_path / "none").exists()
    assert metrics.write(tmp_path / "x.prom", [metrics.gauge("a", "A.", 1)])
    assert metrics.read(tmp_path / "x.prom") == {("a", frozenset()): 1}
    assert metrics.read(tmp_path / "missing.prom") == {}


def test_an_accepted_sample_is_prometheus_own():
    """By the expression of a real parser, prometheus_client's: value and labels of each line."""
    (line,) = [
        line
        for line in metrics.exposition([Family("a", "gauge", "A.", [({"b": "c"}, 1e-9)])]).splitlines()
        if line[0] != "#"
    ]
    assert re.fullmatch(r'a\{b="c"\} [0-9.e+-]+', line)
    assert float(line.split()[1]) == 1e-9


# Programs


def test_a_program_that_hangs_ends_with_its_time():
    begun = time.monotonic()
    with pytest.raises(ProgramFailed, match=r"^sleep did not end within 0.2 s$"):
        run("sleep", "30", timeout=0.2)
    assert time.monotonic() - begun < 5


def test_a_failure_tells_the_last_words_and_no_argument():
    with pytest.raises(ProgramFailed) as raised:
        run("sh", "-c", "cat >&2; echo last word >&2; exit 3", "s3cret", timeout=5, text="first\n")
    assert str(raised.value) == "sh ended with 3: last word"
    with pytest.raises(ProgramFailed, match=r"^false ended with 1: no message$"):
        run("false", timeout=5)
    with pytest.raises(ProgramFailed, match=r"^cannot run no-such-program: No such file or directory$"):
        run("no-such-program", "s3cret", timeout=5)


def test_where_any_status_will_do_so_does_a_program_that_hangs():
    """Of a daemon that is asked for its state silence is an answer."""
    begun = time.monotonic()
    done = run("sleep", "30", timeout=0.2, statuses=())
    assert (done.returncode, done.stdout, done.stderr) == (TOO_LATE, "", "no answer within 0.2 s")
    assert time.monotonic() - begun < 5


def test_postfixs_own_beginning_of_a_line_is_not_said_twice():
    with pytest.raises(ProgramFailed, match=r"^sh ended with 1: no such queue$"):
        run("sh", "-c", "echo postsuper: fatal: no such queue >&2; exit 1", timeout=5)


def test_a_program_that_is_read_while_it_runs_fails_in_the_same_words():
    with pytest.raises(ProgramFailed, match=r"^cannot run no-such-program: No such file or directory$"):
        start(["no-such-program", "s3cret"])
    with pytest.raises(Failure, match=r"^user no-such-user does not exist$"):
        as_user("no-such-user")
    assert as_user(pwd.getpwuid(os.geteuid()).pw_name) == {}


def test_root_gives_its_child_no_group_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    nobody = pwd.getpwnam("nobody")
    assert as_user("nobody") == {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def test_expected_statuses_are_no_failure():
    assert run("sh", "-c", "exit 3", timeout=5, statuses=(0, 3)).returncode == 3
    assert run("sh", "-c", "exit 9", timeout=5, statuses=()).returncode == 9
    assert run("cat", timeout=5, text="\u00e4").stdout == "\u00e4"


# systemd


def test_systemd_is_told_and_silence_without_it_is_no_error(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
        sink.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert sink.recv(100) == b"READY=1"


def test_a_start_by_hand_says_which_socket_is_missing(monkeypatch):
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(Failure, match=r"start postfix-pace\.socket"):
        systemd.listening("postfix-pace.socket")


# ssh


def test_a_pinned_host_is_the_only_one_that_is_trusted(tmp_path):
    """As ssh itself understands the options."""
    shell = ssh.remote_shell(tmp_path / "a key", 2222, tmp_path / "hosts", "target")
    assert f"-i '{tmp_path}/a key' -p 2222" in shell
    arguments = [word.replace("'", "") for word in shell.replace("a key", "key").split()[1:]]
    said = subprocess.run(["ssh", "-G", *arguments, "host"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    effective = dict(line.split(None, 1) for line in said.stdout.splitlines() if " " in line)
    assert effective["stricthostkeychecking"] == "true"
    assert effective["globalknownhostsfile"] == "/dev/null"
    assert effective["hostkeyalias"] == "target"
    assert (effective["batchmode"], effective["identitiesonly"], effective["port"]) == ("yes", "yes", "2222")


def test_where_rsync_goes():
    assert ssh.location("u", "192.0.2.1", ".") == "u@192.0.2.1:."
    assert ssh.location("u", "2001:db8::1", "x") == "u@[2001:db8::1]:x"


def test_what_ssh_said_is_told_before_rsyncs_summary():
    said = "Host key verification failed.\nrsync: connection unexpectedly closed (0 bytes)\nrsync error: x (code 255)\n"
    assert last_line(said) == "Host key verification failed."
    assert last_line("rsync error: some files could not be read (code 23)\n").startswith("rsync error: some")
    assert last_line("") == ""


# Certificates

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.mark.parametrize("days", [-3.0, 0.5, 400.0, 36500.0])
def test_the_days_of_a_certificate_are_counted(days):
    """Of UTCTime and of GeneralizedTime, which begins in 2050."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - datetime.timedelta(days=900))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    assert certificates.days_left(pem, NOW) == days


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_has_no_days(text):
    assert certificates.days_left(text, NOW) is None


# Databases and streams


@pytest.mark.parametrize(
    "names", [("x`; DROP", "utf8mb4", "utf8mb4_bin"), ("crm", "u t", "utf8mb4_bin"), ("crm", "utf8mb4", "x;")]
)
def test_no_name_becomes_a_statement(tmp_path, monkeypatch, names):
    """A manifest lies on another host; what it names is refused before any program runs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    database, *charset = names
    with pytest.raises(Failure, match="is not the name of"):
        mariadb.load(database, tmp_path / "dump.gz", *charset)


def test_an_output_comes_back_as_it_was(tmp_path):
    """Of any bytes, and the same output makes the same file."""
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    first, second = (
        streams.compress(["cat", str(tmp_path / "data")], tmp_path / name) for name in ("one.gz", "two.gz")
    )
    assert first == second and first.size == (tmp_path / "one.gz").stat().st_size
    assert first.sha256 == hashlib.sha256((tmp_path / "two.gz").read_bytes()).hexdigest()
    streams.feed(tmp_path / "one.gz", ["dd", f"of={tmp_path / 'back'}", "status=none"], mariadb.WithoutDefiners())
    assert (tmp_path / "back").read_bytes() == data


def test_a_tolerated_status_is_a_warning_and_another_an_error(tmp_path):
    command = ["sh", "-c", "echo changed >&2; exit 1"]
    assert streams.compress(command, tmp_path / "a", tolerated=(1,)).warning == "changed"
    with pytest.raises(ProgramFailed, match=r"^sh ended with 1: changed$"):
        streams.compress(command, tmp_path / "b")
    with pytest.raises(ProgramFailed, match=r"^false ended with 1: no message$"):
        streams.feed(tmp_path / "a", ["false"], mariadb.WithoutDefiners())


# Large libraries


def test_a_lazy_module_runs_when_it_is_first_used():
    """Of the library's own modules none is there before; one that is missing is told at once."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from civicrm_tools.core.lazy import lazy\n"
        "asyncio = lazy('asyncio')\n"
        "print('asyncio.events' in sys.modules)\n"
        "print(asyncio.run(asyncio.sleep(0, 'done')), 'asyncio.events' in sys.modules, lazy('asyncio') is asyncio)\n"
        "try: lazy('no_such_library')\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-IS", "-c", code, str(TOOLS)], text=True)
    assert said == "False\ndone True True\nNo module named 'no_such_library'\n"
