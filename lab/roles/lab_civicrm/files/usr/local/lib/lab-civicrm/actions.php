<?php
// Actions that APIv3 of CiviCRM 5.33 lacks and the lab's tests need.

/**
 * Mailing.recipients_status: what became of each message of a mailing.
 *
 * One row per recipient: whether it was handed to sendmail, whether a bounce is booked, of what type and
 * for what reason, whether the address is on hold now, and the envelope sender its message carried.
 */
function civicrm_api3_mailing_recipients_status(array $params): array
{
    civicrm_api3_verify_mandatory($params, null, ['id']);
    $rows = CRM_Core_DAO::executeQuery(
        'SELECT recipient.contact_id, email.email, email.on_hold, queue.job_id, queue.id AS queue_id, queue.hash,
            COUNT(DISTINCT delivered.id) AS delivered, COUNT(DISTINCT bounce.id) AS bounces,
            MAX(type.name) AS bounce_type, MAX(bounce.bounce_reason) AS bounce_reason
        FROM civicrm_mailing_recipients recipient
        LEFT JOIN civicrm_email email ON email.id = recipient.email_id
        LEFT JOIN civicrm_mailing_job job ON job.mailing_id = recipient.mailing_id AND job.is_test = 0
        LEFT JOIN civicrm_mailing_event_queue queue ON queue.job_id = job.id AND queue.email_id = recipient.email_id
        LEFT JOIN civicrm_mailing_event_delivered delivered ON delivered.event_queue_id = queue.id
        LEFT JOIN civicrm_mailing_event_bounce bounce ON bounce.event_queue_id = queue.id
        LEFT JOIN civicrm_mailing_bounce_type type ON type.id = bounce.bounce_type_id
        WHERE recipient.mailing_id = %1 AND (queue.id IS NOT NULL OR job.parent_id IS NULL)
        GROUP BY recipient.id, recipient.contact_id, email.email, email.on_hold, queue.job_id, queue.id, queue.hash
        ORDER BY recipient.id, queue.id',
        [1 => [$params['id'], 'Positive']]
    )->fetchAll();
    $status = [];
    foreach ($rows as $row) {
        // A recipient's row without a queue entry is the parent job's: it stands only until there is one.
        $status[$row['contact_id'] . ' ' . $row['email']] = [
            'contact_id' => (int) $row['contact_id'],
            'email' => $row['email'],
            'delivered' => $row['delivered'] > 0 && $row['bounces'] == 0,
            'bounced' => $row['bounces'] > 0,
            'bounces' => (int) $row['bounces'],
            'bounce_type' => $row['bounce_type'] ?: null,
            'bounce_reason' => $row['bounce_reason'] ?: null,
            'on_hold' => (bool) $row['on_hold'],
            'job_id' => $row['queue_id'] ? (int) $row['job_id'] : null,
            'queue_id' => $row['queue_id'] ? (int) $row['queue_id'] : null,
            'envelope_sender' => $row['queue_id'] ? lab_envelope_sender($row) : null,
        ];
    }
    return civicrm_api3_create_success(array_values($status), $params, 'Mailing', 'recipients_status');
}

/** The VERP address of a queued message. */
function lab_envelope_sender(array $row): string
{
    $parts = ['b', $row['job_id'], $row['queue_id'], $row['hash']];
    $verb = implode(Civi::settings()->get('verpSeparator'), $parts);
    return CRM_Core_BAO_MailSettings::defaultLocalpart() . $verb . '@' . CRM_Core_BAO_MailSettings::defaultDomain();
}
