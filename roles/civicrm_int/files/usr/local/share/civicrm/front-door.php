<?php
/**
 * Runs before every script of a site (auto_prepend_file) and refuses what the front door could not see.
 *
 * The front door marks each request: "password" when a person gave one, or "public KIND NAME FIELDS" when the request
 * line is on the site's list of public paths. It reads no bodies, but a CMS takes its route from a posted field as
 * gladly as from the query. So of a public request only the fields of its form may be posted, as PHP itself read
 * them; FIELDS is the regular expression of their names. A request without a mark did not come through the front door.
 * PHP 7.4 and later; nothing of the site is loaded yet.
 */

(static function (): void {
    $mark = (string) ($_SERVER['HTTP_X_FRONT_DOOR'] ?? '');
    if ($mark === 'password') {
        return;
    }
    [$door, $kind, $name, $fields] = explode(' ', $mark, 4) + ['', '', '', ''];
    $reason = '';
    if ($door !== 'public' || $name === '') {
        $reason = 'no mark of the front door';
    } elseif ($kind === 'asset') {
        $reason = 'a script where a file was asked for';
    } elseif ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        // No form, no body: some frameworks read one whatever the method.
        $reason = (int) ($_SERVER['CONTENT_LENGTH'] ?? 0) > 0 || fread(fopen('php://input', 'r'), 1) ? 'a body' : '';
    } elseif (!preg_match('#^(application/x-www-form-urlencoded|multipart/form-data)\s*(;|$)#i', $_SERVER['CONTENT_TYPE'] ?? '')) {
        $reason = 'a body that is no form';
    } elseif ($_FILES) {
        $reason = 'a file';
    } else {
        foreach ($_POST as $field => $value) {
            if (!is_string($value) || !preg_match('#^(?:' . $fields . ')$#D', (string) $field)) {
                $reason = 'a field that its form has not';
            }
        }
    }
    if ($reason !== '') {
        error_log("front door: refused $reason, public path '$name'");
        http_response_code(403);
        header('Content-Type: text/plain');
        exit("Refused.\n");
    }
})();
