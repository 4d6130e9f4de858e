<?php
declare(strict_types=1);

namespace DonationIntake;

/** E-mail addresses as donors write them: in any script before the @ (RFC 6531) and behind it (RFC 5890). */
final class Email
{
    /** Return an address with its domain in ASCII, as every mail server takes it; null where it is no address. */
    public static function normal(string $text): ?string
    {
        $at = (int) strrpos($text, '@');
        [$local, $domain] = [substr($text, 0, $at), substr($text, $at + 1)];
        if (preg_match('/[^\x00-\x7F]/', $domain)) {
            $domain = (string) idn_to_ascii($domain, IDNA_NONTRANSITIONAL_TO_ASCII | IDNA_USE_STD3_RULES, INTL_IDNA_VARIANT_UTS46);
        }
        // PHP's own check knows letters of other scripts, but not their vowel signs.
        $plain = preg_replace('/[^\x00-\x7F\p{C}\p{Z}]/u', 'x', $local);
        $valid = strlen($local) <= 64 && filter_var("$plain@$domain", FILTER_VALIDATE_EMAIL) !== false;
        return $valid ? "$local@$domain" : null;
    }
}
