<?php
declare(strict_types=1);

namespace DonationIntake;

/**
 * Donations that wait on disk for the queue, one file each: <microseconds since 1970>-<id>.json, oldest first.
 *
 * A file is on disk, name included, before put() returns; only the site's user can read it.
 */
final class Spool
{
    private readonly string $dir;

    public function __construct(string $stateDir, private readonly int $minFreeMb)
    {
        $this->dir = "$stateDir/spool";
    }

    /** @throws \RuntimeException when it is not safely on disk */
    public function put(string $id, string $job): void
    {
        Disk::checkFree($this->dir, $this->minFreeMb);
        Disk::write($this->dir, sprintf('%016d-%s.json', (int) (microtime(true) * 1e6), $id), $job);
    }

    /** @return string[] paths, oldest first */
    public function files(): array
    {
        $names = @scandir($this->dir) ?: [];
        return array_values(array_map(
            fn (string $name): string => "{$this->dir}/$name",
            array_filter($names, fn (string $name): bool => $name[0] !== '.'),
        ));
    }

    /** @return array{length: int, oldest_seconds: int} */
    public function state(): array
    {
        $files = $this->files();
        $since = $files ? (int) (((int) basename($files[0])) / 1e6) : time();
        return ['length' => count($files), 'oldest_seconds' => max(0, time() - $since)];
    }

    public function removeLeftovers(): void
    {
        Disk::removeLeftovers($this->dir);
    }
}
