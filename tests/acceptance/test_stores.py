"""What the stores keep and from whom: MariaDB and Redis (S6, the first form of S7)."""

import re
import shlex

import pytest
from daemons import is_back, kill

SITES = {"crm": "crm", "staging-crm": "staging_crm", "test-crm": "test_crm"}


def sql(crm_int, user: str, password: str, statement: str, database: str = ""):
    """Run a statement as a database user; the password goes by standard input."""
    return crm_int.run(
        f"printf '[client]\\nuser={user}\\npassword={password}\\n' | "
        f'mariadb --defaults-extra-file=/dev/stdin -NBe "{statement}" {database}'
    )


def test_mariadb_listens_on_its_socket_only(crm_int):
    """No port, not even on loopback: a site's user needs the socket and its password (S6)."""
    assert "mariadbd" not in crm_int.check_output("ss -Hlntp")
    assert crm_int.check_output("mariadb -NBe 'SELECT @@skip_networking'") == "1"


@pytest.mark.parametrize("site", SITES)
def test_each_sites_user_reads_only_its_own_database(crm_int, vault, site):
    """Staging's credentials, once leaked, must open nothing of production (S6)."""
    user = SITES[site]
    password = vault["vault_sites"][site]["database_password"]
    done = sql(crm_int, user, password, "SHOW DATABASES")
    assert set(done.stdout.split()) == {user, "information_schema"}
    for other in set(SITES.values()) - {user}:
        assert "denied" in sql(crm_int, user, password, "SHOW TABLES", other).stderr
    for statement in ("SELECT * FROM mysql.user", "SELECT LOAD_FILE('/etc/passwd') INTO OUTFILE '/tmp/x'"):
        assert "denied" in sql(crm_int, user, password, statement).stderr
    assert "denied" in sql(crm_int, user, "wrong", "SELECT 1").stderr


def test_no_site_can_take_all_connections(crm_int):
    """One that hangs holds on to its connections; the others need some then."""
    limits = crm_int.check_output(
        'mariadb -NBe "SELECT max_user_connections < @@max_connections AND max_user_connections > 0 FROM mysql.user '
        "WHERE User IN ('crm', 'staging_crm', 'test_crm')\""
    ).split()
    assert len(limits) == 3
    assert set(limits) == {"1"}


def test_what_mariadb_says_of_itself(crm_int):
    """utf8mb4 for all names, a binlog to replay, a slow log to read, no acknowledged write lost (S6)."""
    names = ["character_set_server", "log_bin", "slow_query_log", "sync_binlog"]
    names += ["innodb_flush_log_at_trx_commit", "log_bin_trust_function_creators"]
    values = crm_int.check_output(f"mariadb -NBe 'SELECT {','.join('@@' + n for n in names)}'")
    assert values.split() == ["utf8mb4", "1", "1", "1", "1", "1"]
    charsets = crm_int.check_output(
        'mariadb -NBe "SELECT DISTINCT default_character_set_name FROM information_schema.schemata '
        "WHERE schema_name IN ('crm', 'staging_crm', 'test_crm')\""
    )
    assert charsets == "utf8mb4"


# The tools' own dump and load, as civicrm-backup and civicrm-release call them.
DUMP_AND_LOAD = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/civicrm-tools/src")
from civicrm_tools.core import mariadb
with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
    file = Path(folder) / "dump.sql.gz"
    mariadb.dump("packet_trial", file)
    mariadb.check(file)
    mariadb.load("packet_trial", file, "utf8mb4", "utf8mb4_unicode_ci")
"""


@pytest.mark.mutates
def test_a_value_above_half_of_what_can_be_stored_comes_back_from_a_dump(crm_int):
    """A dump doubles a BLOB: a snapshot was complete and verified, and could not be loaded (9 MiB at 16 MiB)."""
    tables = "CREATE DATABASE packet_trial; CREATE TABLE packet_trial.t (a LONGBLOB)"
    fill = "INSERT INTO t SELECT REPEAT(CHAR(255, 0, 39, 10), @@max_allowed_packet DIV 8 + 1000)"
    state = "SELECT @@GLOBAL.max_allowed_packet, LENGTH(a), MD5(a) FROM packet_trial.t"
    account = (
        "CREATE USER packet_trial@localhost IDENTIFIED BY 'packet trial' WITH MAX_USER_CONNECTIONS 1; "
        "GRANT CREATE, DROP, ALTER, INSERT, SELECT, LOCK TABLES ON packet_trial.* TO packet_trial@localhost"
    )
    crm_int.check_output(f'mariadb -e "{tables}; {account}"')
    limits = "SELECT max_user_connections, authentication_string FROM mysql.user WHERE User = 'packet_trial'"
    try:
        account_before = crm_int.check_output(f'mariadb -NBe "{limits}"')
        crm_int.check_output(f"mariadb packet_trial -e '{fill}'")
        before = crm_int.check_output(f"mariadb -NBe '{state}'")
        assert "NULL" not in before
        crm_int.run_expect([0], f"python3 -IB - <<'END'\n{DUMP_AND_LOAD}END")
        assert crm_int.check_output(f"mariadb -NBe '{state}'") == before
        assert crm_int.check_output(f'mariadb -NBe "{limits}"') == account_before
    finally:
        crm_int.check_output("mariadb -e 'DROP DATABASE packet_trial; DROP USER packet_trial@localhost'")


# A dump as a site might leave it; the checksum of the one that it came in agrees.
HOSTILE_DUMP = r"""
import gzip, sys, tempfile
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/civicrm-tools/src")
from civicrm_tools.core import mariadb
with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
    good, bad = Path(folder) / "good.gz", Path(folder) / "bad.gz"
    mariadb.dump("test_crm", good)
    whole = gzip.open(good).read()
    for statement in sys.argv[1:]:
        bad.write_bytes(gzip.compress(whole.replace(b"\n-- Dump comp", b"\n" + statement.encode() + b"\n-- Dump comp")))
        try:
            mariadb.load("test_crm", bad, "utf8mb4", "utf8mb4_unicode_ci")
            print("LOADED", statement)
        except mariadb.Incomplete as error:
            print(error)
    mariadb.load("test_crm", good, "utf8mb4", "utf8mb4_unicode_ci")
"""


@pytest.mark.mutates
def test_a_dump_may_do_no_more_than_its_site(crm_int):
    """It was loaded as root: a site's own text could grant rights, write files and reach another site's tables."""
    statements = (
        "GRANT ALL ON *.* TO test_crm@localhost;",
        "USE crm; CREATE TABLE stolen (i INT);",
        "SELECT 1 INTO OUTFILE '/var/tmp/stolen';",
        "SET GLOBAL max_connections = 10;",
        "\\! touch /var/tmp/stolen",
    )
    arguments = " ".join(shlex.quote(statement) for statement in statements)
    said = crm_int.run_expect([0], f"python3 -IB - {arguments} <<'END'\n{HOSTILE_DUMP}END").stdout.splitlines()
    assert len(said) == len(statements)
    assert all(re.search(r"^loading it: mariadb ended with 1: ERROR .*(denied|Unknown command)", line) for line in said)
    assert not crm_int.file("/var/tmp/stolen").exists
    grants = crm_int.check_output('mariadb -NBe "SHOW GRANTS FOR test_crm@localhost"')
    assert "ALL PRIVILEGES" not in grants and grants.count("*'") + grants.count("'*") == 1


def redis(host, command: str, user: str = "", password: str = "", port: int = 6379) -> str:
    """Ask the queue on int's inner address; the password goes by the environment, as redis-cli wants it."""
    login = f"-p {port} --user {user}" if user else f"-p {port}"
    script = f"read -r REDISCLI_AUTH; export REDISCLI_AUTH; redis-cli -h 10.77.0.11 {login} --no-auth-warning {command}"
    done = host.run(f"printf '%s\\n' '{password}' | sh -c '{script}' 2>&1")
    return done.stdout.strip()


def test_the_queue_answers_nobody_without_a_password(crm_int):
    """Not even PING: the inner address is reachable from another host (S7)."""
    assert "NOAUTH" in crm_int.run("redis-cli -h 10.77.0.11 ping").stdout


@pytest.mark.mutates
def test_the_writer_may_push_donations_and_nothing_else(crm_int, vault):
    """ext is the exposed host; what it knows must not let anybody read, delete or reconfigure (S7)."""
    # staging's queue: nobody works on it.
    key, writer = "donations:staging-donate-api", vault["vault_donation_queues"]["staging-donate-api"]["writer"]
    worker = vault["vault_queue"]["worker"]
    assert redis(crm_int, f"LPUSH {key} x", "writer-staging-donate-api", writer, 6380) == "1"
    try:
        for command in (
            f"LRANGE {key} 0 -1", f"RPOP {key}", f"DEL {key}",
            "CONFIG GET dir", "FLUSHALL", "KEYS x", "LPUSH other:key x",
        ):  # fmt: skip
            assert "NOPERM" in redis(crm_int, command, "writer-staging-donate-api", writer, 6380), command
        assert redis(crm_int, "CONFIG GET appendfsync", "worker", worker, 6380).split() == ["appendfsync", "always"]
    finally:
        assert redis(crm_int, f"DEL {key}", "worker", worker, 6380) == "1"


def test_each_sites_cache_is_for_its_own_group(crm_int):
    """Write access to a cache is code execution in the site: CiviCRM unserializes what it finds (S7)."""
    for owner in SITES:
        for user in SITES:
            done = crm_int.run(f"runuser -u {user} -- redis-cli -s /run/redis-cache-{owner}/redis.sock ping 2>&1")
            assert (done.stdout.strip() == "PONG") is (user == owner), (user, owner, done.stdout)


@pytest.mark.mutates
@pytest.mark.parametrize("unit", ["mariadb", "redis-server@queue", "redis-server@cache-crm"])
def test_a_killed_store_comes_back(crm_int, eventually, unit):
    """Nobody has to be woken up for it."""
    killed = kill(crm_int, unit)
    eventually(lambda: is_back(crm_int, unit, killed))
