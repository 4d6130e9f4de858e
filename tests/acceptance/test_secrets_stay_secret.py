"""No secret in any output, argument list or log (P18).

The reference converge runs with -vvv --diff, and while it runs the argument lists of all processes on all hosts are
collected; both are searched here for every secret of the vault.
"""

import re
from pathlib import Path

import pytest

LOGS = Path(__file__).resolve().parents[2] / ".lab" / "logs"


@pytest.fixture(scope="module")
def needles(vault) -> dict[str, str]:
    """{where in the vault: what to look for}: passwords, hashes and PPKs whole, of a key a line from its middle."""
    found = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                walk(inner, f"{path}.{number}")
        elif "PRIVATE KEY" in value:
            lines = value.strip().splitlines()
            found[path] = lines[len(lines) // 2]
        elif not path.endswith((".certificate", ".public_key", ".username")):
            found[path] = value

    walk(vault, "vault")
    assert len(found) > 30
    return found


def leaks(needles: dict[str, str], text: str) -> list[str]:
    return [where for where, secret in needles.items() if secret in text]


def test_the_detector_sees_a_canary(needles):
    """The positive control: a search that finds nothing must be able to find something."""
    where, secret = next(iter(needles.items()))
    assert leaks(needles, f"changed: [x] => {secret}") == [where]


@pytest.mark.parametrize("name", ["default-check.log", "default-converge.log", "default-create.log"])
def test_ansible_shows_no_secret_at_vvv_diff(needles, name):
    """Logs of runs are kept, mailed and pasted into tickets."""
    text = (LOGS / name).read_text()
    if name == "default-converge.log":
        assert "--- before" in text, "the run was not made with --diff: only make test does that"
        assert re.search(r"SSH: EXEC", text), "the run was not made with -vvv"
    assert leaks(needles, text) == []


def test_no_argument_list_holds_a_secret(needles):
    """Every user of a host may read every argument list."""
    text = (LOGS / "arguments.txt").read_text()
    assert "apt-get" in text or "AnsiballZ" in text or "python3" in text, "nothing was collected"
    assert len(text.splitlines()) > 200
    assert leaks(needles, text) == []


@pytest.mark.parametrize("host_name", ["crm_int", "crm_ext"])
def test_no_log_holds_a_secret(request, needles, host_name):
    """Journal and files under /var/log, rotated ones included."""
    host = request.getfixturevalue(host_name)
    files = "find /var/log -type f ! -path '*/journal/*' -exec zcat -f {} +"
    logs = host.check_output(f"(journalctl --no-pager -o cat; {files}) | LC_ALL=C tr -cd '[:print:]\\n'")
    assert len(logs) > 10_000
    assert leaks(needles, logs) == []
