<?php
declare(strict_types=1);

namespace DonationIntake;

/** Reads a donation out of a request's body: every field is known, checked and normal, or the body is refused. */
final class Donation
{
    /** Digits after the point, where they are not two (ISO 4217). */
    private const DECIMALS = [
        'CLP' => 0, 'DJF' => 0, 'GNF' => 0, 'ISK' => 0, 'JPY' => 0, 'KMF' => 0, 'KRW' => 0, 'PYG' => 0, 'RWF' => 0,
        'UGX' => 0, 'VND' => 0, 'VUV' => 0, 'XAF' => 0, 'XOF' => 0, 'XPF' => 0,
    ];
    private const REQUIRED = ['idempotency_key', 'amount', 'currency', 'campaign', 'payment_reference', 'contact'];
    private const CONTACT_REQUIRED = ['email'];
    private const CONTACT_OPTIONAL = ['first_name', 'last_name', 'address', 'country'];
    private const ADDRESS_REQUIRED = ['street_address', 'city'];
    private const ADDRESS_OPTIONAL = ['postal_code'];

    /**
     * Return the donation with its keys in a fixed order, so that equal donations are equal texts.
     *
     * @return array{idempotency_key: string, amount: string, currency: string, campaign: string,
     *   payment_reference: string, contact: array<string, mixed>}
     * @throws Refusal
     */
    public static function read(string $body, Config $config): array
    {
        try {
            $data = json_decode($body, true, 6, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
        } catch (\JsonException) {
            throw new Refusal(400, 'json_malformed', 'The body is not valid JSON in UTF-8.');
        }
        if (!is_array($data) || ltrim($body)[0] !== '{') {
            throw new Refusal(400, 'json_malformed', 'The body is not a JSON object.');
        }
        self::checkKeys($data, self::REQUIRED, [], '');
        $key = self::known($data, 'idempotency_key');
        $currency = self::string($data['currency'], 'currency');
        if (!in_array($currency, $config->currencies, true)) {
            throw new Refusal(422, 'currency_unknown', 'This currency is not accepted.', 'currency');
        }
        $campaign = self::string($data['campaign'], 'campaign');
        if (!in_array($campaign, $config->campaigns, true)) {
            throw new Refusal(422, 'campaign_unknown', 'There is no such campaign.', 'campaign');
        }
        return [
            'idempotency_key' => $key,
            'amount' => self::amount($data, $currency, $config->amountMax),
            'currency' => $currency,
            'campaign' => $campaign,
            'payment_reference' => self::reference($data, $config),
            'contact' => self::contact($data['contact']),
        ];
    }

    private static function reference(array $data, Config $config): string
    {
        $reference = self::known($data, 'payment_reference');
        if ($config->proof !== 'none' && !Payment::isReference($reference)) {
            throw new Refusal(422, 'field_invalid', "payment_reference must be the payment provider's: ch_... or pi_...", 'payment_reference');
        }
        return $reference;
    }

    /** An amount as payment providers count it: 2500 for "25.00" EUR, and for "25" of a currency without decimals 25. */
    public static function minor(string $amount, string $currency): int
    {
        // Without decimals since, but Stripe goes on counting them in hundredths.
        $hundredths = in_array($currency, ['ISK', 'UGX'], true) && !str_contains($amount, '.') ? '00' : '';
        return (int) (str_replace('.', '', $amount) . $hundredths);
    }

    /** Money is a string of digits and never a float. */
    private static function amount(array $data, string $currency, int $max): string
    {
        $decimals = self::DECIMALS[$currency] ?? 2;
        $fraction = $decimals ? "\\.[0-9]{{$decimals}}" : '';
        $example = $decimals ? '"25.00"' : '"2500"';
        $amount = self::match($data, 'amount', "/^(0|[1-9][0-9]{0,8})$fraction\$/D", "a string such as $example, with $decimals decimals");
        if (trim($amount, '0.') === '' || (int) $amount > $max || ((int) $amount === $max && trim(strstr($amount, '.') ?: '', '0.') !== '')) {
            throw new Refusal(422, 'field_invalid', "amount must be above 0 and at most $max.", 'amount');
        }
        return $amount;
    }

    /** @return array<string, mixed> */
    private static function contact(mixed $contact): array
    {
        $contact = self::object($contact, 'contact');
        self::checkKeys($contact, self::CONTACT_REQUIRED, self::CONTACT_OPTIONAL, 'contact.');
        $email = Email::normal(self::email($contact));
        if ($email === null || !preg_match('~^(?:' . Fields::rule('contact.email')['limit'] . ')$~Du', $email)) {
            throw new Refusal(422, 'field_invalid', 'contact.email is not an e-mail address.', 'contact.email');
        }
        $read = [
            'first_name' => self::optionalText($contact, 'first_name', 'contact.'),
            'last_name' => self::optionalText($contact, 'last_name', 'contact.'),
            'email' => $email,
        ];
        if ($read['first_name'] === '' && $read['last_name'] === '') {
            throw new Refusal(422, 'field_missing', 'contact.last_name is missing, and contact.first_name, too: one of both is needed.', 'contact.last_name');
        }
        $country = isset($contact['country']) ? self::country($contact) : null;
        if (isset($contact['address'])) {
            $read['address'] = self::address($contact['address'], $country);
        }
        return $read + ($country ? ['country' => $country] : []);
    }

    private static function country(array $contact): string
    {
        $country = Country::code(self::string($contact['country'], 'contact.country'));
        if ($country === null) {
            throw new Refusal(422, 'field_invalid', "contact.country must be a country's two capital letters (ISO 3166).", 'contact.country');
        }
        return $country;
    }

    /** @return array<string, string> without a postal code where the country has none, or none is known */
    private static function address(mixed $address, ?string $country): array
    {
        $address = self::object($address, 'contact.address');
        self::checkKeys($address, self::ADDRESS_REQUIRED, self::ADDRESS_OPTIONAL, 'contact.address.');
        $read = [
            'street_address' => self::text($address, 'street_address', 'contact.address.'),
            'city' => self::text($address, 'city', 'contact.address.'),
        ];
        $code = self::optionalText($address, 'postal_code', 'contact.address.');
        if ($code === '' && $country && Country::needsPostalCode($country)) {
            throw new Refusal(422, 'field_missing', 'contact.address.postal_code is missing.', 'contact.address.postal_code');
        }
        return $read + ($code === '' ? [] : ['postal_code' => $code]);
    }

    /** @param string[] $required @param string[] $optional */
    private static function checkKeys(array $data, array $required, array $optional, string $prefix): void
    {
        foreach ($required as $name) {
            if (!isset($data[$name])) {
                throw new Refusal(422, 'field_missing', "$prefix$name is missing.", "$prefix$name");
            }
        }
        foreach (array_diff(array_map('strval', array_keys($data)), $required, $optional) as $name) {
            // The name is the client's text: it is repeated only where it looks like one.
            $name = preg_match('/^\w{1,40}$/D', $name) ? $name : '?';
            throw new Refusal(422, 'field_unknown', "$prefix$name is not a field of a donation.", "$prefix$name");
        }
    }

    private static function object(mixed $value, string $field): array
    {
        if (!is_array($value) || array_is_list($value)) {
            throw new Refusal(422, 'field_invalid', "$field must be an object.", $field);
        }
        return $value;
    }

    private static function string(mixed $value, string $field): string
    {
        if (!is_string($value)) {
            throw new Refusal(422, 'field_invalid', "$field must be a string.", $field);
        }
        return $value;
    }

    /** A text that is as the table of fields says. */
    private static function known(array $data, string $name): string
    {
        ['limit' => $limit, 'says' => $form] = Fields::rule($name);
        return self::match($data, $name, "~^(?:$limit)\$~D", $form);
    }

    private static function match(array $data, string $name, string $pattern, string $form): string
    {
        $value = self::string($data[$name], $name);
        if (!preg_match($pattern, $value)) {
            throw new Refusal(422, 'field_invalid', "$name must be $form.", $name);
        }
        return $value;
    }

    /** Nothing in an address is cut but the blanks around it: what is left out would make another one. */
    private static function email(array $contact): string
    {
        $value = trim(self::string($contact['email'], 'contact.email'), ' ');
        if (mb_strlen($value, 'UTF-8') > 254 || Fields::isForbidden($value) || Fields::seen($value) !== $value) {
            throw new Refusal(422, 'field_invalid', 'contact.email must be 1 to 254 printable characters without < and >.', 'contact.email');
        }
        return $value;
    }

    /** Words of a person, without blanks around them and what nobody sees; anything else is taken as it is or refused. */
    private static function text(array $data, string $name, string $prefix): string
    {
        $value = self::words(self::string($data[$name], "$prefix$name"));
        $max = Fields::rule("$prefix$name")['limit'];
        if ($value === '' || mb_strlen($value, 'UTF-8') > $max || Fields::isForbidden($value)) {
            throw new Refusal(422, 'field_invalid', "$prefix$name must be 1 to $max printable characters without < and >.", "$prefix$name");
        }
        return $value;
    }

    /** The same, or '' where there is nothing: forms send a field that was left empty. */
    private static function optionalText(array $data, string $name, string $prefix): string
    {
        $value = $data[$name] ?? '';
        return is_string($value) && self::words($value) === '' ? '' : self::text($data, $name, $prefix);
    }

    private static function words(string $text): string
    {
        return (string) preg_replace('/^\p{Zs}+|\p{Zs}+$/uD', '', Fields::seen($text));
    }
}
