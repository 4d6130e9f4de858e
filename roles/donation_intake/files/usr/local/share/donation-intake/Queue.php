<?php
declare(strict_types=1);

namespace DonationIntake;

/** The queue on the internal host. Its user here may push to this site's list and ping, nothing else. */
final class Queue
{
    private ?\Redis $redis = null;
    private const FULL_SECONDS = 60;
    private readonly string $pauseFile;
    private readonly string $fullFile;

    public function __construct(private readonly Config $config)
    {
        $this->pauseFile = "{$config->stateDir}/queue-paused";
        $this->fullFile = "{$config->stateDir}/queue-full";
    }

    /**
     * Whether the queue did not answer a moment ago: then nobody waits for it again until the pause is over.
     */
    public function isPaused(): bool
    {
        $since = @filemtime($this->pauseFile);
        return $since !== false && abs(time() - $since) < $this->config->pauseSeconds;
    }

    /** Whether the site had its share of the queue a moment ago; the memory there is other sites', too. */
    public function isFull(): bool
    {
        $since = @filemtime($this->fullFile);
        return $since !== false && abs(time() - $since) < self::FULL_SECONDS;
    }

    /** @throws QueueFailure when the jobs may not be in the queue */
    public function push(string ...$jobs): void
    {
        $length = 0;
        $this->call(function (\Redis $redis) use ($jobs, &$length): bool {
            return is_int($length = $redis->lPush($this->config->queueKey, ...$jobs));
        });
        // Redis says how long the list is now; this user could not ask.
        if ($length > $this->config->queueMax) {
            @touch($this->fullFile);
        } elseif (is_file($this->fullFile)) {
            @unlink($this->fullFile);
        }
    }

    public function isReachable(): bool
    {
        try {
            $this->call(fn (\Redis $redis): bool => (bool) $redis->ping());
        } catch (QueueFailure) {
            return false;
        }
        return true;
    }

    private function call(callable $command): void
    {
        try {
            $this->redis ??= $this->connect();
            if (!$command($this->redis)) {
                throw new \RedisException((string) $this->redis->getLastError());
            }
        } catch (\RedisException $e) {
            $this->redis = null;
            @touch($this->pauseFile);
            // Redis' own words hold no data, only OOM, NOPERM, WRONGPASS, a timeout.
            throw new QueueFailure(substr($e->getMessage() ?: 'no answer', 0, 80));
        }
        if (is_file($this->pauseFile)) {
            @unlink($this->pauseFile);
        }
    }

    private function connect(): \Redis
    {
        $redis = new \Redis();
        $timeout = $this->config->connectTimeoutSeconds;
        if (!@$redis->connect($this->config->queueHost, $this->config->queuePort, $timeout, null, 0, $this->config->readTimeoutSeconds)) {
            throw new \RedisException('cannot connect');
        }
        // The spool is the second try.
        $redis->setOption(\Redis::OPT_MAX_RETRIES, 0);
        if (!$redis->auth([$this->config->queueUser, $this->config->queuePassword])) {
            throw new \RedisException('WRONGPASS');
        }
        return $redis;
    }
}

final class QueueFailure extends \RuntimeException
{
}
