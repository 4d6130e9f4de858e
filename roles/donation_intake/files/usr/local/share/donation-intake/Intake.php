<?php
declare(strict_types=1);

namespace DonationIntake;

/** Takes a donation: into the queue, or on disk where the queue does not take it. */
final class Intake
{
    private readonly Queue $queue;
    private readonly Spool $spool;
    private readonly Keys $keys;
    private readonly Counters $counters;
    private readonly Pending $pending;

    public function __construct(private readonly Config $config)
    {
        $this->queue = new Queue($config);
        $this->spool = new Spool($config->stateDir, $config->spoolMinFreeMb);
        $this->keys = new Keys($config->stateDir);
        $this->counters = new Counters($config->stateDir);
        $this->pending = new Pending($config, $this->spool, $this->counters);
    }

    /**
     * @return array{id: string, status: string} status: queued or spooled, or pending until it is proved
     * @throws Refusal
     */
    public function accept(string $body): array
    {
        $donation = Donation::read($body, $this->config);
        $digest = hash('sha256', self::json($donation));
        // The same request has the same id, whatever was forgotten since.
        $id = substr(hash('sha256', "{$this->config->site} $digest"), 0, 32);
        $done = $this->keys->once($donation['idempotency_key'], $digest, fn (): string => $this->hand($id, $donation));
        if (!hash_equals($digest, $done['digest'])) {
            throw new Refusal(409, 'key_reused', 'This key came with another donation before.', 'idempotency_key');
        }
        $this->counters->add($done['replayed'] ? 'replayed' : "accepted_{$done['status']}");
        return ['id' => $id, 'status' => $done['status']];
    }

    /**
     * Take a notice of the payment provider.
     *
     * @return array{status: string}
     * @throws Refusal
     */
    public function notice(string $body, string $signature): array
    {
        $payment = (new Provider($this->config))->notice($body, $signature);
        $this->counters->add('notices');
        if ($payment === null) {
            return ['status' => 'ignored'];
        }
        try {
            $this->pending->note($payment);
        } catch (\RuntimeException $e) {
            error_log("a notice was refused: {$e->getMessage()}");
            throw $this->unavailable();
        }
        return ['status' => 'noted'];
    }

    public function isSwitchedOff(): bool
    {
        return file_exists($this->config->switchFile);
    }

    /** @return array<string, mixed> */
    public function health(): array
    {
        $off = $this->isSwitchedOff();
        $reachable = !$this->queue->isPaused() && $this->queue->isReachable();
        return [
            'site' => $this->config->site,
            'environment' => $this->config->environment,
            'status' => $off ? 'off' : ($reachable ? 'ok' : 'spooling'),
            'switch' => $off ? 'off' : 'on',
            'queue' => $reachable ? 'reachable' : 'unreachable',
            'spool' => $this->spool->state(),
        ];
    }

    public function count(string $name): void
    {
        $this->counters->add($name);
    }

    /** @param array<string, mixed> $donation */
    private function hand(string $id, array $donation): string
    {
        $job = self::json([
            'id' => $id,
            'site' => $this->config->site,
            'received_at' => time(),
            'test' => $this->config->environment !== 'production',
            'campaigns_version' => $this->config->campaignsVersion,
            'donation' => $donation,
        ]);
        if ($this->config->proof !== 'none') {
            return $this->stored($id, fn (): string => $this->pending->put($id, $donation['payment_reference'], $job));
        }
        try {
            if (!$this->queue->isPaused() && !$this->queue->isFull()) {
                $this->queue->push($job);
                return 'queued';
            }
        } catch (QueueFailure $e) {
            error_log("donation $id goes to the spool: {$e->getMessage()}");
        }
        return $this->stored($id, function () use ($id, $job): string {
            if (is_file("{$this->config->stateDir}/spool-full")) {
                throw new \RuntimeException('the spool has as many as it may');
            }
            $this->spool->put($id, $job);
            return 'spooled';
        });
    }

    /** @throws Refusal */
    private function stored(string $id, callable $store): string
    {
        try {
            return $store();
        } catch (\RuntimeException $e) {
            error_log("donation $id was refused: {$e->getMessage()}");
            throw $this->unavailable();
        }
    }

    private function unavailable(): Refusal
    {
        return new Refusal(503, 'unavailable', 'Donations cannot be stored now. Try again later.', null, $this->retryAfter());
    }

    /** @return array<string, string> */
    public function retryAfter(): array
    {
        return ['Retry-After' => (string) $this->config->retryAfterSeconds];
    }

    private static function json(array $value): string
    {
        return json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
    }
}
