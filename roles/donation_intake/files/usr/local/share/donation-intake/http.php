<?php
// The donation API over HTTP. A site's index.php requires this file and calls answer() with its configuration.
declare(strict_types=1);

namespace DonationIntake;

require __DIR__ . '/load.php';

/** Answer the current request in JSON, whatever happens. */
function answer(string $configPath): void
{
    ignore_user_abort(true);
    umask(0077);
    $intake = null;
    try {
        $config = Config::load($configPath);
        $intake = new Intake($config);
        [$status, $body, $headers] = respond($config, $intake);
    } catch (Refusal $refusal) {
        $intake->count("refused_{$refusal->reason}");
        $error = ['code' => $refusal->reason, 'message' => $refusal->getMessage(), 'field' => $refusal->field];
        [$status, $body, $headers] = [$refusal->status, ['error' => $error], $refusal->headers];
    } catch (\Throwable $e) {
        // Its message may hold what the donor wrote: the log gets its kind and place.
        error_log(sprintf('%s in %s:%d', get_class($e), $e->getFile(), $e->getLine()));
        $intake?->count('refused_internal_error');
        $error = ['code' => 'internal_error', 'message' => 'Something went wrong here. Try again later.', 'field' => null];
        [$status, $body, $headers] = [500, ['error' => $error], []];
    }
    http_response_code($status);
    header('Cache-Control: no-store');
    header('Content-Type: application/json');
    foreach ($headers as $name => $value) {
        header("$name: $value");
    }
    if ($body !== null) {
        echo json_encode($body, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE), "\n";
    }
}

/**
 * @return array{int, array<string, mixed>|null, array<string, string>} status, body, headers
 * @throws Refusal
 */
function respond(Config $config, Intake $intake): array
{
    allow_origin($config);
    $path = parse_url($_SERVER['REQUEST_URI'] ?? '/', PHP_URL_PATH);
    $known = ['/' => ['GET', 'HEAD'], '/health' => ['GET', 'HEAD'], '/donations' => ['POST', 'OPTIONS']];
    if ($config->proof === 'notice') {
        $known['/notices'] = ['POST'];
    }
    $methods = $known[$path] ?? null;
    if ($methods === null) {
        throw new Refusal(404, 'not_found', 'There is nothing here.');
    }
    $method = $_SERVER['REQUEST_METHOD'];
    if (!in_array($method, $methods, true)) {
        throw new Refusal(405, 'method_not_allowed', 'Not with this method.', null, ['Allow' => implode(', ', $methods)]);
    }
    if ($method === 'OPTIONS') {
        return [204, null, [
            'Access-Control-Allow-Methods' => 'POST',
            'Access-Control-Allow-Headers' => 'Content-Type',
            'Access-Control-Max-Age' => '600',
        ]];
    }
    if ($method !== 'POST') {
        return [200, $intake->health(), []];
    }
    // Also while donations are not taken: what was accepted goes its way.
    if ($path === '/notices') {
        return [200, $intake->notice(body(Provider::NOTICE_MAX_BYTES), $_SERVER['HTTP_STRIPE_SIGNATURE'] ?? ''), []];
    }
    if ($intake->isSwitchedOff()) {
        throw new Refusal(503, 'switched_off', 'Donations are not taken at the moment.', null, $intake->retryAfter());
    }
    return [202, $intake->accept(body($config->bodyMaxBytes)), []];
}

/**
 * A page may post if its origin is listed, letter for letter. Who sends no origin is no page in a browser.
 *
 * @throws Refusal
 */
function allow_origin(Config $config): void
{
    header('Vary: Origin');
    $origin = $_SERVER['HTTP_ORIGIN'] ?? null;
    if ($origin === null) {
        return;
    }
    if (!in_array($origin, $config->origins, true)) {
        throw new Refusal(403, 'origin_not_allowed', 'Pages of this origin may not ask here.');
    }
    header("Access-Control-Allow-Origin: $origin");
}

/** @throws Refusal */
function body(int $maxBytes): string
{
    if (!preg_match('#^application/json\s*(;\s*charset="?utf-8"?\s*)?$#i', $_SERVER['CONTENT_TYPE'] ?? '')) {
        throw new Refusal(415, 'media_type_unsupported', 'Send application/json.');
    }
    $large = (int) ($_SERVER['CONTENT_LENGTH'] ?? 0) > $maxBytes;
    $body = $large ? '' : (string) file_get_contents('php://input', false, null, 0, $maxBytes + 1);
    if ($large || strlen($body) > $maxBytes) {
        throw new Refusal(413, 'too_large', "A request has at most $maxBytes bytes.");
    }
    return $body;
}
