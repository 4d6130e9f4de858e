<?php
// Completed public mailings for the newsletter archive, as they were written. One JSON call on stdin, one JSON answer:
//
//   {"action": "list", "known": [3, 5]}
//   {"mailings": [{"id": 7, "date": "2026-01-31", "subject": "January", "html": "<p>Dear {contact.display_name}..."}]}
//
// Never as a reader got them: tokens stay, but for those that mean the same to every reader.

const LAB_COMMAND = 'lab-civicrm-newsletters';
require __DIR__ . '/boot.php';

/** What {domain.*} stands for: the organisation's name and its address in one line. */
function lab_domain_tokens(): array
{
    $row = CRM_Core_DAO::executeQuery(
        "SELECT d.name, CONCAT_WS(', ', a.street_address, a.city, a.postal_code) AS address FROM civicrm_domain d
         LEFT JOIN civicrm_address a ON a.contact_id = d.contact_id AND a.is_primary = 1 WHERE d.id = %1 LIMIT 1",
        [1 => [CRM_Core_Config::domainID(), 'Positive']]
    );
    $row->fetch();
    return array_map('htmlspecialchars', ['{domain.name}' => (string) $row->name, '{domain.address}' => (string) $row->address]);
}

function lab_newsletters(array $known): array
{
    $rows = CRM_Core_DAO::executeQuery(
        "SELECT m.id, m.subject, m.body_html, DATE(MAX(j.end_date)) AS sent FROM civicrm_mailing m
         JOIN civicrm_mailing_job j ON j.mailing_id = m.id AND j.is_test = 0 AND j.parent_id IS NULL
         WHERE m.visibility = 'Public Pages' AND m.sms_provider_id IS NULL AND m.body_html <> ''
         GROUP BY m.id, m.subject, m.body_html HAVING SUM(j.status <> 'Complete') = 0 ORDER BY m.id"
    );
    $words = lab_domain_tokens();
    $found = [];
    while ($rows->fetch()) {
        if (!in_array((int) $rows->id, $known, true)) {
            $html = strtr($rows->body_html, $words);
            $found[] = ['id' => (int) $rows->id, 'date' => $rows->sent, 'subject' => $rows->subject, 'html' => $html];
        }
    }
    return $found;
}

$lab_call = json_decode(stream_get_contents(STDIN), true);
if (!is_array($lab_call) || ($lab_call['action'] ?? '') !== 'list' || !is_array($lab_call['known'] ?? null)) {
    lab_fail('standard input must hold {"action": "list", "known": [ids]}', 64);
}
lab_start_civicrm();
lab_done(json_encode(['mailings' => lab_newsletters($lab_call['known'])], JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
