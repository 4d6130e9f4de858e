<?php
// CiviCRM's APIv3 on the command line, as the site's user:
//
//   lab-civicrm-api ENTITY ACTION [JSON | -]   one call; parameters as JSON, "-" reads them from stdin
//   lab-civicrm-api --batch                    a JSON list of [ENTITY, ACTION, PARAMETERS] on stdin;
//                                              prints a list of results, stops at the first error
//   lab-civicrm-api --script FILE              run a PHP file inside the started CiviCRM, as "cv scr" does
//
// Prints the result as JSON, indented on a terminal; lists are lists ("sequential": 1) unless asked
// otherwise. On an error: one line on stderr and exit status 1 (64: wrong usage). Secrets belong on
// stdin, not in arguments.

const LAB_COMMAND = 'lab-civicrm-api';

/** @return array list of [entity, action, parameters] */
function lab_calls(array $arguments): array
{
    if ($arguments === ['--batch']) {
        $calls = lab_json(stream_get_contents(STDIN));
        foreach ($calls as $call) {
            if (!is_array($call) || count($call) < 2 || !is_string($call[0]) || !is_string($call[1])) {
                lab_fail('--batch takes a JSON list of [ENTITY, ACTION, PARAMETERS]', 64);
            }
        }
        return $calls;
    }
    if (count($arguments) < 2 || count($arguments) > 3 || $arguments[0][0] === '-') {
        lab_fail('usage: lab-civicrm-api ENTITY ACTION [JSON|-] | --batch | --script FILE', 64);
    }
    $text = $arguments[2] ?? '{}';
    return [[$arguments[0], $arguments[1], lab_json($text === '-' ? stream_get_contents(STDIN) : $text)]];
}

function lab_json(string $text): array
{
    $value = json_decode($text, true);
    if (!is_array($value)) {
        lab_fail('the parameters are not a JSON object or list', 64);
    }
    return $value;
}

/** Run the calls; CiviCRM's message, not a trace, tells what went wrong. */
function lab_run(array $calls): array
{
    $results = [];
    foreach ($calls as $call) {
        try {
            $results[] = civicrm_api3($call[0], $call[1], ($call[2] ?? []) + ['sequential' => 1]);
        } catch (Exception $e) {
            lab_fail("{$call[0]}.{$call[1]}: " . $e->getMessage());
        }
    }
    return $results;
}

require __DIR__ . '/boot.php';
if ($argc === 3 && $argv[1] === '--script') {
    lab_start_civicrm();
    require $argv[2];
    lab_done('');
    exit(0);
}
$lab_calls = lab_calls(array_slice($argv, 1));
lab_start_civicrm();
require __DIR__ . '/actions.php';
$lab_results = lab_run($lab_calls);
lab_done(json_encode(
    $argv[1] === '--batch' ? $lab_results : $lab_results[0],
    (posix_isatty(STDOUT) ? JSON_PRETTY_PRINT : 0) | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PARTIAL_OUTPUT_ON_ERROR
) . "\n");
