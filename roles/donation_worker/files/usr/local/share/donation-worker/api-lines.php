<?php
// CiviCRM's APIv3 line by line, for as long as the caller keeps it: run by "cv scr", or by anything that has started CiviCRM.
//
// Prints {"ready":true}, then answers each line [ENTITY, ACTION, PARAMETERS] on standard input by one line:
// {"values":[...]} or {"error":"CiviCRM's message"}. Ends with its input. Permissions are not checked: only these calls are
// made, and none that is chained to one of them.

// Works with PHP 7.4 too. Whatever CiviCRM prints by itself must not get between the answers.
$known = ['Address.create', 'Campaign.create', 'Campaign.get', 'Contact.create', 'Contribution.create', 'Contribution.get', 'Email.get'];
ob_start();
set_time_limit(0);
fwrite(STDOUT, "{\"ready\":true}\n");
while (($line = fgets(STDIN)) !== false) {
    try {
        [$entity, $action, $params] = json_decode($line, true);
        if (!in_array("$entity.$action", $known, true) || preg_grep('/^api[._]/i', array_keys($params))) {
            throw new Exception('the worker makes no such call');
        }
        $result = civicrm_api3($entity, $action, $params + ['sequential' => 1]);
        $answer = ['values' => array_values((array) ($result['values'] ?? []))];
    } catch (Throwable $e) {
        $answer = ['error' => substr($e->getMessage(), 0, 500)];
    }
    ob_clean();
    fwrite(STDOUT, json_encode($answer, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR) . "\n");
}
ob_end_clean();
