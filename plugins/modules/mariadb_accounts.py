#!/usr/bin/python
# GPL-3.0-or-later
"""Make MariaDB's databases and their users in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mariadb_accounts
short_description: Make databases, and for each a user with rights there and nowhere else
description:
  - Makes missing databases (utf8mb4) and users, gives users their password and rights, and takes other rights away.
  - Removes anonymous users and the database C(test). No other user and no other database is removed or changed.
  - Of two passwords that a user may have during a rotation, the first is compared.
  - In check mode a host without a running server is said to get everything later.
  - Needs python3-pymysql on the host, and root's access through the socket C(/run/mysqld/mysqld.sock).
options:
  accounts:
    description: Databases and their users (at localhost).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Database., type: str, required: true}
      user: {description: User., type: str, required: true}
      password: {description: Password. Only its hash is sent to the server., type: str, required: true}
  privileges:
    description: What each user may do in its database, in the words of C(SHOW GRANTS).
    type: list
    elements: str
    required: true
  connections:
    description: Connections that each user may have at the same time (C(MAX_USER_CONNECTIONS)).
    type: int
    required: true
author: CiviCRM on two hosts
"""

EXAMPLES = r"""
- mariadb_accounts:
    accounts: [{name: crm, user: crm, password: "{{ vault_mariadb_crm_password }}"}]
    privileges: [SELECT, INSERT, UPDATE, DELETE]
    connections: 80
"""

RETURN = r"""
done: {description: "What was done, or would be, in words.", type: list, returned: always}
"""

import hashlib
import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    import pymysql
except ImportError:
    pymysql = None  # type: ignore[assignment]  # main() refuses to run without it

SOCKET = "/run/mysqld/mysqld.sock"
Step = tuple[str, str, tuple[str, ...]]  # what it does in words, SQL, its parameters


def password_hash(password: str) -> str:
    """Return what mysql_native_password keeps of a password: the protocol's own SHA-1, not a choice of ours."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324


def user_steps(
    account: dict[str, str], privileges: list[str], connections: int, grants: list[str] | None
) -> list[Step]:
    """Return what brings a user from SHOW GRANTS's lines (None: no such user) to password, limit and rights."""
    user, wanted = account["user"], password_hash(account["password"])
    # An unescaped _ in a grant is a wildcard: test_crm would also mean testXcrm.
    scope = "`" + account["name"].replace("_", r"\_") + "`.*"
    have: dict[str, set[str]] = {}
    for line in grants or []:
        if found := re.match(r"GRANT (.+) ON (\S+) TO ", line):
            have[found[2]] = set(found[1].split(", ")) | ({"GRANT OPTION"} if "WITH GRANT OPTION" in line else set())
    accepted = re.search(r"'(\*[0-9A-F]{40})'", "\n".join(grants or []))
    steps: list[Step] = []
    if not accepted or accepted[1] != wanted:
        words, verb = ("made user", "CREATE") if grants is None else ("changed the password of", "ALTER")
        sql = f"{verb} USER %s@'localhost' IDENTIFIED VIA mysql_native_password USING %s"
        steps.append((f"{words} {user}", sql, (user, wanted)))
    limited = re.search(r" MAX_USER_CONNECTIONS (\d+)", "\n".join(grants or []))
    if not limited or int(limited[1]) != connections:
        sql = f"ALTER USER %s@'localhost' WITH MAX_USER_CONNECTIONS {connections}"
        steps.append((f"let {user} have {connections} connections", sql, (user,)))
    if any(rights - (set(privileges) if place == scope else {"USAGE"}) for place, rights in have.items()):
        sql = "REVOKE ALL PRIVILEGES, GRANT OPTION FROM %s@'localhost'"
        steps.append((f"took foreign rights from {user}", sql, (user,)))
        have = {}
    if set(privileges) - have.get(scope, set()):
        sql = f"GRANT {', '.join(privileges)} ON {scope} TO %s@'localhost'"
        steps.append((f"gave {user} its rights in {account['name']}", sql, (user,)))
    return steps


def steps_for(cursor: Any, accounts: list[dict[str, str]], privileges: list[str], connections: int) -> list[Step]:
    """Compare the server with the accounts."""

    def column(sql: str, *parameters: str) -> list[str]:
        cursor.execute(sql, parameters)
        return [row[0] for row in cursor.fetchall()]

    databases, users = column("SHOW DATABASES"), column("SELECT User FROM mysql.user WHERE Host = 'localhost'")
    steps: list[Step] = []
    for account in accounts:
        name, user = account["name"], account["user"]
        if name not in databases:
            sql = f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
            steps.append((f"made database {name}", sql, ()))
        grants = column("SHOW GRANTS FOR %s@'localhost'", user) if user in users else None
        steps += user_steps(account, privileges, connections, grants)
    for host in column("SELECT Host FROM mysql.user WHERE User = ''"):
        steps.append((f"removed the anonymous user at {host}", "DROP USER ''@%s", (host,)))
    if "test" in databases:
        steps.append(("removed database test", "DROP DATABASE test", ()))
    return steps


def main() -> None:
    account = {
        name: {"type": "str", "required": True, "no_log": name == "password"} for name in ("name", "user", "password")
    }
    module = AnsibleModule(
        argument_spec={
            "accounts": {"type": "list", "elements": "dict", "required": True, "options": account},
            "privileges": {"type": "list", "elements": "str", "required": True},
            "connections": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode and not os.path.exists(SOCKET):
        module.exit_json(changed=True, done=["databases and users are made when MariaDB runs"])
    if pymysql is None:
        module.fail_json(msg="this host has no python3-pymysql: install it first")
    try:
        with pymysql.connect(unix_socket=SOCKET, user="root", autocommit=True) as server, server.cursor() as cursor:
            wanted = [module.params[name] for name in ("accounts", "privileges", "connections")]
            steps = steps_for(cursor, *wanted)
            for _, sql, parameters in () if module.check_mode else steps:
                cursor.execute(sql, parameters)
    except pymysql.MySQLError as error:
        module.fail_json(msg=f"MariaDB at {SOCKET}: {error}. Look at: journalctl -u mariadb -n 20")
    module.exit_json(changed=bool(steps), done=[words for words, *_ in steps])


if __name__ == "__main__":
    main()
