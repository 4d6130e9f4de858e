"""Mail: Postfix' queue and log, stopping of mailings, providers and their budgets, bounces and abuse reports.

What the others build on:

`addresses`         CiviMail's addresses, one for each person and mailing (VERP, as reverse-path: RFC 5321, 4.1.1.2);
                    their verbs are bounce, unsubscribe, opt out and so on
`postfix`           Postfix' own commands and queue directories
`log`               its log: one pattern for a line, rotation, how to follow it
`search`            lines among millions of them, as bytes
`international`     domains that are not ASCII: A-labels (IDNA 2008: RFC 5890)
`socketmap`         answer Postfix' look-ups (socketmap_table(5))
`selection`         which messages of the queue an operator means

Operators' commands on the queue:

`queue`             postfix-queue: list, count, hold, release, delete
`trickle`           postfix-trickle: release what is held, a few at a time
`mailing`           mailing: panic, resume, off, on, status
`mailing_state`     what it has stopped: the other commands on the queue ask here
`holds`             whose each message on hold is
`obstacles`         every reason why mail is not sent
`trace`             postfix-trace: all that the log says of a message
`queue_sizes`       postfix-queues-sizes: messages per queue, for the monitoring
`spool_reserve`     spool-reserve: no mailing while the disk is short
`candidate`         postfix-check-candidate: let Postfix check a configuration before it is used

Providers:

`provider_table`    their domains and budgets, as the role postfix_mailing writes them
`providers`         whose a domain is, by one rule (transport(5))
`hosted`            whose mail servers take a domain's mail: MX (RFC 5321, 5.1), null MX (RFC 7505)
`forecast`          postfix-providers: check, time, learn
`pace`              postfix-pace: hand out the budgets (socketmap_table(5))
`throttle`          lower a budget after replies 4XX (RFC 5321, 4.2.1), and raise it again

What strangers wrote, read:

`parts`             cut a mail into its parts, fast and bounded (RFC 2045; RFC 2046, 5.1)
`automatic`         what a program wrote by itself (RFC 3834, 5)
`quoting`           whether a letter forwards, answers or mentions

Bounces, the way back into the application:

`return_path`       the settings: sites, their addresses and mailboxes
`maildir`           folders of a mailbox, in which Dovecot works as well
`journal`           what a command must not forget
`verdict`           what a refusal is about: the address, us, their server, the network (RFC 3463, 3)
`verdict_codes`     facts for it: enhanced codes, and those of single providers
`verdict_address`   facts for it: words about one recipient
`verdict_us`        facts for it: words about us, their server or the network
`delivery_report`   whose delivery failed, where and why: DSN (RFC 3464)
`bounce_text`       the same in plain words, and what is no bounce
`bounce_words`      facts for it: what servers and answers are called in Europe's languages
`refusals`          who refuses us, and how many refusals are a storm
`storms`            what came back lately, and what the operator said to it
`handover`          a bounce in words that the application reads right
`breaker`           bounce-breaker: what comes back is judged before the application sees it
`breaker_report`    what it tells a person and Prometheus
`watch`             mailbox-watch: is what comes back taken

Abuse reports:

`feedback`          read one: ARF (RFC 5965, 2 and 3; its use: RFC 6650), forwarded newsletters, letters
`feedback_types`    what each type means: act, show or count
`complainants`      whom it is about
`deliveries`        who sent what to whom, out of the log
`opt_outs`          opt the person out, once, by a mail that says it is automatic (RFC 3834, 5)
`complaint_metrics` complaints per delivery
`reports`           abuse-report, the command

What is submitted here:

`diversion`         divert-submission: the mail of a site that reaches nobody goes to its catcher (sendmail(1))
`receipts`          receipt-milter: tell receipts, which pass while mailings are held, and prepare mail for the signer
`speakers`          for whom who submits may speak: what is signed, and what is refused (RFC 5322, 3.6.2)
`seven_bit`         7-bit and no line above 998 bytes: what a signature needs (RFC 2045, 6; RFC 6376, 5.3)

One-click unsubscribing (RFC 8058) is Apache's and Postfix': roles/one_click.

Replies: https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1
Reverse-path: https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.2
MX: https://www.rfc-editor.org/rfc/rfc5321#section-5.1 and https://www.rfc-editor.org/rfc/rfc7505
MIME: https://www.rfc-editor.org/rfc/rfc2045
IDNA: https://www.rfc-editor.org/rfc/rfc5890
DKIM: https://www.rfc-editor.org/rfc/rfc6376#section-5.3
DSN: https://www.rfc-editor.org/rfc/rfc3464#section-2
Status codes: https://www.rfc-editor.org/rfc/rfc3463#section-3
Auto-Submitted: https://www.rfc-editor.org/rfc/rfc3834#section-5
ARF: https://www.rfc-editor.org/rfc/rfc5965#section-2 and https://www.rfc-editor.org/rfc/rfc6650
One click: https://www.rfc-editor.org/rfc/rfc8058
"""
