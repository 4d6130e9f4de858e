<?php
declare(strict_types=1);

namespace DonationIntake;

/** What Ansible wrote for one site, /etc/donation-intake/<site>.json: readable by root and the site's user alone. */
final class Config
{
    /**
     * @param string[] $origins of pages that may post, as browsers send them
     * @param string[] $campaigns names that are accepted
     * @param string[] $currencies ISO 4217 codes that are accepted
     * @param string $proof none (a donation that was posted is taken for paid), notice or lookup
     * @param string[] $noticeKeys with which the payment provider signs notices
     */
    private function __construct(
        public readonly string $site,
        public readonly string $environment,
        public readonly string $stateDir,
        public readonly string $switchFile,
        public readonly array $origins,
        public readonly array $campaigns,
        public readonly string $campaignsVersion,
        public readonly array $currencies,
        public readonly int $amountMax,
        public readonly int $bodyMaxBytes,
        public readonly int $keyHours,
        public readonly int $spoolMinFreeMb,
        public readonly int $spoolMax,
        public readonly int $retryAfterSeconds,
        public readonly string $queueHost,
        public readonly int $queuePort,
        public readonly string $queueUser,
        public readonly string $queuePassword,
        public readonly string $queueKey,
        public readonly int $queueMax,
        public readonly float $connectTimeoutSeconds,
        public readonly float $readTimeoutSeconds,
        public readonly int $pauseSeconds,
        public readonly string $proof,
        public readonly array $noticeKeys,
        public readonly string $paymentUrl,
        public readonly string $paymentKey,
        public readonly int $lookupsAtOnce,
        public readonly int $pendingMax,
        public readonly int $pendingDays,
        public readonly int $paymentDays,
    ) {
    }

    public static function load(string $path): self
    {
        $text = @file_get_contents($path);
        if ($text === false) {
            throw new \RuntimeException("$path cannot be read");
        }
        return new self(...json_decode($text, true, 4, JSON_THROW_ON_ERROR));
    }
}
