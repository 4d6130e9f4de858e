<?php
// One-click unsubscribe (RFC 8058): a POST becomes a mail to the person's unsubscribe address, and changes nothing else.
// The web server sends every request of /one-click/ here and says in ONE_CLICK_CONFIG which site it is for.
declare(strict_types=1);

namespace OneClick;

// Today's form of the address contract without the local part: u.<job>.<queue>.<hash>.
const PATH = '#^/one-click/(u\.[1-9][0-9]{0,9}\.[1-9][0-9]{0,9}\.[0-9a-z]{16})$#D';

// Where it is noted what was handed over, and for how long, in seconds, a second POST for one mail is the same wish. Mail
// programs and providers post again when an answer is slow; who came back to the list meanwhile may leave it again.
const STATE = '/var/lib/one-click';
const SAME_WISH = 900;

// Postfix is started again within a second or two of its death: for so many seconds a wish waits for it.
const PATIENCE = 5;

const PAGE = <<<'HTML'
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <meta name="robots" content="noindex">
    <title>Unsubscribe</title>
    </head>
    <body>
    <h1>Unsubscribe</h1>
    %s
    </body>
    </html>

    HTML;

const FORM = <<<'HTML'
    <form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">
    <p>No more newsletters of this list: <button type="submit">Unsubscribe</button></p></form>
    HTML;

answer();

/** Answer the current request. 200 to a POST means that the mail is on disk, in the queue of a Postfix that runs. */
function answer(): void
{
    ignore_user_abort(true);
    header('Cache-Control: no-store');
    header('Content-Type: text/html; charset=utf-8');
    // The raw line, as it came: with a query or anything encoded it is another path.
    if (!preg_match(PATH, $_SERVER['REQUEST_URI'] ?? '', $found)) {
        page(404, '<p>There is nothing here.</p>');
    } elseif (in_array($_SERVER['REQUEST_METHOD'], ['GET', 'HEAD'], true)) {
        // Scanners follow every link of a mail: asking changes nothing.
        page(200, FORM);
    } elseif ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        header('Allow: GET, HEAD, POST');
        page(405, '<p>Not with this method.</p>');
    } elseif (($_POST['List-Unsubscribe'] ?? null) !== 'One-Click') {
        page(400, FORM);
    } elseif (take($found[1])) {
        // The same words for a right and a wrong hash: CiviCRM compares it, later, and nobody can try hashes here.
        page(200, '<p>You will get no more newsletters of this list. It may take a few minutes.</p>');
    } else {
        header('Retry-After: 300');
        page(503, '<p>Something went wrong here, and you are <b>not</b> unsubscribed. Try again later.</p>' . FORM);
    }
}

function page(int $status, string $body): void
{
    http_response_code($status);
    printf(PAGE, $body);
}

/** Hand the wish over, unless it was handed over just now; returns whether Postfix has it. */
function take(string $person): bool
{
    $config = json_decode((string) file_get_contents((string) ($_SERVER['ONE_CLICK_CONFIG'] ?? '')), true);
    if (!is_string($config['localpart'] ?? null) || !is_string($config['mail_domain'] ?? null)) {
        error_log('one-click: no configuration');
        return false;
    }
    $address = "{$config['localpart']}$person@{$config['mail_domain']}";
    $sendmail = $config['sendmail'] ?? '/usr/sbin/sendmail';
    if (!running($config['postqueue'] ?? '/usr/sbin/postqueue', (float) ($config['patience'] ?? PATIENCE))) {
        error_log('one-click: Postfix is not running: systemctl start postfix');
        return false;
    }
    $name = hash('sha256', $address);
    // 256 files for all people: made-up ones cannot fill the disk. The lock makes the second of two at once wait.
    $notes = @fopen(($config['state'] ?? STATE) . '/' . substr($name, 0, 2), 'c+');
    if ($notes === false || !flock($notes, LOCK_EX)) {
        error_log('one-click: cannot note what was handed over');
        return submit($address, $sendmail);  // rather twice than never
    }
    $now = time();
    $recent = static fn (string $line): bool => (int) $line > $now - SAME_WISH && (int) $line <= $now;
    $lines = array_filter(explode("\n", (string) stream_get_contents($notes, 65536)), $recent);
    if (preg_grep("/ $name$/D", $lines)) {
        return true;
    }
    if (!submit($address, $sendmail)) {
        return false;
    }
    ftruncate($notes, 0);
    rewind($notes);
    fwrite($notes, implode("\n", [...array_slice($lines, -400), "$now $name"]));
    return true;
}

/**
 * Whether Postfix runs: sendmail succeeds all the same while it does not, and the mail would lie there unseen. Its listing
 * is refused then; only the beginning is read of one that may be long.
 */
function running(string $postqueue, float $patience): bool
{
    $until = microtime(true) + $patience;
    do {
        $process = proc_open([$postqueue, '-j'], [1 => ['pipe', 'w'], 2 => ['file', '/dev/null', 'w']], $pipes);
        if ($process === false) {
            return false;
        }
        $first = fgets($pipes[1]);
        fclose($pipes[1]);
        if (proc_close($process) === 0 || $first !== false) {
            return true;
        }
        usleep(300000);
    } while (microtime(true) < $until);
    return false;
}

/**
 * Hand a mail for the address to Postfix, and return whether it took it: postdrop writes it to disk (fsync) before
 * sendmail ends with 0. PHP's mail() would take "try again later" (75) for success.
 */
function submit(string $address, string $sendmail): bool
{
    $mail = "To: $address\nSubject: unsubscribe\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n"
        . "Content-Type: text/plain; charset=us-ascii\n\nA mail program asked for this (RFC 8058).\n";
    $log = tmpfile();
    $process = $log === false ? false : proc_open(
        [$sendmail, '-i', '--', $address],
        [0 => ['pipe', 'r'], 1 => $log, 2 => $log],
        $pipes
    );
    if ($process === false) {
        error_log('one-click: cannot start sendmail');
        return false;
    }
    $written = @fwrite($pipes[0], $mail);
    fclose($pipes[0]);
    $status = proc_close($process);
    if ($status !== 0 || $written !== strlen($mail)) {
        rewind($log);
        error_log("one-click: sendmail ended with $status: " . trim((string) stream_get_contents($log, 2000)));
        return false;
    }
    return true;
}
