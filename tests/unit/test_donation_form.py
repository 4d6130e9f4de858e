"""What the donation API takes for a donor: people of all countries, and a clear word where it does not (S13)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from loading import ROOT

from civicrm_tools.donations import form

LIBRARY = ROOT / "roles/donation_intake/files/usr/local/share/donation-intake"
DOMAINS = {"bücher.example": "xn--bcher-kva.example", "उदाहरण.example": "xn--p1b6ci4b4b3a.example"}

# Reads one donation a line. PHP's intl and mbstring are packages of ext, and not of every developer's machine.
DRIVER = """
namespace {
    const IDNA = %s;
    foreach (['IDNA_NONTRANSITIONAL_TO_ASCII', 'IDNA_USE_STD3_RULES', 'INTL_IDNA_VARIANT_UTS46'] as $name) {
        defined($name) || define($name, 0);
    }
    if (!function_exists('idn_to_ascii')) {
        function idn_to_ascii($domain) { return IDNA[$domain] ?? false; }
    }
    if (!function_exists('mb_strlen')) {
        function mb_strlen($text) { return iconv_strlen($text, 'UTF-8'); }
    }
}
namespace DonationIntake {
    require '%s/load.php';
    Fields::$path = '%s';
    $class = new \\ReflectionClass(Config::class);
    $config = $class->newInstanceWithoutConstructor();
    $settings = ['currencies' => ['EUR'], 'campaigns' => ['general'], 'amountMax' => 1000, 'proof' => 'none'];
    foreach ($settings as $name => $value) {
        (fn () => $this->$name = $value)->call($config);
    }
    while (($line = fgets(STDIN)) !== false) {
        try {
            $answer = ['contact' => Donation::read($line, $config)['contact']];
        } catch (Refusal $refusal) {
            $answer = ['field' => $refusal->field, 'code' => $refusal->reason, 'message' => $refusal->getMessage()];
        }
        echo json_encode($answer, JSON_UNESCAPED_UNICODE), "\\n";
    }
}
"""


def php_array(values: dict[str, str]) -> str:
    return "[" + ", ".join(f"'{key}' => '{value}'" for key, value in values.items()) + "]"


@pytest.fixture(scope="module")
def read() -> Callable[..., dict]:
    """A function (contact's fields) -> {contact}, or {field, code, message} of a refusal; None leaves a field out."""
    program = DRIVER % (php_array(DOMAINS), LIBRARY, form.TABLE)
    command = ["php", "-d", "display_errors=stderr", "-r", program]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def _read(**fields) -> dict:
        contact = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org"} | fields
        donation = {
            "idempotency_key": "5d1f9d1e-6c1c-4b5e-9b58-0a4f0f7a1c11",
            "amount": "25.00",
            "currency": "EUR",
            "campaign": "general",
            "payment_reference": "ch_3PqXyZ",
            "contact": {name: value for name, value in contact.items() if value is not None},
        }
        print(json.dumps(donation), file=process.stdin)
        return json.loads(process.stdout.readline())

    yield _read
    process.communicate()
    assert process.returncode == 0


ADDRESS = {"street_address": "1 Example Street", "city": "Exampleton", "postal_code": "12345"}
WITHOUT = {name: value for name, value in ADDRESS.items() if name != "postal_code"}


def test_a_donor_who_fills_everything_in_is_taken_as_before(read):
    """Key by key in this order: a request that is sent again has the same id after an upgrade."""
    contact = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org", "address": ADDRESS}
    assert json.dumps(read(address=ADDRESS, country="DE")["contact"]) == json.dumps(contact | {"country": "DE"})


@pytest.mark.parametrize(("country", "code"), [("UK", "GB"), ("EL", "GR"), ("GB", "GB"), ("XK", "XK"), ("DE", "DE")])
def test_a_country_is_known_by_what_people_call_it(read, country, code):
    """CiviCRM knows no UK, and the whole address was dropped with it."""
    assert read(country=country, address=ADDRESS)["contact"]["country"] == code


@pytest.mark.parametrize("country", ["ZZ", "EU", "de", "DEU", "Germany", "", "D", "AN", 49])
def test_what_is_no_country_is_refused_by_name(read, country):
    refusal = read(country=country, address=ADDRESS)
    assert (refusal["field"], refusal["code"]) == ("contact.country", "field_invalid")


@pytest.mark.parametrize("country", ["HK", "IE", "AE", "QA", "JM", "PA", None])
@pytest.mark.parametrize("address", [WITHOUT, WITHOUT | {"postal_code": ""}, WITHOUT | {"postal_code": " "}])
def test_where_addresses_have_no_postal_code_none_is_asked_for(read, country, address):
    """Forms send an empty field; without a country nobody knows."""
    assert read(country=country, address=address)["contact"]["address"] == WITHOUT


def test_a_postal_code_that_is_given_is_kept_anywhere(read):
    address = WITHOUT | {"postal_code": "D02 AF30"}
    assert read(country="IE", address=address)["contact"]["address"] == address


@pytest.mark.parametrize("country", ["DE", "US", "UK", "JP", "BR"])
def test_elsewhere_a_missing_postal_code_is_named(read, country):
    refusal = read(country=country, address=WITHOUT)
    assert (refusal["field"], refusal["code"]) == ("contact.address.postal_code", "field_missing")


@pytest.mark.parametrize("absent", [None, "", "  "])
@pytest.mark.parametrize("name", ["first_name", "last_name"])
def test_one_name_is_a_name(read, name, absent):
    other = {"first_name": "last_name", "last_name": "first_name"}[name]
    contact = read(**{name: absent, other: "Sukarno"})["contact"]
    assert (contact[name], contact[other]) == ("", "Sukarno")


@pytest.mark.parametrize("absent", [None, "", " "])
def test_no_name_at_all_is_refused(read, absent):
    refusal = read(first_name=absent, last_name=absent)
    assert (refusal["field"], refusal["code"]) == ("contact.last_name", "field_missing")


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("jörg@example.org", "jörg@example.org"),
        ("राम@उदाहरण.example", "राम@xn--p1b6ci4b4b3a.example"),
        ("user+tag@example.org", "user+tag@example.org"),
    ],
)
def test_an_address_in_any_script_is_taken(read, given, normal):
    """Its domain as every mail server takes it."""
    assert read(email=given)["contact"]["email"] == normal


@pytest.mark.parametrize(
    "email",
    ["ada", "@example.org", "ada@", "ada@example", "a@b@example.org", "jö rg@example.org", "ada@bü cher.example",
     "ada@nonsense-ü.example", "ö" * 33 + "@example.org", "jörg.@example.org", "a\u200bb@example.org"],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_name(read, email):
    refusal = read(email=email)
    assert (refusal["field"], refusal["code"]) == ("contact.email", "field_invalid")


FARSI = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"  # a name whose parts a joiner keeps from running together


@pytest.mark.parametrize(
    ("given", "kept"),
    [("\u200bAda\ufeff", "Ada"), ("A\u00adda", "Ada"), ("\u3000Ada\u00a0", "Ada"), ("Ada\u200d", "Ada"),
     (FARSI, FARSI), ("A\u2060\u034fda", "Ada"), ("\U000e0041Ada", "Ada"), ("\u3164Ada", "Ada"),
     ("A\u061c\u200dda", "Ada"), ("A\u180b\u200c\u200dda", "Ada"), ("\u0639\u061c\u200c\u0631", "\u0639\u200c\u0631")],
)  # fmt: skip
def test_what_nobody_sees_is_left_out_of_a_name(read, given, kept):
    """It came in by copying, or to pass for somebody else; where a script needs a joiner, it stays."""
    assert read(last_name=given)["contact"]["last_name"] == kept


@pytest.mark.parametrize("name", ["\u200b", "\u3164\u2800", "\u00a0 \u3000"])
def test_a_name_that_nobody_sees_is_none(read, name):
    assert read(first_name=None, last_name=name)["code"] == "field_missing"


@pytest.mark.parametrize("name", ["a\u202eb", "a\u0000b", "<b>", "a\u009bb", "a\u2066b", "a\ue000b", "x" * 65])
def test_what_turns_or_marks_up_a_name_is_refused(read, name):
    assert read(last_name=name)["field"] == "contact.last_name"


def test_the_worker_takes_what_the_form_lets_through(read):
    """One table: a donation that was accepted is no dead letter for its form."""
    for contact in (
        {"last_name": FARSI, "country": "IE", "address": WITHOUT},
        # An invisible character of a script that has joiners, between a letter of none and a joiner.
        *({"last_name": f"A{unseen}\u200dda"} for unseen in "\u061c\u17b4\u180b\u180e\u200b"),
        {"first_name": None, "email": "\u0930\u093e\u092e@\u0909\u0926\u093e\u0939\u0930\u0923.example"},
        {"email": "user+tag@example.org", "address": ADDRESS, "last_name": "x" * 64},
    ):
        donation = {"idempotency_key": "k" * 16, "amount": "25.00", "currency": "EUR", "campaign": "general"}
        donation |= {"payment_reference": "ch_3PqXyZ", "contact": read(**contact)["contact"]}
        job = {"id": "a" * 32, "site": "donate-api", "received_at": 1, "test": False, "campaigns_version": "v1"}
        assert form.read(json.dumps(job | {"donation": donation}), "donate-api")["donation"] == donation


def test_a_name_that_is_a_word_of_programs_is_taken(read):
    """What CiviCRM makes of it is the worker's part."""
    assert read(last_name="null")["contact"]["last_name"] == "null"
