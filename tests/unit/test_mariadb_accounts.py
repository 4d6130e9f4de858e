"""What a site's database user lacks or has too much, read from SHOW GRANTS of MariaDB 10.11 and 11.8."""

from __future__ import annotations

import pytest
from loading import load

accounts = load("plugins/modules/mariadb_accounts.py")
ACCOUNT = {"name": "test_crm", "user": "crm", "password": "correct horse battery"}
HASH = accounts.password_hash(ACCOUNT["password"])
LIMIT = " WITH MAX_USER_CONNECTIONS 80"
UNLIMITED = f"GRANT USAGE ON *.* TO `crm`@`localhost` IDENTIFIED BY PASSWORD '{HASH}'"
LOGIN = UNLIMITED + LIMIT
RIGHTS = r"GRANT INSERT, SELECT, LOCK TABLES ON `test\_crm`.* TO `crm`@`localhost`"
OTHER = "*" + "A" * 40
ROTATING = (
    "GRANT USAGE ON *.* TO `crm`@`localhost` IDENTIFIED VIA mysql_native_password USING '{}' "
    "OR mysql_native_password USING '{}'" + LIMIT
)


@pytest.mark.parametrize(
    ("grants", "verbs"),
    [
        (None, ["CREATE", "ALTER", "GRANT"]),
        # A site that takes all connections would take them from the others.
        ([UNLIMITED, RIGHTS], ["ALTER"]),
        ([UNLIMITED + LIMIT.replace("80", "800"), RIGHTS], ["ALTER"]),
        ([LOGIN, RIGHTS], []),
        ([LOGIN], ["GRANT"]),
        ([LOGIN, RIGHTS.replace("INSERT, ", "")], ["GRANT"]),
        ([LOGIN, RIGHTS.replace("INSERT", "EVENT, INSERT")], ["REVOKE", "GRANT"]),
        ([LOGIN, RIGHTS + " WITH GRANT OPTION"], ["REVOKE", "GRANT"]),
        # A wildcard of an unescaped _ is somebody else's database, too.
        ([LOGIN, RIGHTS.replace("\\", "")], ["REVOKE", "GRANT"]),
        ([LOGIN.replace("USAGE", "PROCESS"), RIGHTS], ["REVOKE", "GRANT"]),
        ([LOGIN.replace(HASH, OTHER), RIGHTS], ["ALTER"]),
        (["GRANT USAGE ON *.* TO `crm`@`localhost` IDENTIFIED VIA unix_socket" + LIMIT, RIGHTS], ["ALTER"]),
        # playbooks/rotate_database.yml has MariaDB take two for a while, the valid one first.
        ([ROTATING.format(HASH, OTHER), RIGHTS], []),
        ([ROTATING.format(OTHER, HASH), RIGHTS], ["ALTER"]),
    ],
)
def test_only_what_differs_is_changed(grants, verbs):
    steps = accounts.user_steps(ACCOUNT, ["SELECT", "INSERT", "LOCK TABLES"], 80, grants)
    assert [sql.split()[0] for _, sql, _ in steps] == verbs


def test_no_password_is_sent():
    """The server could log it; the hash is what rotate_database.yml sends, too."""
    steps = accounts.user_steps(ACCOUNT, ["SELECT"], 80, None)
    assert ACCOUNT["password"] not in repr(steps)
    assert load("plugins/filter/secrets.py").mariadb_hash(ACCOUNT["password"]) == HASH
