"""Who may use which service, and send mail in whose name: pair by pair, and the rightful one as the control (N46).

Names, files, databases and PHP are test_isolation.py's.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import time

import pytest
from newsletters import ledger
from test_hostile_mail import source as outside
from test_isolation import APIS, CRM
from test_mail_policy import caught, submit

pytestmark = pytest.mark.mutates

HOSTS = {"int": "crm-int-01.torproject.test", "ext": "crm-ext-01.torproject.test"}
DOMAIN = {name: site["mail_domain"] for name, site in CRM.items()}
SENDS = [name for name, site in CRM.items() if site["mail_policy"] == "deliver"]


def hand_in(host, user: str, to: str, header: str, envelope: str = "", more: str = ""):
    """Submit by sendmail as a user; the command's result."""
    text = f"{more}From: {header}\nTo: {to}\nSubject: identity\n\nbody\n"
    sender = f"-f {shlex.quote(envelope)} " if envelope else ""
    line = f"printf %s {shlex.quote(text)} | /usr/sbin/sendmail -i {sender}{to}"
    return host.run(f"runuser -u {user} -- sh -c {shlex.quote(line)}")


def person(name: str) -> str:
    return f"identity-{name}-{time.time_ns()}@accepting.test"


def signatures(world, eventually, to: str) -> str:
    """The d= of what a provider got, or empty."""
    (entry,) = eventually(lambda: ledger(world, recipient=to), within=60)
    text = world.file(entry["message"]).content_string.replace("\r", "").partition("\n\n")[0]
    found = [part.strip().removeprefix("d=") for part in text.split(";") if part.strip().startswith("d=")]
    return " ".join(found)


@pytest.mark.parametrize("user", ["www-data", "nobody", "donate-api", "one-click"])
def test_on_ext_nobody_sends_as_the_newsletter(crm_ext, crm_int, world, user, eventually):
    """The exposed host's programs are the first that fall; a signed newsletter of theirs would be believed."""
    to = person(user)
    done = hand_in(crm_ext, user, to, "news@crm.torproject.test", "news@crm.torproject.test")
    if user == "one-click":
        assert done.rc == 0, done.stderr
        log = f"grep -F 'to=<{to}>' /var/log/mail.log | grep -F 'status=bounced'"
        eventually(lambda: "this host takes from here mail of" in crm_ext.run(log).stdout, within=30)
    else:
        assert done.rc != 0
        assert "is not allowed to submit mail" in done.stderr
    assert ledger(world, recipient=to) == []


def test_ext_listens_for_mail_nowhere(crm_ext):
    """A port on loopback would not know who submits."""
    assert crm_ext.run("bash -c '</dev/tcp/127.0.0.1/25'").rc != 0
    assert ":25 " not in crm_ext.check_output("ss -Hltn")


def test_what_ext_may_send_arrives(crm_ext, world, eventually):
    """The control: root's system mail, signed for the host that wrote it."""
    subject = f"identity {time.time_ns()}"
    crm_ext.check_output(f"printf 'Subject: {subject}\\n\\nx\\n' | sendmail root")
    eventually(
        lambda: [
            e
            for e in ledger(world, recipient="oncall@accepting.test")
            if e["message"] and subject in world.file(e["message"]).content_string
        ],
        within=60,
    )


@pytest.mark.parametrize(
    "sender", ["root@crm-ext-01.torproject.test", "one-click@crm-ext-01.torproject.test", "a@b.test"]
)
def test_int_takes_nothing_else_from_ext(crm_ext, sender):
    """Whatever runs there as Postfix: neither people nor other addresses of the sites are in its reach."""
    people = ["real@gmail.test", "civicrm+b.1.2.0123456789abcdef@crm.torproject.test", f"postmaster@{HOSTS['int']}"]
    talk = (
        f"import smtplib\nwith smtplib.SMTP('10.77.0.11', 25, timeout=20) as s:\n s.ehlo()\n s.mail('{sender}')\n"
        f" for to in {people}:\n"
        "  print(s.rcpt(to)[0])\n"
    )
    said = crm_ext.check_output(f"runuser -u postfix -- python3 -c {shlex.quote(talk)}")
    assert said.split() == ["554"] * 3


@pytest.mark.parametrize("owner", CRM)
def test_a_site_that_sends_is_signed_for_itself_and_speaks_for_no_other(crm_int, world, eventually, owner):
    """By sendmail and by SMTP; comments in From, nested or not, change nothing and keep no mail in maildrop."""
    (actor,) = SENDS
    to, name = person(owner), f"news@{DOMAIN[owner]}"
    assert hand_in(crm_int, actor, to, f"((nested) comments (x)) News <{name}>", f"x@{DOMAIN[actor]}").rc == 0
    if actor == owner:
        assert signatures(world, eventually, to) == DOMAIN[actor]
    else:
        refused = f"grep -F 'to=<{to}>' /var/log/mail.log; grep -F '{actor} may not send as {name}' /var/log/mail.log"
        eventually(lambda: f"{actor} may not send as {name}" in crm_int.run(refused).stdout, within=30)
        assert ledger(world, recipient=to) == []
    assert crm_int.check_output("ls /var/spool/postfix/maildrop") == ""


@pytest.mark.parametrize("owner", CRM)
def test_by_smtp_a_login_speaks_for_its_own_site(crm_int, world, eventually, vault, owner):
    """The same at port 587, where the client hears of it."""
    (actor,) = SENDS
    to, name = person(f"smtp-{owner}"), f"news@{DOMAIN[owner]}"
    password = vault["vault_sites"][actor]["mailbox_password"]
    for sender, header, taken in (
        (f"x@{DOMAIN[actor]}", name, actor == owner),
        (name, f"news@{DOMAIN[actor]}", actor == owner),
    ):
        done = submit(crm_int, actor, actor, password, sender, to, headers=f"From: {header}\n")
        assert (done.rc == 0) is taken, done.stderr
        assert taken or "may not send as" in done.stderr


# Says MAIL as it is told, which smtplib would tidy up; prints the last reply.
TYPED = """
import json, smtplib, sys
login, password, typed, header, to = json.load(sys.stdin)
with smtplib.SMTP("127.0.0.1", 587, timeout=20) as s:
    s.login(login, password)
    for command, argument in (("MAIL", "FROM:" + typed), ("RCPT", "TO:<" + to + ">")):
        code, said = s.docmd(command, argument)
        if code != 250:
            break
    else:
        code, said = s.data("From: " + header + chr(10) + "Subject: identity" + chr(10) * 2 + "body" + chr(10))
    print(code, said.decode())
"""
# Forms that Postfix reads as {local}@{domain}: quoted, by a route, with a dot at the end, with a comment.
FORMS = [
    '"{local}"@{domain}',
    "\\{local}@{domain}",
    "@a.test:{local}@{domain}",
    "{local}@{domain}.",
    "{local}@(x){domain}",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("owner", [name for name in CRM if name not in SENDS])
def test_by_smtp_no_other_form_of_an_address_is_anothers(crm_int, world, vault, owner, form):
    """Milters get MAIL as it was typed; the envelope that Postfix takes from it would be another's."""
    (actor,) = SENDS
    password = vault["vault_sites"][actor]["mailbox_password"]
    theirs, own = form.format(local="news", domain=DOMAIN[owner]), f"news@{DOMAIN[actor]}"
    for typed, header in ((f"<{theirs}>", own), (f"<{own}>", theirs)):
        to = person("typed")
        asked = shlex.quote(json.dumps([actor, password, typed, header, to]))
        done = crm_int.run(f"printf %s {asked} | runuser -u {actor} -- python3 -c {shlex.quote(TYPED)}")
        assert done.stdout.startswith("5"), (typed, header, done.stdout, done.stderr)
        assert ledger(world, recipient=to) == []


@pytest.mark.parametrize("actor", [name for name in CRM if name not in SENDS])
@pytest.mark.parametrize("owner", SENDS)
def test_what_is_caught_bears_nobodys_signature(crm_int, eventually, actor, owner):
    """Whoever may read the catcher could have a signed newsletter made there; a brought Received line tells nothing."""
    to, uid = person(f"caught-{actor}"), crm_int.user(owner).uid
    forged = (
        f"Received: by {HOSTS['int']} (Postfix, from userid {uid})\n"
        "\tid 4jWKRG0fdJzWSbn; Fri, 20 Nov 2026 00:00:00 +0000 (UTC)\n"
        f"X-Signed-As: news@{DOMAIN[owner]}\n"
    )
    for more in ("", forged):
        assert hand_in(crm_int, actor, to, f"news@{DOMAIN[owner]}", f"x@{DOMAIN[owner]}", more).rc == 0
    found = eventually(lambda: len(got := caught(crm_int, actor, to)) == 2 and got)
    assert not [headers for headers in found if "DKIM-Signature" in headers]


def test_a_site_has_no_envelope_of_another(crm_int, world, eventually):
    """Dropped, and told in the journal: its bounce would reach the other, and count in the other's name."""
    to = person("envelope")
    assert hand_in(crm_int, "crm", to, "news@crm.torproject.test", f"root@{HOSTS['int']}").rc == 0
    said = f"dropped: crm may not send as root@{HOSTS['int']}"
    told = f"journalctl -u receipt-milter --since=-1min -o cat | grep -F '{said}'"
    eventually(lambda: crm_int.run(told).rc == 0, within=20)
    assert ledger(world, recipient=to) == []


def test_loopback_signs_for_no_stranger(crm_int, world, eventually):
    """Port 25 takes loopback for a stranger: what it hands in for a human leaves unsigned."""
    subject = f"identity {time.time_ns()}"
    talk = (
        "import smtplib\nwith smtplib.SMTP('127.0.0.1', 25, timeout=20) as s:\n"
        f" s.sendmail('x@crm.torproject.test', ['postmaster@{HOSTS['int']}'], "
        f"'From: news@crm.torproject.test\\nX-Signed-As: news@crm.torproject.test\\nSubject: {subject}\\n\\nx\\n')\n"
    )
    crm_int.check_output(f"runuser -u crm -- python3 -c {shlex.quote(talk)}")

    def arrived():
        found = ledger(world, recipient="oncall@accepting.test")
        texts = [world.file(e["message"]).content_string for e in found[-5:] if e["message"]]
        return [text for text in texts if subject in text]

    (text,) = eventually(arrived, within=60)
    assert "DKIM-Signature" not in text


# Tries every socket of the host as each of the users on standard input: {resource: [users who got through]}.
TRIES = """
import json, os, pwd, re, socket, subprocess, sys
def listed(options):
    return [line.split() for line in subprocess.check_output(["ss", "-H", *options.split()], text=True).splitlines()]
places = set()
for kind, option in (("tcp", "-ltn"), ("udp", "-lun")):
    for line in listed(option):
        address, _, port = line[3].rpartition(":")
        address = address.strip("[]").partition("%")[0]
        places.add((kind, {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(address, address), int(port)))
for line in listed("-lx") + [line for line in listed("-ax") if line[0] == "u_dgr"]:
    kind, name = line[0], line[4]
    if name.startswith("/"):
        places.add((kind, name, 0))
    elif re.match("(public|private)/", name):
        places.add((kind, "/var/spool/postfix/" + name, 0))
    # What the kernel names by itself, five digits, belongs to a client.
    elif name.startswith("@") and not re.fullmatch("@[0-9a-f]{5}", name):
        places.add((kind, chr(0) + name[1:], 0))
def reached(kind, name, port):
    if kind in ("u_str", "u_dgr", "u_seq"):
        made = {"u_str": socket.SOCK_STREAM, "u_dgr": socket.SOCK_DGRAM, "u_seq": socket.SOCK_SEQPACKET}[kind]
        with socket.socket(socket.AF_UNIX, made) as s:
            s.settimeout(2)
            s.connect(name)
        return True
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.connect((name, port))
        if kind == "udp":
            s.settimeout(0.05)
            s.send(b"")
            try:
                s.recv(1)
            except TimeoutError:
                pass
    return True
found = {kind + " " + (name if not port else "[%s]:%d" % (name, port)): [] for kind, name, port in sorted(places)}
for user in json.load(sys.stdin):
    entry = pwd.getpwnam(user)
    read, write = os.pipe()
    if not os.fork():
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        mine = []
        for kind, name, port in sorted(places):
            try:
                reached(kind, name, port)
                mine.append(kind + " " + (name if not port else "[%s]:%d" % (name, port)))
            except (PermissionError, ConnectionRefusedError, TimeoutError, FileNotFoundError):
                pass
            except OSError as error:
                if error.errno not in (101, 113):
                    mine.append("%s %s: %s" % (kind, name, error))
        os.write(write, json.dumps(mine).encode())
        os._exit(0)
    os.close(write)
    for name in json.loads(b"".join(iter(lambda: os.read(read, 65536), b""))):
        found.setdefault(name, []).append(user)
    os.close(read)
    os.wait()
print(json.dumps(found))
"""
EVERYBODY = "everybody"
SITES = [site["user"] for site in CRM.values()]
# Resource -> who may use it besides root; what is not here is root's alone.
SYSTEM = {
    # The journal and syslog take lines of everybody, and know who wrote them; the last is not believed.
    r"u_\w+ /run/systemd/journal/(dev-log|socket|stdout|syslog)": EVERYBODY,
    r"u_dgr /var/spool/postfix/dev/log": EVERYBODY,
    r"u_dgr /run/systemd/notify": EVERYBODY,
    r"u_\w+ /run/dbus/system_bus_socket": EVERYBODY,
    # systemd's own, and its own affair.
    r"u_str /run/systemd/(\w+/)?io\.systemd\.\w+": None,
    # sshd asks for a key there, too.
    r"u_str /run/ssh-unix-local/socket": EVERYBODY,
    r"(tcp|udp) \[(127\.0\.0\.1|::1)\]:53": {"_apt", "postfix", "systemd-timesync"},
    r"u_str /run/unbound\.ctl": {"unbound"},
    # apt's mirrors may be anywhere, by the inventory.
    r"tcp \[10\.77\.0\.1\d\]:443": {"_apt"},
    r"tcp \[fd77::1\d\]:443": {"_apt"},
    r"u_\w+ /var/spool/postfix/(public|private)/\S+": {"postfix"},
}
INT = SYSTEM | {
    r"(tcp|udp) \[(127\.0\.0\.1|::1)\]:53": SYSTEM[r"(tcp|udp) \[(127\.0\.0\.1|::1)\]:53"] | set(SITES),
    r"tcp \[127\.0\.0\.1\]:25": {"postfix", *SENDS},
    r"tcp \[127\.0\.0\.1\]:587": {*SENDS},
    r"tcp \[127\.0\.0\.1\]:10025": {"mail-policy"},
    r"tcp \[(127\.0\.0\.1|::1)\]:993": {*SITES},
    r"tcp \[127\.0\.0\.1\]:3903": {"mtail"},
    r"tcp \[(10\.77\.0\.11|fd77::11)\]:6379": {CRM[name]["user"] for name in CRM if CRM[name].get("api_command")},
    # MariaDB asks for the database's password, and root alone comes in by its uid.
    r"u_str /run/mysqld/mysqld\.sock": EVERYBODY,
    r"u_str /run/opendkim/opendkim\.sock": {"opendkim", "postfix"},
    r"u_str /run/receipt-milter(-\w+)?\.sock": {"postfix"},
    r"u_str /run/postfix-pace/socket": {"postfix"},
    r"u_str /run/mail-policy-again\.sock": {"mail-policy"},
    r"u_str /run/dovecot/lmtp": {"postfix"},
    r"u_str /run/dovecot/(login|token-login)/\S+": {"dovenull"},
    r"u_str /run/dovecot/quota-warning": {f"vmail-{name}" for name in CRM},
    r"u_str /run/dovecot/(auth-(client|login|userdb|worker)|dict(-async)?|stats-writer)": {"dovecot"},
    r"u_str /run/dovecot/(imap-hibernate|imap-urlauth-worker|indexer-worker)": {"dovecot"},
    r"u_str /run/php(-fpm-[a-z-]+)?/[a-z-]+\.sock": {"www-data"},
    **{rf"u_str {site['cache_socket']}": {site["user"], f"redis-{site['cache_instance']}"} for site in CRM.values()},
}
EXT = SYSTEM | {
    r"(tcp|udp) \[(127\.0\.0\.1|::1)\]:53": SYSTEM[r"(tcp|udp) \[(127\.0\.0\.1|::1)\]:53"]
    | {"www-data", *(site["user"] for site in APIS.values())},
    r"tcp \[\S+\]:(80|443)": {"_apt"},
    r"u_str /run/php(-fpm-[a-z-]+)?/[a-z-]+\.sock": {"www-data"},
}


@pytest.mark.parametrize(("name", "table"), [("crm_int", INT), ("crm_ext", EXT)])
def test_every_socket_and_port_is_for_those_who_are_listed(request, name, table):
    """All users by all that listens: TCP and UDP on every address, sockets with a path and without (N46)."""
    host = request.getfixturevalue(name)
    users = [line.split(":")[0] for line in host.check_output("getent passwd").splitlines()]
    users.remove("root")
    encoded = base64.b64encode(TRIES.encode()).decode()
    tried = f"echo {shlex.quote(json.dumps(users))} | python3 -c \"import base64; exec(base64.b64decode('{encoded}'))\""
    found = json.loads(host.check_output(tried))
    assert len(found) > 20
    wrong = {}
    for resource, reached in found.items():
        allowed = next((who for pattern, who in table.items() if re.fullmatch(pattern, resource)), set())
        expected = set(users) if allowed == EVERYBODY else set(allowed or []) & set(users)
        if allowed is not None and set(reached) != expected:
            wrong[resource] = {"too many": sorted(set(reached) - expected), "missing": sorted(expected - set(reached))}
    assert wrong == {}


def offered(host, target: str, starttls: str = "") -> set[str]:
    """The suites of TLS 1.2 and older that a port takes, each asked for by itself."""
    script = f"""
    for suite in $(openssl ciphers 'ALL:COMPLEMENTOFALL:@SECLEVEL=0' | tr : ' '); do
        case $suite in TLS_*) continue;; esac
        openssl s_client -connect {target} {starttls} -no_tls1_3 -cipher "$suite:@SECLEVEL=0" </dev/null 2>/dev/null |
            grep -q 'Cipher is [^(]' && echo $suite
    done; true
    """
    return set(host.check_output(f"timeout 300 sh -c {shlex.quote(script)}").split())


INTERMEDIATE = re.compile(r"(ECDHE-(ECDSA|RSA)|DHE-RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)")
CBC = re.compile(r"((ECDHE-(ECDSA|RSA)|DHE-RSA)-)?AES(128|256)(-GCM)?-SHA(256|384)?")


def test_imaps_and_smtp_offer_the_one_list_of_suites(crm_int):
    """Mozilla's intermediate; at 25 AES in CBC mode stays, nothing without a certificate, DH from 2048 bits (N47)."""
    imaps, smtp = offered(crm_int, "127.0.0.1:993"), offered(crm_int, "127.0.0.1:25", "-starttls smtp")
    assert imaps
    assert not [suite for suite in imaps if not INTERMEDIATE.fullmatch(suite)]
    assert {suite for suite in smtp if INTERMEDIATE.fullmatch(suite)} == imaps | {
        s for s in smtp if s.startswith("DHE-")
    }
    assert not [suite for suite in smtp if not INTERMEDIATE.fullmatch(suite) and not CBC.fullmatch(suite)]
    assert [suite for suite in smtp if CBC.fullmatch(suite)]
    for target, more in (("127.0.0.1:993", ""), ("127.0.0.1:25", "-starttls smtp")):
        asked = f"openssl s_client -connect {target} {more} -no_tls1_3 -cipher DHE:@SECLEVEL=0 </dev/null 2>&1"
        bits = re.findall(r"Server Temp Key: DH, (\d+) bits", crm_int.run(asked).stdout)
        assert all(int(number) >= 2048 for number in bits)
        for old in ("-tls1", "-tls1_1"):
            asked = f"openssl s_client -connect {target} {more} {old} -cipher ALL:@SECLEVEL=0 </dev/null 2>/dev/null"
            assert not re.search(r"Cipher is [^(]", crm_int.run(asked).stdout)


def test_a_stranger_gets_no_success_report(world):
    """It would go to whom a forged sender names, in our name; and tell which addresses exist."""
    talk = (
        "import smtplib, re\n"
        f"source = {outside(world)!r}\n"
        "with smtplib.SMTP('crm-int-01.torproject.test', 25, 'mx.outside.test', 60, (source, 0)) as s:\n"
        " s.ehlo(); print('dsn' in s.esmtp_features, 'pipelining' in s.esmtp_features)\n"
        " s.mail('victim@accepting.test')\n"
        " print(s.docmd('RCPT', 'TO:<postmaster@crm.torproject.test> NOTIFY=SUCCESS')[0])\n"
    )
    assert world.check_output(f"python3 -c {shlex.quote(talk)}").split() == ["False", "True", "501"]


def test_our_own_bounces_are_signed(crm_int, world, eventually):
    """What this host itself says of mail is believed by its signature, too."""
    stamp = f"refused {time.time_ns()}"
    mail = f"Subject: {stamp}\\n\\nx\\n"
    crm_int.check_output(f"printf '{mail}' | sendmail -f root@{HOSTS['int']} nobody@refusing.test")

    def arrived():
        found = ledger(world, recipient="oncall@accepting.test")
        texts = [world.file(e["message"]).content_string.replace("\r", "") for e in found[-10:] if e["message"]]
        return [text for text in texts if stamp in text]

    (text,) = eventually(arrived, within=60)
    assert f"d={HOSTS['int']};" in text.partition("\n\n")[0]


LINE = (
    "4jZZZZZZZZzZZZZ: to=<{}@gmail.test>, relay=mx.gmail.test[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 ok)"
)
WRITERS = {
    "syslog": "logger -p mail.info -t 'postfix/smtp[7]' {}",
    "journal": "printf 'PRIORITY=6\\nSYSLOG_FACILITY=2\\nSYSLOG_IDENTIFIER=postfix/smtp\\nMESSAGE=%s\\n' {} "
    "| logger --journald",
    "stdout": "(printf '<22>'; echo {}) | systemd-cat -t postfix/smtp --level-prefix=true",
    "postlog": "postlog -t postfix/smtp -p info {}",
    "spool": "test ! -S /var/spool/postfix/dev/log || logger -u /var/spool/postfix/dev/log -p mail.info {}",
    "socket": "logger -u /run/systemd/journal/syslog -p mail.info -t 'postfix/smtp[7]' {}",
}


@pytest.mark.parametrize("way", WRITERS)
def test_nobody_writes_lines_as_postfix(crm_int, eventually, way):
    """mtail, the pace and the commands believe the mail log: a site could slow another's mail down (N46)."""
    stamp = f"forged-{way}-{time.time_ns()}"
    crm_int.check_output(f"runuser -u crm -- sh -c {shlex.quote(WRITERS[way].format(shlex.quote(LINE.format(stamp))))}")
    control = f"{stamp}-control"
    crm_int.check_output(f"logger -p mail.info -t 'postfix/smtp[7]' {control}")
    eventually(lambda: crm_int.run(f"grep -qF {control} /var/log/mail.log").rc == 0, within=10)
    assert crm_int.run(f"grep -F {stamp}@ /var/log/mail.log").stdout == ""
    # systemd keeps the facility of what a program prints.
    if way in ("syslog", "journal", "postlog", "socket"):
        assert crm_int.run(f"grep -cF {stamp}@ /var/log/mail-others.log").stdout.strip() == "1"
