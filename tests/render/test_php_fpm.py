"""PHP-FPM's configuration as its operator gets it."""

import pytest

POOL = "etc/php/version/fpm/pool.d/civicrm-pool.conf"
CRM = {
    "name": "crm",
    "php_version": "8.4",
    "user": "crm",
    "group": "crm",
    "socket": "/run/php/crm.sock",
    "max_children": 7,
    "memory_limit_mb": 256,
}


def test_a_pool_runs_as_its_site_behind_a_socket_of_the_web_server(render):
    text = render("php_fpm", POOL, item=CRM)
    assert "\n[crm]\nuser = crm\ngroup = crm\n" in text
    assert "listen = /run/php/crm.sock\nlisten.owner = www-data\nlisten.group = www-data\nlisten.mode = 0660\n" in text
    assert "pm.max_children = 7\n" in text
    assert "php_admin_value[memory_limit] = 256M\n" in text


def test_socket_and_group_can_be_left_out_or_given(render):
    bare = {key: value for key, value in CRM.items() if key != "socket"}
    assert "listen = /run/php/crm.sock\n" in render("php_fpm", POOL, item=bare)
    given = render("php_fpm", POOL, item=CRM | {"socket": "/run/php/x.sock", "listen_group": "web"})
    assert "listen = /run/php/x.sock\n" in given and "listen.group = web\n" in given


def test_the_sites_own_settings_are_quoted(render):
    values = {"error_reporting": 22527, "date.timezone": "Europe/Berlin; x"}
    text = render("php_fpm", POOL, item=CRM | {"php_values": values})
    assert 'php_value[error_reporting] = "22527"\n' in text
    assert 'php_value[date.timezone] = "Europe/Berlin; x"\n' in text


@pytest.mark.parametrize(("seconds", "present"), [(10, True), (0, False)])
def test_slow_requests_are_logged_unless_switched_off(render, seconds, present):
    text = render("php_fpm", POOL, item=CRM, php_fpm_slow_request_seconds=seconds)
    assert ("slowlog = /var/log/php-fpm/crm.slow.log" in text) is present


def test_opcache_has_room_for_civicrm_and_keeps_the_sites_apart(render):
    text = render("php_fpm", "etc/php/version/fpm/conf.d/90-civicrm.ini")
    assert "opcache.memory_consumption = 256\n" in text
    assert "opcache.max_accelerated_files = 32531\n" in text
    assert "opcache.validate_permission = 1\n" in text


def test_every_line_of_ours_is_a_comment_to_php(render):
    for template in (
        "etc/php/version/fpm/conf.d/90-civicrm.ini",
        "etc/php/version/fpm/pool.d/00-civicrm-global.conf",
    ):
        assert render("php_fpm", template).startswith(";")


def test_a_pool_knows_its_environment(render):
    text = render("php_fpm", POOL, item=CRM | {"environment": {"CIVICRM_ENVIRONMENT": "staging"}})
    assert 'env[CIVICRM_ENVIRONMENT] = "staging"\n' in text
    assert "env[CIVICRM" not in render("php_fpm", POOL, item=CRM)


def test_a_new_extension_changes_what_a_running_fpm_is_reloaded_for(render):
    """Its package starts nothing, and a daemon that runs since before does not have it."""
    one, two = (
        render("php_fpm", "etc/php/version/fpm/conf.d/90-civicrm.ini", php_fpm_extensions=extensions)
        for extensions in (["curl"], ["curl", "intl"])
    )
    assert one != two


MASTER = "etc/php/version/fpm/master.conf"


def test_a_site_has_directories_of_its_own_for_uploads_sessions_and_temporary_files(render):
    """/tmp is everybody's: a session file's name is its password."""
    text = render("php_fpm", POOL, item=CRM)
    for setting in ("sys_temp_dir", "upload_tmp_dir"):
        assert f"php_admin_value[{setting}] = /var/lib/php-pools/crm/tmp\n" in text
    assert "php_admin_value[session.save_path] = /var/lib/php-pools/crm/sessions\n" in text
    made = render("php_fpm", "etc/tmpfiles.d/civicrm-php.conf", php_fpm_pools=[CRM])
    assert "d /var/lib/php-pools/crm/sessions 0700 crm crm 2d\n" in made
    assert "d /var/lib/php-pools/crm 0750 root crm\n" in made


def test_root_makes_sockets_in_a_directory_of_its_own(render):
    """The package gives /run/php to the web server, in which root would then change the owner of what a link names."""
    assert "d /run/php 0755 root root\n" in render("php_fpm", "etc/tmpfiles.d/php-fpm.conf")


def test_a_pool_with_its_own_process_manager_shares_no_cache_of_scripts(render):
    """OPcache is one memory that all pools of a process manager map, and PHP with open_basedir forgets real paths."""
    item = {key: value for key, value in CRM.items() if key != "socket"} | {"own_master": True}
    text = render("php_fpm", MASTER, item=item)
    assert "\npid = /run/php-fpm-crm/fpm.pid\n" in text and text.count("[crm]") == 1
    assert "listen = /run/php-fpm-crm/crm.sock\n" in text
    unit = render("php_fpm", "etc/systemd/system/php-fpm-site.service", item=item)
    assert "--fpm-config /etc/php/8.4/fpm/civicrm-master-crm.conf\n" in unit
    assert "open_basedir" not in text
