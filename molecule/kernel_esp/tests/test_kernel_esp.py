"""The private link with ESP in the kernel, as on real hosts: what passes, what never leaves in clear, what heals (S2).

The virtual machine has run already (converge.yml); molecule/kernel_esp/machine/main.py wrote down what it saw.
"""

import json
import re

import pytest
from fixtures import ROOT

ANSWERS = ROOT / ".lab" / "logs" / "kernel_esp-machine"
# Two ways, two families, TCP and UDP, from the inner address and from the one that the kernel takes.
ATTEMPTS = 16
# What hosts say in clear: IKE and ESP in UDP, and who has which outer address.
OUTSIDE = {"udp/500", "udp/4500", "arp", "ip6/58"}


@pytest.fixture(scope="module")
def seen():
    """A function (step) -> what the machine saw at that step."""
    steps = {line["step"]: line for line in map(json.loads, ANSWERS.read_text().splitlines())}

    def _seen(step):
        console = ANSWERS.with_suffix(".console").read_text()
        assert step in steps, f"the machine did not get to '{step}':\n{console[-6000:]}"
        return steps[step]

    return _seen


def delivered(step) -> list[dict]:
    """Attempts whose message arrived or was answered, out of all that had to be made."""
    assert len(step["attempts"]) == ATTEMPTS
    return [attempt for attempt in step["attempts"] if attempt["arrived"] or attempt["answered"]]


def answered(step) -> list[dict]:
    return [attempt for attempt in delivered(step) if attempt["answered"]]


def test_it_was_debians_kernel_and_the_role_would_use_it(seen):
    """ipsec_data_path auto asks the same question on a real host; a wrong no would cost most of the bandwidth."""
    kernel = seen("kernel")
    assert kernel["release"].endswith("-cloud-amd64")
    assert (kernel["probe"], kernel["output"]) == (0, "")


@pytest.mark.parametrize("name", ["crm_int", "crm_ext"])
def test_it_ran_what_the_host_runs(request, seen, name):
    """Connections, keys, certificates and guard are the same bytes in both data paths: this proves the role's."""
    host = request.getfixturevalue(name)
    files = host.check_output("find /etc/swanctl /etc/ipsec-guard.nft -type f -exec sha256sum {} +")
    in_machine = seen("files")[host.check_output("hostname -s")]
    assert sorted(in_machine.splitlines()) == sorted(files.splitlines())
    for part in ("/etc/swanctl/conf.d/crm-", "/etc/swanctl/private/civicrm.pem", "/etc/ipsec-guard.nft"):
        assert part in in_machine


@pytest.mark.parametrize("name", ["crm-int-01", "crm-ext-01"])
def test_the_sas_are_the_kernels(seen, name):
    """charon negotiated with the postquantum key, and the kernel holds one SA each way: AES-GCM in UDP 4500."""
    up = seen("up")
    assert re.search(r"ESTABLISHED.*AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE_25519/PPK.*INSTALLED", up["sas"][name], re.S)
    sas = [sa for sa in up["kernel"][name].split("\nsrc ") if "spi 0x00000000" not in sa]
    assert len(sas) >= 2
    for sa in sas:
        assert "proto esp" in sa
        assert "aead rfc4106(gcm(aes)) " in sa
        assert "encap type espinudp sport 4500 dport 4500" in sa


def test_both_families_pass_and_the_wire_shows_ike_and_esp_only(seen):
    """Canaries arrive and are answered both ways, and what either host sent holds none of them."""
    through = seen("through")
    assert len(answered(through)) == ATTEMPTS, through["attempts"]
    assert set(through["wire"]) <= OUTSIDE
    assert through["wire"]["udp/4500"] >= 2 * ATTEMPTS


def test_rekeys_lose_nothing(seen):
    """CHILD_SA and IKE_SA are replaced every hour or two; a mailing in between must not notice. UDP repeats nothing."""
    rekey = seen("rekey")
    assert rekey["old"]
    assert rekey["new"]
    assert not set(rekey["old"]) & set(rekey["new"])
    assert rekey["sent"] >= 200
    assert rekey["answered"] == rekey["sent"]
    assert set(rekey["wire"]) <= OUTSIDE


def test_the_link_comes_back_after_a_killed_charon(seen):
    """The new charon finds the old one's SAs and policies in the kernel, and the peer the old IKE_SA."""
    restart = seen("restart")
    assert len(answered(restart)) == ATTEMPTS, restart["attempts"]
    assert set(restart["wire"]) <= OUTSIDE


@pytest.mark.parametrize("step", ["stopped", "killed"])
def test_without_charon_nothing_passes_and_nothing_leaves(seen, step):
    """A stopped charon takes its policies with it, and a default route would carry the CRM's traffic in clear."""
    closed = seen(step)
    assert delivered(closed) == []
    assert not closed["wire"].keys() & {"inner", "canary"}, closed["wire"]


def test_a_guarded_host_takes_nothing_in_clear(seen):
    """The peer lost its guard and sends in clear: the other's guard alone still refuses."""
    half = seen("half")
    assert delivered(half) == []
    assert half["wire"]["canary"] > 0


def test_without_guards_the_capture_shows_the_canary(seen):
    """The positive control: the same attempts arrive in clear, so their absence above is the guard's work."""
    control = seen("control")
    assert len(answered(control)) == ATTEMPTS, control["attempts"]
    assert control["wire"]["canary"] >= 2 * ATTEMPTS
    assert control["wire"]["inner"] > control["wire"]["canary"]
