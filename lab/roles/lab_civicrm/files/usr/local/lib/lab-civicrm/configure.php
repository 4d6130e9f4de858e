<?php
// Brings what lives in the database in line with /etc/lab-civicrm: sender, mail account, mail jobs,
// base page, permalinks, the administrator's password. Prints one line per thing changed.

const LAB_COMMAND = 'lab-civicrm-configure';
require __DIR__ . '/boot.php';
lab_start_civicrm();

$lab_changes = [];

/** Set WordPress options that differ. */
function lab_set_options(array $wanted): void
{
    foreach ($wanted as $name => $value) {
        if (get_option($name) !== $value) {
            update_option($name, $value);
            $GLOBALS['lab_changes'][] = "wordpress option $name";
        }
    }
}

/** The first record that matches; "getsingle" would take api_entity and api_action of a job for chained calls. */
function lab_find_record(string $entity, array $find): array
{
    return civicrm_api3($entity, 'get', $find + ['sequential' => 1])['values'][0] ?? [];
}

/** Update the one record of an entity that $find matches where a field differs; create it if there is none. */
function lab_set_record(string $entity, array $find, array $wanted): array
{
    $found = lab_find_record($entity, $find);
    $differs = array_filter($wanted, function ($value, $field) use ($found) {
        return (string) ($found[$field] ?? '') !== ($value === 'null' ? '' : (string) $value);
    }, ARRAY_FILTER_USE_BOTH);
    if ($found && !$differs) {
        return $found;
    }
    $GLOBALS['lab_changes'][] = "$entity " . implode(', ', array_keys($differs));
    civicrm_api3($entity, 'create', ($found ? ['id' => $found['id']] : $find) + $wanted);
    return lab_find_record($entity, $find);
}

/** The administrator's password is Ansible's, after a restored dump too. WordPress hashes it with slashes added. */
function lab_set_password(array $site, string $password): void
{
    $user = get_user_by('login', $site['admin_user']);
    $password = wp_slash($password);
    if (!wp_check_password($password, $user->user_pass, $user->ID)) {
        wp_set_password($password, $user->ID);
        $GLOBALS['lab_changes'][] = 'password of the administrator';
    }
}

/** A page that carries CiviCRM's public pages, and permalinks: without both, links in mailings are relative. */
function lab_set_base_page(): void
{
    if (!get_page_by_path('civicrm')) {
        wp_insert_post(['post_type' => 'page', 'post_name' => 'civicrm', 'post_title' => 'CiviCRM', 'post_status' => 'publish']);
        $GLOBALS['lab_changes'][] = 'base page';
    }
    if (get_option('permalink_structure') !== '/%postname%/') {
        $GLOBALS['wp_rewrite']->set_permalink_structure('/%postname%/');
        delete_option('rewrite_rules');
        $GLOBALS['lab_changes'][] = 'permalinks';
    }
    if (Civi::settings()->get('wpBasePage') !== 'civicrm') {
        Civi::settings()->set('wpBasePage', 'civicrm');
        $GLOBALS['lab_changes'][] = 'setting wpBasePage';
    }
}

/** Visitors may see their mailing and leave it; CiviCRM's plugin knows which rights that takes. */
function lab_set_roles(): void
{
    if (!get_role('anonymous_user')) {
        civi_wp()->users->set_wp_user_capabilities();
        $GLOBALS['lab_changes'][] = 'rights of visitors';
    }
}

/** Name, address and postal address of the organisation: CiviMail demands them in each newsletter. */
function lab_set_domain(array $site): void
{
    $domain = lab_set_record('Domain', ['id' => 1], ['name' => $site['site_name']]);
    $contact = $domain['contact_id'];
    lab_set_record('Email', ['contact_id' => $contact, 'is_primary' => 1], ['email' => $site['from_address']]);
    lab_set_record('Address', ['contact_id' => $contact, 'is_primary' => 1], [
        'location_type_id' => 1,
        'street_address' => '1 Example Street',
        'city' => 'Exampleton',
    ]);
    lab_set_record('OptionValue', ['option_group_id' => 'from_email_address', 'is_default' => 1], [
        'label' => sprintf('"%s" <%s>', str_replace('"', '', $site['site_name']), $site['from_address']),
    ]);
}

/** The account fetch_bounces reads. A return path that is '' and not NULL loses every bounce. */
function lab_set_mail_account(array $site, string $password): void
{
    $account = [
        'name' => 'Bounces',
        'is_default' => 1,
        'domain' => $site['mail_domain'],
        'localpart' => $site['mail_localpart'],
        'protocol' => CRM_Core_PseudoConstant::getKey('CRM_Core_BAO_MailSettings', 'protocol', 'IMAP'),
        'server' => $site['imap_host'],
        'username' => $site['imap_user'],
        'password' => $password,
        'is_ssl' => 1,
        'return_path' => 'null',
    ];
    $record = lab_set_record('MailSettings', ['domain_id' => 1, 'is_default' => 1], $account);
    $not_null = 'SELECT COUNT(*) FROM civicrm_mail_settings WHERE id = %1 AND return_path IS NOT NULL';
    if (CRM_Core_DAO::singleValueQuery($not_null, [1 => [$record['id'], 'Positive']])) {
        lab_fail('the return path of the mail account is not NULL: bounces would be lost');
    }
}

function lab_set_jobs(): void
{
    foreach (['process_mailing', 'fetch_bounces'] as $action) {
        lab_set_record('Job', ['api_entity' => 'Job', 'api_action' => $action], ['is_active' => 1]);
    }
}

lab_set_options(['blog_public' => '0', 'users_can_register' => '0', 'admin_email' => $lab_site['admin_email']]);
lab_set_password($lab_site, $lab_secrets['admin_password']);
lab_set_roles();
lab_set_base_page();
lab_set_domain($lab_site);
lab_set_mail_account($lab_site, $lab_secrets['imap_password']);
lab_set_jobs();
if ($lab_changes) {
    civicrm_api3('System', 'flush');
}
lab_done($lab_changes ? implode("\n", $lab_changes) . "\n" : '');
