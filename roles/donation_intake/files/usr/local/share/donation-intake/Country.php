<?php
declare(strict_types=1);

namespace DonationIntake;

/** Countries and territories by their two letters, and which of them write addresses without a postal code. */
final class Country
{
    /** ISO 3166-1 alpha-2, and XK, which the EU and CiviCRM use for Kosovo. */
    private const CODES =
        'AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ '
        . 'CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR '
        . 'GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP '
        . 'KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT '
        . 'MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW '
        . 'SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ '
        . 'UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW';
    /** What people and forms write as well: ISO 3166 keeps UK for the United Kingdom, the EU's forms say EL for Greece. */
    private const ALIASES = ['UK' => 'GB', 'EL' => 'GR'];
    /** No postal code, or mail that arrives without one (UPU, Postal addressing systems; CLDR, postal code data). */
    private const WITHOUT_POSTAL_CODE =
        'AE AG AO AW BF BI BJ BO BQ BS BV BW BZ CD CF CG CI CK CM CW DJ DM EH ER FJ GA GD GH GM GN GQ GY HK HM IE JM KI KM KN '
        . 'KP LC LY ML MO MR MS MW NR NU PA QA RW SB SC SL SO SR SS ST SX SY TD TF TG TK TL TO TT TV UG VU YE ZW';

    /** Return the code of a country, null where it is none. */
    public static function code(string $text): ?string
    {
        $code = self::ALIASES[$text] ?? $text;
        return in_array($code, explode(' ', self::CODES), true) ? $code : null;
    }

    public static function needsPostalCode(string $code): bool
    {
        return !in_array($code, explode(' ', self::WITHOUT_POSTAL_CODE), true);
    }
}
