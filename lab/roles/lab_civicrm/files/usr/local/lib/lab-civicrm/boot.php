<?php
// Starts the site's WordPress on the command line, as the site's user and never as root.
//
// A script defines LAB_COMMAND, requires this file at its top level (WordPress's globals live there)
// and ends by calling lab_done(). WordPress and CiviCRM report many errors by printing a page and
// exiting 0. So whatever they print is held back, and unless lab_done() was reached it becomes one
// line on stderr, with exit status 1.

ob_start();
ini_set('display_errors', '0');
ini_set('log_errors', '0');
register_shutdown_function('lab_end');
set_exception_handler(function (Throwable $e) {
    lab_fail(get_class($e) . ': ' . $e->getMessage());
});

/** Print the result; only after this is the exit status 0. */
function lab_done(string $result): void
{
    $GLOBALS['lab_ended'] = true;
    while (ob_get_level() > 0) {
        ob_end_clean();
    }
    echo $result;
}

/** Print one line without secrets on stderr and exit. */
function lab_fail(string $message, int $status = 1): void
{
    $GLOBALS['lab_ended'] = true;
    while (ob_get_level() > 0) {
        ob_end_clean();
    }
    $message = preg_replace('#<(head|script|style)\b.*?</\1>#is', '', $message);
    $message = html_entity_decode(strip_tags(str_replace('<', ' <', $message)), ENT_QUOTES);
    $secrets = array_filter($GLOBALS['lab_secrets'] ?? []);
    $message = str_replace(array_merge($secrets, array_map('rawurlencode', $secrets)), '***', $message);
    $message = trim(preg_replace('/\s+/', ' ', $message));
    fwrite(STDERR, LAB_COMMAND . ': ' . substr($message, 0, 600) . "\n");
    exit($status);
}

/** Shutdown function: somebody else ended the process. */
function lab_end(): void
{
    if (!empty($GLOBALS['lab_ended'])) {
        return;
    }
    $error = error_get_last();
    $fatal = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;
    if ($error && ($error['type'] & $fatal)) {
        lab_fail(strtok($error['message'], "\n") . " in {$error['file']}:{$error['line']}");
    }
    $held = '';
    while (ob_get_level() > 0) {
        $held = ob_get_clean() . $held;
    }
    lab_fail(trim(strip_tags($held)) === '' ? 'PHP ended without a result' : $held);
}

/** Become the site's user; only root and that user itself can. */
function lab_become(string $user): void
{
    $account = posix_getpwnam($user);
    if (!$account) {
        lab_fail("the site's user '$user' does not exist", 78);
    }
    if (posix_geteuid() === 0) {
        posix_initgroups($user, $account['gid']);
        posix_setgid($account['gid']);
        posix_setuid($account['uid']);
    }
    if (posix_geteuid() !== $account['uid'] || posix_getuid() !== $account['uid']) {
        lab_fail("run this as root or as $user", 77);
    }
    umask(0022);
    chdir('/');
}

/** Start CiviCRM inside WordPress, logged in as the administrator: mailings need an author. */
function lab_start_civicrm(): void
{
    if (!function_exists('civicrm_initialize') || !civicrm_initialize()) {
        lab_fail('CiviCRM is not installed in this WordPress');
    }
    $user = get_user_by('login', $GLOBALS['lab_site']['admin_user']);
    if (!$user) {
        lab_fail("WordPress has no user '{$GLOBALS['lab_site']['admin_user']}'");
    }
    wp_set_current_user($user->ID);
    CRM_Core_BAO_UFMatch::synchronize($user, false, CRM_Core_Config::singleton()->userFramework, 'Individual');
}

if (!is_readable('/etc/lab-civicrm/secrets.php')) {
    lab_fail("cannot read /etc/lab-civicrm: run this as root or as the site's user", 77);
}
$lab_site = require '/etc/lab-civicrm/site.php';
$lab_secrets = require '/etc/lab-civicrm/secrets.php';
lab_become($lab_site['user']);

// WordPress and CiviCRM find their configuration by the host's name, and build links from it.
$_SERVER = [
    'HTTP_HOST' => $lab_site['server_name'],
    'HTTPS' => 'on',
    'PHP_SELF' => '/index.php',
    'QUERY_STRING' => '',
    'REMOTE_ADDR' => '127.0.0.1',
    'REQUEST_METHOD' => 'GET',
    'REQUEST_URI' => '/',
    'SERVER_NAME' => $lab_site['server_name'],
    'SERVER_PORT' => '443',
    'SERVER_PROTOCOL' => 'HTTP/1.1',
] + $_SERVER;

require '/usr/share/wordpress/wp-load.php';
