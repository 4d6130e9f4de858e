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
        $free = @disk_free_space($this->dir);
        if ($free === false || $free < $this->minFreeMb * 1024 * 1024) {
            throw new \RuntimeException("the spool's disk has less than {$this->minFreeMb} MB left");
        }
        $temporary = "{$this->dir}/.$id-" . bin2hex(random_bytes(6));
        try {
            $this->write($temporary, $job);
            $name = sprintf('%s/%016d-%s.json', $this->dir, (int) (microtime(true) * 1e6), $id);
            if (!@rename($temporary, $name)) {
                throw new \RuntimeException('the spool cannot be written: rename');
            }
        } catch (\RuntimeException $e) {
            @unlink($temporary);
            throw $e;
        }
        $this->sync(@fopen($this->dir, 'r'));
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

    /** What a process that was killed in the middle of put() left; nobody was promised anything. */
    public function removeLeftovers(): void
    {
        foreach (glob("{$this->dir}/.[0-9a-f]*") ?: [] as $path) {
            if (@filemtime($path) < time() - 3600) {
                @unlink($path);
            }
        }
    }

    private function write(string $path, string $text): void
    {
        $file = @fopen($path, 'x');
        if (!$file || !chmod($path, 0600) || fwrite($file, $text) !== strlen($text)) {
            throw new \RuntimeException('the spool cannot be written');
        }
        $this->sync($file);
    }

    /** @param resource|false $file */
    private function sync($file): void
    {
        if (!$file || !fsync($file) || !fclose($file)) {
            throw new \RuntimeException('the spool cannot be synced');
        }
    }
}
