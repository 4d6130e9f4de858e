"""MariaDB's configuration as its operator gets it."""

TEMPLATE = "etc/mysql/mariadb.conf.d/90-civicrm.cnf"


def test_there_is_no_network_listener(render):
    lines = render("mariadb", TEMPLATE).splitlines()
    assert "skip-networking" in lines
    assert not [line for line in lines if line.startswith(("bind", "port"))]


def test_what_is_acknowledged_is_on_disk(render):
    text = render("mariadb", TEMPLATE)
    assert "innodb_flush_log_at_trx_commit = 1\n" in text
    assert "sync_binlog = 1\n" in text


def test_sizes_and_days_come_from_the_inventory(render):
    sizes = {"mariadb_buffer_pool_mb": 64, "mariadb_max_allowed_packet_mb": 32}
    text = render("mariadb", TEMPLATE, mariadb_binlog_days=3, mariadb_slow_query_seconds=0.5, **sizes)
    assert "max_allowed_packet = 32M\n" in text
    assert "innodb_buffer_pool_size = 64M\n" in text
    assert "expire_logs_days = 3\n" in text
    assert "long_query_time = 0.5\n" in text


def test_a_killed_server_comes_back_however_often(render):
    text = render("mariadb", "etc/systemd/system/mariadb.service.d/civicrm.conf")
    assert "Restart=always\n" in text and "StartLimitIntervalSec=0\n" in text
