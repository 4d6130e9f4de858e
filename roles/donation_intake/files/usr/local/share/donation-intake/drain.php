<?php
// Hand the spool of one site to the queue, oldest first: drain.php CONFIG. Runs as the site's user.
//
// At least once: a donation leaves the disk after Redis acknowledged it. Says in one line what became of the spool;
// a queue that is away is no failure, the donations just stay. Exit status 0, or 1 when it could not do its work.
declare(strict_types=1);

namespace DonationIntake;

require __DIR__ . '/load.php';

const BATCH = 50;

umask(0077);
$config = Config::load($argv[1] ?? '');
$queue = new Queue($config);
$spool = new Spool($config->stateDir, 0);
$counters = new Counters($config->stateDir);
$pending = new Pending($config, $spool, $counters);
$status = 0;

$files = $spool->files();
// A site's share of the disk; what is proved is spooled all the same.
$full = "{$config->stateDir}/spool-full";
if (count($files) > $config->spoolMax) {
    touch($full);
    printf("%d donations wait, more than the site may: it takes none\n", count($files));
} elseif (is_file($full)) {
    unlink($full);
}
// What comes meanwhile goes with the next run.
$files = array_slice($files, 0, BATCH * 100);
$drained = 0;
foreach (array_chunk($files, BATCH) as $batch) {
    if ($queue->isFull()) {
        printf("%d donations wait: the queue has as many of this site as it may\n", count($files) - $drained);
        break;
    }
    $jobs = array_map('file_get_contents', $batch);
    if (in_array(false, $jobs, true)) {
        fwrite(STDERR, "the spool cannot be read\n");
        $status = 1;
        break;
    }
    try {
        $queue->push(...$jobs);
    } catch (QueueFailure $e) {
        printf("%d donations wait: %s\n", count($files) - $drained, $e->getMessage());
        break;
    }
    array_map('unlink', $batch);
    $drained += count($batch);
    $counters->add('drained', count($batch));
}
if ($drained > 0) {
    echo "$drained donations handed to the queue\n";
}

// After the spool: all this writes, and a full disk must not keep from the queue what would empty it. What is proved now goes with the
// next run.
$steps = [
    fn () => $config->proof === 'lookup' && $pending->lookUp(new Provider($config), $config->lookupsAtOnce),
    fn () => $pending->settleAll(BATCH),
    fn () => $pending->evict(),
];
foreach ($steps as $step) {
    try {
        $step();
    } catch (\RuntimeException $e) {
        echo "what waits for its proof goes on waiting: {$e->getMessage()}\n";
    }
}

// Once an hour is often enough to tidy up.
$tidied = "{$config->stateDir}/tidied";
if ((int) @filemtime($tidied) < time() - 3600) {
    $spool->removeLeftovers();
    (new Keys($config->stateDir))->purge($config->keyHours * 3600);
    $pending->purge($config->paymentDays * 86400);
    touch($tidied);
}
exit($status);
