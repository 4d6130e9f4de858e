<?php
declare(strict_types=1);

namespace DonationIntake;

/** An answer that is not 202: status, a code for programs, a sentence for people, and the field it is about. */
final class Refusal extends \RuntimeException
{
    /** Every code there is; each has a counter that exists at zero. */
    public const CODES = [
        'campaign_unknown', 'currency_unknown', 'field_invalid', 'field_missing', 'field_unknown', 'internal_error',
        'json_malformed', 'key_reused', 'media_type_unsupported', 'method_not_allowed', 'not_found',
        'origin_not_allowed', 'signature_invalid', 'switched_off', 'too_large', 'unavailable',
    ];

    /** @param array<string, string> $headers */
    public function __construct(
        public readonly int $status,
        public readonly string $reason,
        string $message,
        public readonly ?string $field = null,
        public readonly array $headers = [],
    ) {
        parent::__construct($message);
    }
}
