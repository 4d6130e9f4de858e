<?php
// People's accounts: WordPress's users with their contacts in CiviCRM. One JSON call on stdin, one JSON answer:
//
//   {"action": "list"}                                        {"accounts": [{"name": "alice", "state": "active"}]}
//   {"action": "create", "name": "alice", "email": "...", "password": "..."}   {"account": "created|enabled|changed|unchanged"}
//   {"action": "block", "name": "alice"}                      {"account": "blocked|unchanged"}
//
// Without a password a new account has one that nobody knows: it takes the login form's "Lost your password?".
// Listed are the accounts that were made or taken over here; the administrator never is.

const LAB_COMMAND = 'lab-civicrm-account';
require __DIR__ . '/boot.php';

/** The user of this name, or null; the administrator is refused. */
function lab_account_user(string $name): ?WP_User
{
    if ($name === $GLOBALS['lab_site']['admin_user'] || !preg_match('/^[A-Za-z0-9][A-Za-z0-9._@-]{0,59}$/D', $name)) {
        lab_fail("'$name' is not a person's account", 64);
    }
    return get_user_by('login', $name) ?: null;
}

function lab_account_state(WP_User $user): string
{
    return (string) get_user_meta($user->ID, 'lab_account', true);
}

/** Make the account, or bring a blocked one back; a password that is given is set. */
function lab_account_create(array $call): string
{
    $user = lab_account_user($call['name']);
    $password = ($call['password'] ?? '') !== '' ? $call['password'] : '';
    $state = $user ? lab_account_state($user) : '';
    if (!$user) {
        $email = $call['email'] ?? '';
        $id = wp_insert_user(wp_slash([
            'user_login' => $call['name'],
            'user_email' => $email !== '' ? $email : strtr($call['name'], '@', '.') . '@' . $GLOBALS['lab_site']['server_name'],
            'user_pass' => $password !== '' ? $password : wp_generate_password(32, false),
        ]));
        if (is_wp_error($id)) {
            lab_fail($id->get_error_message());
        }
        $user = get_user_by('id', $id);
    } elseif ($password !== '') {
        wp_set_password(wp_slash($password), $user->ID);
        WP_Session_Tokens::get_instance($user->ID)->destroy_all();
    }
    if ($state !== 'active') {
        $user->set_role('editor');
        $user->add_cap('access_civicrm');
        update_user_meta($user->ID, 'lab_account', 'active');
        CRM_Core_BAO_UFMatch::synchronize($user, false, CRM_Core_Config::singleton()->userFramework, 'Individual');
    }
    return ['' => 'created', 'blocked' => 'enabled', 'active' => $password !== '' ? 'changed' : 'unchanged'][$state];
}

/** No role, no session, no password, no key: what was open is closed now. */
function lab_account_block(array $call): string
{
    $user = lab_account_user($call['name']);
    if (!$user || lab_account_state($user) === 'blocked') {
        return 'unchanged';
    }
    $user->remove_all_caps();
    wp_set_password(wp_generate_password(32, false), $user->ID);
    WP_Session_Tokens::get_instance($user->ID)->destroy_all();
    if (class_exists('WP_Application_Passwords')) {
        WP_Application_Passwords::delete_all_application_passwords($user->ID);
    }
    $contact = CRM_Core_BAO_UFMatch::getContactId($user->ID);
    if ($contact) {
        CRM_Core_DAO::executeQuery('UPDATE civicrm_contact SET api_key = NULL WHERE id = %1', [1 => [$contact, 'Positive']]);
    }
    update_user_meta($user->ID, 'lab_account', 'blocked');
    return 'blocked';
}

function lab_account_list(): array
{
    return array_map(function (WP_User $user) {
        return ['name' => $user->user_login, 'state' => lab_account_state($user)];
    }, get_users(['meta_key' => 'lab_account', 'orderby' => 'login']));
}

$lab_call = json_decode(stream_get_contents(STDIN), true);
$lab_action = is_array($lab_call) ? ($lab_call['action'] ?? '') : '';
if (!in_array($lab_action, ['list', 'create', 'block'], true) || ($lab_action !== 'list' && !is_string($lab_call['name'] ?? null))) {
    lab_fail('standard input must hold {"action": "list|create|block", "name": ...}', 64);
}
lab_start_civicrm();
$lab_answer = [
    'list' => function () {
        return ['accounts' => lab_account_list()];
    },
    'create' => function () use ($lab_call) {
        return ['account' => lab_account_create($lab_call)];
    },
    'block' => function () use ($lab_call) {
        return ['account' => lab_account_block($lab_call)];
    },
][$lab_action]();
lab_done(json_encode($lab_answer) . "\n");
