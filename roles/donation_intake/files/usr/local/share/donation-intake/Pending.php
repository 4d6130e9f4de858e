<?php
declare(strict_types=1);

namespace DonationIntake;

/**
 * Donations that nobody has proved yet, and the payments that the provider told of.
 *
 * pending/<hh>/<hash of the reference>-<microseconds since 1970>-<id>.json is a job that waits for its payment; its mtime is when
 * it is looked up next: when it came, then a minute later or more. It ends in .odd where its payment proves another donation, or
 * another amount: a person must see it.
 * proofs/<hh>/<hash of the payment's id>.json is a payment: {id, references, amount, currency, problem, at, proves}; one of another
 * reference's hash is {alias}. What a payment proves is written down before the donation is handed on, so that it never proves two.
 */
final class Pending
{
    private const AGAIN_SECONDS = 60;
    private readonly string $dir;
    private readonly string $proofs;
    private readonly string $full;

    public function __construct(
        private readonly Config $config,
        private readonly Spool $spool,
        private readonly Counters $counters,
    ) {
        $this->dir = "{$config->stateDir}/pending";
        $this->proofs = "{$config->stateDir}/proofs";
        $this->full = "{$config->stateDir}/pending-full";
        foreach ($config->proof === 'none' ? [] : [$this->dir, $this->proofs] as $dir) {
            is_dir($dir) || @mkdir($dir, 0700);
        }
    }

    /**
     * Keep a job until it is proved, which it may be already.
     *
     * @return string its status: pending, or spooled
     * @throws \RuntimeException when it is not safely on disk
     */
    public function put(string $id, string $reference, string $job): string
    {
        $hash = self::hash($reference);
        // Posted again: it is there, unless it was forgotten or handed on since. The worker finds out what was handed on twice.
        if (!glob("{$this->dir}/" . substr($hash, 0, 2) . "/$hash-*-$id.*")) {
            Disk::checkFree($this->dir, $this->config->spoolMinFreeMb);
            if (is_file($this->full)) {
                throw new \RuntimeException('more wait for their first look-up than may');
            }
            $name = sprintf('%s-%016d-%s.json', $hash, (int) (microtime(true) * 1e6), $id);
            Disk::write("{$this->dir}/" . substr($hash, 0, 2), $name, $job);
        }
        return in_array($id, $this->settle($reference), true) ? 'spooled' : 'pending';
    }

    /**
     * Note what the provider said of a payment, and hand on the donation that it proves.
     *
     * @throws \RuntimeException when it is not safely on disk
     */
    public function note(Payment $payment): void
    {
        $this->locked(function () use ($payment): void {
            $known = $this->proof($payment->id);
            if ($known !== null && $known['at'] > $payment->at) {
                return;
            }
            $proves = $known['proves'] ?? null;
            if ($proves !== null && $payment->problem !== '' && $known['problem'] === '') {
                $this->counters->add('undone');
                error_log("the payment of donation $proves, which was handed on, is now: {$payment->problem}");
            }
            $this->writeProof($payment->id, get_object_vars($payment) + ['proves' => $proves]);
            foreach (array_diff($payment->references, [$payment->id]) as $other) {
                // Of several attempts to pay the one that succeeded.
                if ($payment->problem === '' || $this->proof($other) === null) {
                    $this->writeProof($other, ['alias' => $payment->id]);
                }
            }
        });
        array_map($this->settle(...), $payment->references);
    }

    /**
     * Hand on the donation of this reference that its payment proves; mark the others.
     *
     * @return string[] ids of donations that went to the spool
     */
    public function settle(string $reference): array
    {
        return $this->locked(function () use ($reference): array {
            $proof = $this->proof($reference);
            if ($proof === null || $proof['problem'] !== '') {
                return [];
            }
            $done = [];
            $hash = self::hash($reference);
            foreach (glob("{$this->dir}/" . substr($hash, 0, 2) . "/$hash-*.json") ?: [] as $path) {
                $text = (string) @file_get_contents($path);
                $job = json_decode($text, true);
                [$amount, $currency] = [$job['donation']['amount'] ?? '', $job['donation']['currency'] ?? ''];
                $equal = Donation::minor($amount, $currency) === $proof['amount'] && $currency === $proof['currency'];
                $id = $job['id'] ?? '';
                if (!$equal || ($proof['proves'] ?? $id) !== $id) {
                    @rename($path, substr($path, 0, -4) . 'odd');
                    $this->counters->add('odd');
                    error_log("donation $id waits for a person: its payment " . ($equal ? 'proves another donation' : 'is of another amount'));
                    continue;
                }
                if ($proof['proves'] === null) {
                    $proof['proves'] = $id;
                    $this->writeProof($proof['id'], $proof);
                }
                // The payment's own id, so that it is one payment on the other host, too, whatever name it was given here.
                $job['donation']['payment_reference'] = $proof['id'];
                $this->spool->put($id, json_encode($job, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE));
                unlink($path);
                $this->counters->add('proved');
                $done[] = $id;
            }
            return $done;
        });
    }

    /** Hand on what was proved while nobody could; at most so many. A donation is handed on at once, so this is for after a crash. */
    public function settleAll(int $most): void
    {
        foreach ($this->entries('json') as $entry) {
            if ($most <= 0) {
                return;
            }
            if (is_file("{$this->proofs}/" . substr($entry['hash'], 0, 2) . "/{$entry['hash']}.json")) {
                $most -= count($this->settle($this->reference($entry['path'])));
            }
        }
    }

    /** Ask the provider for the payments of those whose turn it is, the oldest first; what one answer is does not hold up the others. */
    public function lookUp(Provider $provider, int $most): void
    {
        $until = time() + 60;
        $due = array_filter($this->entries('json'), fn (array $entry): bool => (int) @filemtime($entry['path']) <= time());
        usort($due, fn (array $a, array $b): int => @filemtime($a['path']) <=> @filemtime($b['path']));
        $failures = [];
        foreach (array_slice($due, 0, $most) as $entry) {
            if (time() > $until) {
                break;
            }
            // Again after as long as it has waited: a payment is there soon, or is invented.
            $waited = time() - intdiv($entry['micros'], 1000000);
            @touch($entry['path'], time() + min(max(self::AGAIN_SECONDS, $waited), 21600));
            $this->counters->add('lookups');
            try {
                $payment = $provider->payment($this->reference($entry['path']));
            } catch (\RuntimeException $e) {
                $failures[] = $e->getMessage();
                continue;
            }
            try {
                $payment && $this->note($payment);
            } catch (\RuntimeException $e) {
                // The disk does not take the answer: as if nobody had asked.
                is_file($entry['path']) && touch($entry['path'], intdiv($entry['micros'], 1000000));
                throw $e;
            }
        }
        if ($failures) {
            $this->counters->add('lookups_failed', count($failures));
            printf("%d payments could not be looked up: %s\n", count($failures), implode('; ', array_slice(array_unique($failures), 0, 3)));
        }
    }

    /**
     * Make room: forget who was never proved, the oldest first, beyond the list's length and days. Where payments are looked up, who was
     * looked up already: the others may have paid. As long as these alone are more than the list's length, no further one is taken.
     */
    public function evict(): void
    {
        if (!is_dir($this->dir)) {
            return;
        }
        $entries = [...$this->entries('json'), ...$this->entries('odd')];
        usort($entries, fn (array $a, array $b): int => $a['micros'] <=> $b['micros']);
        $before = (time() - $this->config->pendingDays * 86400) * 1000000;
        $expired = count(array_filter($entries, fn (array $entry): bool => $entry['micros'] < $before));
        $left = array_slice($entries, $expired);
        $beyond = max(0, count($left) - $this->config->pendingMax);
        $evictable = $beyond > 0 && $this->config->proof === 'lookup' ? array_filter($left, $this->wasLookedUp(...)) : $left;
        $evicted = array_slice($evictable, 0, $beyond, true);
        foreach ([...array_slice($entries, 0, $expired), ...$evicted] as $entry) {
            @unlink($entry['path']);
        }
        if (count($evicted) < $beyond) {
            touch($this->full);
            printf("%d donations wait for their first look-up, more than may: no further one is taken\n", count($left) - count($evicted));
        } elseif (is_file($this->full)) {
            unlink($this->full);
        }
        foreach (['expired' => $expired, 'evicted' => count($evicted)] as $name => $number) {
            if ($number > 0) {
                $this->counters->add("pending_$name", $number);
                echo "$number donations that nobody proved are $name\n";
            }
        }
        $left = array_values(array_diff_key($left, $evicted));
        $odd = count(array_filter($left, fn (array $entry): bool => str_ends_with($entry['path'], '.odd')));
        $state = ['length' => count($left), 'odd' => $odd, 'since' => intdiv($left[0]['micros'] ?? 0, 1000000)];
        Disk::write($this->config->stateDir, 'pending.json', json_encode($state));
    }

    /** Forget payments that are older than this, and what killed processes left. */
    public function purge(int $seconds): void
    {
        foreach (glob("{$this->proofs}/[0-9a-f][0-9a-f]/*.json") ?: [] as $path) {
            if (@filemtime($path) < time() - $seconds) {
                @unlink($path);
            }
        }
        foreach (glob("{$this->config->stateDir}/{pending,proofs}/[0-9a-f][0-9a-f]", GLOB_BRACE) ?: [] as $dir) {
            Disk::removeLeftovers($dir);
        }
        Disk::removeLeftovers($this->config->stateDir);
    }

    /** @return list<array{path: string, hash: string, micros: int}> the oldest first */
    private function entries(string $ending): array
    {
        $entries = [];
        foreach (glob("{$this->dir}/[0-9a-f][0-9a-f]/*.$ending", GLOB_NOSORT) ?: [] as $path) {
            [$hash, $micros] = explode('-', basename($path), 3);
            $entries[] = ['path' => $path, 'hash' => $hash, 'micros' => (int) $micros];
        }
        usort($entries, fn (array $a, array $b): int => $a['micros'] <=> $b['micros']);
        return $entries;
    }

    /** Or its payment is known anyway. */
    private function wasLookedUp(array $entry): bool
    {
        return str_ends_with($entry['path'], '.odd')
            || (int) @filemtime($entry['path']) - intdiv($entry['micros'], 1000000) >= self::AGAIN_SECONDS;
    }

    private function reference(string $path): string
    {
        return (string) (json_decode((string) @file_get_contents($path), true)['donation']['payment_reference'] ?? '');
    }

    private function proof(string $reference): ?array
    {
        $hash = self::hash($reference);
        $proof = json_decode((string) @file_get_contents("{$this->proofs}/" . substr($hash, 0, 2) . "/$hash.json"), true);
        return isset($proof['alias']) && $proof['alias'] !== $reference ? $this->proof($proof['alias']) : $proof;
    }

    private function writeProof(string $reference, array $proof): void
    {
        $hash = self::hash($reference);
        Disk::write("{$this->proofs}/" . substr($hash, 0, 2), "$hash.json", json_encode($proof, JSON_THROW_ON_ERROR));
    }

    private static function hash(string $reference): string
    {
        return substr(hash('sha256', $reference), 0, 32);
    }

    /** One at a time decides what a payment proves. */
    private function locked(callable $do): mixed
    {
        $lock = @fopen("{$this->config->stateDir}/pending.lock", 'c');
        if (!$lock || !flock($lock, LOCK_EX)) {
            throw new \RuntimeException('the disk cannot be locked');
        }
        try {
            return $do();
        } finally {
            fclose($lock);
        }
    }
}
