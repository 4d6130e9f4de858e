<?php
declare(strict_types=1);

namespace DonationIntake;

/** Counters of one site, kept over restarts: {"name": number} in one file that is written in place. */
final class Counters
{
    public function __construct(private readonly string $stateDir)
    {
    }

    /** Never fails: a donation is worth more than its count. */
    public function add(string $name, int $by = 1): void
    {
        $file = @fopen("{$this->stateDir}/counters.json", 'c+');
        if (!$file || !flock($file, LOCK_EX)) {
            return;
        }
        $counts = json_decode((string) stream_get_contents($file, 8192), true);
        $counts = is_array($counts) ? $counts : [];
        $counts[$name] = ($counts[$name] ?? 0) + $by;
        ksort($counts);
        rewind($file);
        // It only grows, and goes out in one write: a killed process leaves the old or the new text.
        fwrite($file, json_encode($counts));
        fclose($file);
    }
}
