<?php
declare(strict_types=1);

namespace DonationIntake;

/** The payment provider: what it signs, and what it answers. In the form of Stripe's webhooks and API. */
final class Provider
{
    public const NOTICE_MAX_BYTES = 65536;
    private const TOLERANCE_SECONDS = 300;

    public function __construct(private readonly Config $config)
    {
    }

    /**
     * Read a notice.
     *
     * @param string $signature "t=<seconds>,v1=<HMAC-SHA-256 of t, a full stop and the body>", several v1 while a key is changed
     * @return Payment|null null where it tells of something else
     * @throws Refusal where the provider did not sign it, or a while ago
     */
    public function notice(string $body, string $signature): ?Payment
    {
        if (!$this->isSigned($body, $signature)) {
            throw new Refusal(401, 'signature_invalid', 'The signature is missing, wrong or too old.');
        }
        $event = json_decode($body, true, 32);
        $isCharge = is_array($event) && is_string($event['type'] ?? null) && str_starts_with($event['type'], 'charge.');
        if (!$isCharge || !is_int($event['created'] ?? null)) {
            return null;
        }
        $object = $event['data']['object'] ?? null;
        return Payment::fromDispute($object, $event['created']) ?? Payment::fromCharge($object, $this->isLive(), $event['created']);
    }

    /**
     * Ask for a payment.
     *
     * @return Payment|null null where there is none of this reference, or none that was paid
     * @throws \RuntimeException with what went wrong, safe to log
     */
    public function payment(string $reference): ?Payment
    {
        $isIntent = str_starts_with($reference, 'pi_');
        $path = $isIntent ? "payment_intents/$reference?expand[]=latest_charge" : "charges/$reference";
        [$status, $body] = $this->get("{$this->config->paymentUrl}/v1/$path");
        if ($status === 404) {
            return null;
        }
        $object = json_decode($body, true, 32);
        if ($status !== 200 || !is_array($object)) {
            throw new \RuntimeException("status $status");
        }
        $payment = Payment::fromCharge($isIntent ? $object['latest_charge'] ?? null : $object, $this->isLive(), time());
        if ($payment !== null && !in_array($reference, $payment->references, true)) {
            throw new \RuntimeException('another payment than was asked for');
        }
        return $payment;
    }

    private function isSigned(string $body, string $signature): bool
    {
        if ($this->config->noticeKeys === [] || strlen($signature) > 1024 || !preg_match('/(?:^|,)t=(\d{1,12})(?:,|$)/', $signature, $time)) {
            return false;
        }
        preg_match_all('/(?:^|,)v1=([0-9a-f]{64})(?=,|$)/', $signature, $given);
        $signed = false;
        foreach ($this->config->noticeKeys as $key) {
            $right = hash_hmac('sha256', "$time[1].$body", $key);
            foreach (array_slice($given[1], 0, 4) as $one) {
                $signed = hash_equals($right, $one) || $signed;
            }
        }
        return $signed && abs(time() - (int) $time[1]) <= self::TOLERANCE_SECONDS;
    }

    /** @return array{int, string} status and body */
    private function get(string $url): array
    {
        $context = stream_context_create(['http' => [
            'header' => "Authorization: Bearer {$this->config->paymentKey}\r\nAccept: application/json",
            'timeout' => 5, 'ignore_errors' => true, 'follow_location' => 0, 'protocol_version' => 1.1, 'user_agent' => 'donation-intake',
        ]]);
        $stream = @fopen($url, 'r', false, $context);
        if (!$stream) {
            throw new \RuntimeException('no connection');
        }
        $body = (string) stream_get_contents($stream, self::NOTICE_MAX_BYTES);
        $head = stream_get_meta_data($stream)['wrapper_data'][0] ?? '';
        fclose($stream);
        return [(int) (explode(' ', $head)[1] ?? 0), $body];
    }

    private function isLive(): bool
    {
        return $this->config->environment === 'production';
    }
}
