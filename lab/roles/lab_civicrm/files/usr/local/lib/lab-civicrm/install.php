<?php
// Installs WordPress and CiviCRM into an empty database by their own installers. Prints "installed",
// or nothing where both are there already: a restored dump is left as it is. While it works, the table
// lab_installing stands in the database: only where it is found does a later run start from nothing.

const LAB_COMMAND = 'lab-civicrm-install';
define('WP_INSTALLING', true);
require __DIR__ . '/boot.php';

/** Create WordPress's tables and its administrator, without mail and without a request to itself. */
function lab_install_wordpress(array $site, string $password): void
{
    function wp_new_blog_notification() {}
    require_once ABSPATH . 'wp-admin/includes/upgrade.php';
    add_filter('pre_option_permalink_structure', function () {
        return '/%postname%/';
    });
    wp_install($site['site_name'], $site['admin_user'], $site['admin_email'], false, '', wp_slash($password));
}

/** Create CiviCRM's tables by its Setup API; the settings file is Ansible's. */
function lab_install_civicrm(array $site): void
{
    require_once WP_PLUGIN_DIR . '/civicrm/civicrm.php';
    $root = CIVICRM_PLUGIN_DIR . 'civicrm';
    spl_autoload_register(function ($class) use ($root) {
        if (preg_match('/^Civi\\\\(Setup(\\\\.+)?)$/', $class, $match)) {
            require_once "$root/setup/src/" . str_replace('\\', '/', $match[1]) . '.php';
        }
    });
    require_once CIVICRM_SETTINGS_PATH;
    \Civi\Setup::init(['cms' => 'WordPress', 'srcPath' => $root, 'setupPath' => "$root/setup"]);
    $model = \Civi\Setup::instance()->getModel();
    $model->settingsPath = CIVICRM_SETTINGS_PATH;
    $model->lang = 'en_US';
    $model->loadGenerated = false;
    $model->components = ['CiviMail', 'CiviContribute', 'CiviReport'];
    \Civi\Setup::instance()->installDatabase();
}

/** Drop what an interrupted install left, its own mark last. */
function lab_drop_tables(wpdb $wpdb, array $tables): void
{
    $wpdb->query('SET FOREIGN_KEY_CHECKS = 0');
    foreach (array_merge(array_diff($tables, ['lab_installing']), ['lab_installing']) as $table) {
        $wpdb->query("DROP TABLE `$table`");
    }
    $wpdb->query('SET FOREIGN_KEY_CHECKS = 1');
    wp_cache_flush();
}

$tables = $wpdb->get_col('SHOW TABLES');
if ($wpdb->last_error !== '') {
    lab_fail($wpdb->last_error);
}
if (in_array('lab_installing', $tables, true)) {
    lab_drop_tables($wpdb, $tables);
    $tables = [];
}
if (in_array('civicrm_domain', $tables, true) && in_array('wp_options', $tables, true)) {
    lab_done('');
    exit(0);
}
if ($tables) {
    lab_fail('the database holds tables, but not those of WordPress and CiviCRM: empty it or restore a dump');
}

$wpdb->query('CREATE TABLE lab_installing (id INT) ENGINE=InnoDB');
lab_install_wordpress($lab_site, $lab_secrets['admin_password']);
lab_install_civicrm($lab_site);
require_once ABSPATH . 'wp-admin/includes/plugin.php';
$result = activate_plugin('civicrm/civicrm.php');
if (is_wp_error($result)) {
    lab_fail($result->get_error_message());
}
$wpdb->query('DROP TABLE lab_installing');
lab_done("installed\n");
