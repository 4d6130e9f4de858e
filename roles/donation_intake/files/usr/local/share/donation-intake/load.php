<?php
declare(strict_types=1);

foreach (['Refusal', 'Config', 'Country', 'Fields', 'Email', 'Donation', 'Queue', 'Spool', 'Keys', 'Counters', 'Intake'] as $name) {
    require_once __DIR__ . "/$name.php";
}
