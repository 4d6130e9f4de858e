<?php
declare(strict_types=1);

namespace DonationIntake;

/** The table of a donation's fields, the same that the worker on the internal host goes by. */
final class Fields
{
    public static string $path = '/usr/local/lib/civicrm-tools/src/civicrm_tools/donations/fields.json';
    private static ?array $table = null;

    /** @return array{kind: string, limit: string|int, required: bool, says?: string} */
    public static function rule(string $name): array
    {
        return self::table()['fields'][$name];
    }

    /** A text without what nobody sees: it gets into names by copying, and only hides something there. */
    public static function seen(string $text): string
    {
        static $patterns = null;
        // Joiners in a second pass: what stood before one may just have gone.
        $patterns ??= [
            sprintf('/[%s]/u', self::characters('invisible')),
            sprintf('/(?<![%s])[%s]/u', self::characters('joined'), self::characters('joiners')),
        ];
        return (string) preg_replace($patterns, '', $text);
    }

    public static function isForbidden(string $text): bool
    {
        static $pattern = null;
        $pattern ??= sprintf('/[%s]/u', self::characters('forbidden'));
        return preg_match($pattern, $text) !== 0;
    }

    /** One of the table's lists of characters as the inside of a class of a regular expression. */
    private static function characters(string $name): string
    {
        $ranges = array_map(fn (string $pair): string => preg_replace('/[0-9a-f]+/', '\\x{$0}', $pair), self::table()[$name]);
        return implode('', $ranges);
    }

    private static function table(): array
    {
        return self::$table ??= json_decode((string) file_get_contents(self::$path), true, 8, JSON_THROW_ON_ERROR);
    }
}
