"""The tunnel between the hosts: up on both sides, both address families, encrypted on the wire (first form of S2)."""

import subprocess

import pytest

INNER = {
    "crm-int-01": ("10.77.0.11", "fd77::11"),
    "crm-ext-01": ("10.77.0.12", "fd77::12"),
    "ops": ("10.77.0.13", "fd77::13"),
}


@pytest.mark.parametrize("name", ["crm_int", "crm_ext", "ops"])
def test_every_endpoint_has_an_sa_with_every_other(request, eventually, name):
    """Established and installed, with the postquantum preshared key; two SAs from crossing starts are harmless."""
    host = request.getfixturevalue(name)
    own = host.check_output("hostname -s")

    def complete():
        sas = host.check_output("swanctl --list-sas")
        return all(
            f"{peer}: #" in sas and sas.count("INSTALLED") >= 2 and "/PPK" in sas for peer in INNER if peer != own
        )

    eventually(complete, within=60)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_inner_addresses_reach_each_other(crm_int, eventually, family):
    """From int to ext and ops and back, in both families."""
    for peer in ("crm-ext-01", "ops"):
        eventually(
            lambda peer=peer: (
                crm_int.run(f"ping -c1 -W2 -I {INNER['crm-int-01'][family]} {INNER[peer][family]}").rc == 0
            )
        )


def test_services_bind_to_inner_addresses_that_exist_before_them(crm_int):
    """Redis' queue and Apache listen on the inner address, also after the reboot that precedes these tests."""
    listening = crm_int.check_output("ss -Hlnt")
    for address in ("10.77.0.11:443", "[fd77::11]:443", "10.77.0.11:6379", "[fd77::11]:6379"):
        assert address in listening
    assert "0.0.0.0:443" not in listening
    order = crm_int.check_output("systemctl show -p Before --value ipsec-inner-addresses.service")
    assert "network.target" in order.split()


CAPTURE = """
import select, socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.bind(("eth0", 0))
print("ready", flush=True)
clear = esp = 0
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    ready, _, _ = select.select([wire, sys.stdin], [], [], 1)
    if wire in ready:
        frame = wire.recv(65535)
        clear += b"CANARY-IN-CLEAR" in frame
        # Ethernet, IPv4 without options, UDP to port 4500
        esp += frame[23] == 17 and frame[36:38] == (4500).to_bytes(2, "big")
    elif ready:
        break
print(clear, esp)
"""


def canaries_on_the_wire(host, send: str) -> tuple[int, int]:
    """Return how many frames on the host's outer interface showed the canary, and how many were ESP in UDP."""
    pid = subprocess.check_output(
        ["podman", "inspect", "-f", "{{.State.Pid}}", host.check_output("hostname -s")], text=True
    )
    capture = subprocess.Popen(
        ["nsenter", "--net", "--target", pid.strip(), "python3", "-c", CAPTURE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert capture.stdout.readline() == "ready\n"
    answer = host.check_output(send)
    assert answer, "nobody answered the canary: the test would prove nothing"
    clear, esp = capture.communicate("stop\n", timeout=60)[0].split()
    return int(clear), int(esp)


def send_canary(address: str, port: int) -> str:
    """Return a command that sends the canary over TCP and prints the first line of the answer."""
    program = (
        f"import socket; s = socket.create_connection(('{address}', {port}), 10); s.sendall(b'CANARY-IN-CLEAR\\r\\n'); "
        "print(s.recv(100).decode().strip())"
    )
    return f'python3 -c "{program}"'


def test_what_crosses_the_wire_is_encrypted(crm_ext):
    """A canary from ext reaches int's queue and is answered, and the wire shows ESP in UDP but never the canary.
    The positive control, the same canary to world in clear, proves that the detector sees."""
    clear, esp = canaries_on_the_wire(crm_ext, send_canary("10.77.0.11", 6379))
    assert (clear, esp > 0) == (0, True)
    clear, _ = canaries_on_the_wire(crm_ext, send_canary("198.51.100.21", 25))
    assert clear > 0
