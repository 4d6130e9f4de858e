<?php
declare(strict_types=1);

namespace DonationIntake;

/**
 * Idempotency keys of accepted donations, one file each, named after the key's hash. Holds hashes, no donor's data.
 *
 * It spares the queue a client's retries. That no donation is booked twice does not depend on it: without a disk to
 * write to, donations are accepted all the same.
 */
final class Keys
{
    private readonly string $dir;

    public function __construct(string $stateDir)
    {
        $this->dir = "$stateDir/keys";
    }

    /**
     * Run $accept under the key's lock unless the key is known; requests with the same key wait for each other. A donation that was
     * pending may have been forgotten since: it is accepted again, which stores it where it is missing.
     *
     * @param callable(): string $accept accepts the donation and returns its status
     * @return array{status: string, digest: string, replayed: bool}
     */
    public function once(string $key, string $digest, callable $accept): array
    {
        $file = $this->lock($key);
        $known = $file ? json_decode((string) stream_get_contents($file, 4096), true) : null;
        $replayed = isset($known['status'], $known['digest']);
        if ($replayed && ($known['status'] !== 'pending' || !hash_equals($known['digest'], $digest))) {
            return ['status' => $known['status'], 'digest' => $known['digest'], 'replayed' => true];
        }
        $accepted = ['status' => $accept(), 'digest' => $digest];
        if ($file && $accepted !== ['status' => $known['status'] ?? null, 'digest' => $known['digest'] ?? null]) {
            rewind($file);
            fwrite($file, json_encode($accepted));
            ftruncate($file, ftell($file));
        }
        return $accepted + ['replayed' => $replayed];
    }

    /** Forget keys that are older than this. */
    public function purge(int $seconds): void
    {
        foreach (glob("{$this->dir}/[0-9a-f][0-9a-f]/*") ?: [] as $path) {
            if (@filemtime($path) >= time() - $seconds) {
                continue;
            }
            $file = @fopen($path, 'r');
            if ($file && flock($file, LOCK_EX | LOCK_NB)) {
                @unlink($path);
            }
        }
    }

    /** @return resource|null */
    private function lock(string $key)
    {
        $name = hash('sha256', $key);
        $folder = "{$this->dir}/" . substr($name, 0, 2);
        if (!is_dir($folder)) {
            @mkdir($folder, 0700);
        }
        do {
            $file = @fopen("$folder/$name", 'c+');
            if (!$file || !flock($file, LOCK_EX)) {
                return null;
            }
        } while (fstat($file)['nlink'] === 0); // purged between the two calls
        return $file;
    }
}
