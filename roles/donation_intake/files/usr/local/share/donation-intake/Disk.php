<?php
declare(strict_types=1);

namespace DonationIntake;

/** Files that are on disk, name included, before a call returns; only the site's user can read them. */
final class Disk
{
    /** Write a whole file or none. @throws \RuntimeException */
    public static function write(string $dir, string $name, string $text): void
    {
        if (!is_dir($dir)) {
            @mkdir($dir, 0700);
        }
        $temporary = "$dir/." . bin2hex(random_bytes(12));
        try {
            $file = @fopen($temporary, 'x');
            if (!$file || !chmod($temporary, 0600) || fwrite($file, $text) !== strlen($text)) {
                throw new \RuntimeException('the disk cannot be written');
            }
            self::sync($file);
            if (!@rename($temporary, "$dir/$name")) {
                throw new \RuntimeException('the disk cannot be written: rename');
            }
        } catch (\RuntimeException $e) {
            @unlink($temporary);
            throw $e;
        }
        self::sync(@fopen($dir, 'r'));
    }

    /** @throws \RuntimeException */
    public static function checkFree(string $dir, int $megabytes): void
    {
        $free = @disk_free_space($dir);
        if ($free === false || $free < $megabytes * 1024 * 1024) {
            throw new \RuntimeException("the disk has less than $megabytes MB left");
        }
    }

    /** What a process that was killed in the middle of write() left an hour ago or earlier; nobody was promised anything. */
    public static function removeLeftovers(string $dir): void
    {
        foreach (glob("$dir/.[0-9a-f]*") ?: [] as $path) {
            if (@filemtime($path) < time() - 3600) {
                @unlink($path);
            }
        }
    }

    /** @param resource|false $file */
    private static function sync($file): void
    {
        if (!$file || !fsync($file) || !fclose($file)) {
            throw new \RuntimeException('the disk cannot be synced');
        }
    }
}
