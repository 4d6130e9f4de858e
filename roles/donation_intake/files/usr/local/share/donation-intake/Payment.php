<?php
declare(strict_types=1);

namespace DonationIntake;

/**
 * A payment as its provider tells of it: a charge in the form of Stripe's API, or a dispute about one.
 * https://docs.stripe.com/api/charges/object
 * https://docs.stripe.com/api/disputes/object
 */
final class Payment
{
    /** @param string[] $references by which a donation may name it: the charge's id, and its payment intent's */
    private function __construct(
        public readonly string $id,
        public readonly array $references,
        public readonly int $amount,
        public readonly string $currency,
        public readonly string $problem,
        public readonly int $at,
    ) {
    }

    public static function isReference(string $text): bool
    {
        return preg_match('/^(ch|py|pi)_[A-Za-z0-9_]{1,120}$/D', $text) === 1;
    }

    /**
     * @param mixed $charge decoded JSON
     * @param int $at when the provider said so, seconds since 1970
     * @return self|null null where it is no charge
     */
    public static function fromCharge(mixed $charge, bool $live, int $at): ?self
    {
        $id = is_array($charge) ? ($charge['id'] ?? null) : null;
        if (($charge['object'] ?? null) !== 'charge' || !is_string($id) || !self::isReference($id)
            || !is_int($charge['amount'] ?? null) || !is_string($charge['currency'] ?? null)) {
            return null;
        }
        $problem = self::problem($charge, $live);
        return new self($id, self::references($id, $charge), $charge['amount'], strtoupper($charge['currency']), $problem, $at);
    }

    /**
     * Whatever became of the dispute: one that was won is a person's to see, too.
     *
     * @param mixed $dispute decoded JSON
     * @param int $at when the provider said so, seconds since 1970
     * @return self|null the charge that it is about, which proves nothing; null where it is no dispute
     */
    public static function fromDispute(mixed $dispute, int $at): ?self
    {
        $id = is_array($dispute) ? ($dispute['charge'] ?? null) : null;
        if (($dispute['object'] ?? null) !== 'dispute' || !is_string($id) || !self::isReference($id)) {
            return null;
        }
        // Its amount is what is disputed.
        return new self($id, self::references($id, $dispute), 0, '', 'disputed', $at);
    }

    /** @return string[] */
    private static function references(string $id, array $object): array
    {
        $intent = $object['payment_intent'] ?? null;
        return is_string($intent) && self::isReference($intent) ? [$id, $intent] : [$id];
    }

    /** Why a charge proves nothing, '' where it does: the whole of it was taken, and nothing of it was given back. */
    private static function problem(array $charge, bool $live): string
    {
        return match (true) {
            ($charge['livemode'] ?? null) !== $live => 'a payment of the other mode, live or test',
            ($charge['status'] ?? null) !== 'succeeded' || ($charge['paid'] ?? null) !== true => 'not succeeded',
            ($charge['captured'] ?? null) !== true || ($charge['amount_captured'] ?? null) !== $charge['amount'] => 'not captured in full',
            ($charge['refunded'] ?? null) !== false || ($charge['amount_refunded'] ?? null) !== 0 => 'refunded',
            ($charge['disputed'] ?? false) !== false => 'disputed',
            default => '',
        };
    }
}
