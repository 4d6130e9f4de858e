<?php
declare(strict_types=1);

foreach (['Refusal', 'Config', 'Country', 'Fields', 'Email', 'Payment', 'Donation', 'Queue', 'Disk', 'Spool', 'Keys', 'Counters', 'Pending', 'Provider', 'Intake'] as $name) {
    require_once __DIR__ . "/$name.php";
}
