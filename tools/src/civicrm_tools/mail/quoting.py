"""Tell whether a person's letter forwards a mail, answers one, or only speaks of it, by how mail programs quote."""

from __future__ import annotations

import re

from civicrm_tools.mail.automatic import bare, plain
from civicrm_tools.mail.parts import as_read

# What a quoted header says first on its lines: the words of Outlook and webmail for From, Sent, To and Subject.
LABELS = {
    "from": "from|von|de|da|van|från|fra|lähettäjä|od|feladó|de la|от|από|nuo|no|saatja|від|kimden|frá",
    "sent": "sent|date|gesendet|datum|envoyé|enviad[oa]|enviado el|fecha|inviato|data|verzonden|skickat|sendt|dato"
    "|lähetetty|päivämäärä|wysłano|wysłane|odesláno|odoslané|elküldve|dátum|trimis|изпратено|дата|στάλθηκε|ημερομηνία"
    "|poslano|poslato|išsiųsta|nosūtīts|saadetud|отправлено|надіслано|gönderilme|gönderildi|tarih|enviat",
    "to": "to|an|à|a|para|aan|till|til|vastaanottaja|do|komu|címzett|către|до|προς|za|kam|adressaat|кому|kime|per a",
    "subject": "subject|betreff|objet|asunto|oggetto|assunto|onderwerp|ämne|emne|aihe|temat|předmět|predmet|tárgy"
    "|subiect|относно|θέμα|zadeva|naslov|tema|temats|teema|тема|konu|assumpte|efni",
}
# Those of a header as it was sent.
TECHNICAL = "return-path|received|list-unsubscribe|x-civimail-bounce|message-id|precedence|job_id"
QUOTED = r"^[ \t>|*]{0,40}"
BLOCK = re.compile(
    QUOTED
    + "(?:"
    + "|".join(f"(?P<{role}>{bare(words)})" for role, words in LABELS.items())
    + rf"|(?P<technical>{TECHNICAL}))\*?[ \t]*:",
    re.MULTILINE,
)
FIELD_OR_BLANK = re.compile(r"(?:[ \t>|]{0,40}[A-Za-z][A-Za-z0-9_-]{0,60}:.*|[ \t].*|\s*)\r?")
# The line above what Gmail, Apple Mail and Thunderbird quote in an answer.
ATTRIBUTION = re.compile(
    r"^.{0,200}\b(?:wrote|schrieb|a ecrit|escribio|ha scritto|escreveu|schreef|skrev|kirjoitti|napisał\(?a?\)?|napsala?"
    r"|napisal[ao]?|irta|a scris|написа(?:л|ла|в)?|пише|εγραψε|rase|rakstija|kirjutas|yazdi|va escriure)"
    r"\b.{0,160}:[ \t]*$",
    re.MULTILINE,
)
BREAKS = re.compile(r"<(?:br|/p|/div|/tr|/li)\b[^>]{0,500}>", re.IGNORECASE)
TAGS = re.compile(r"<[^<>]{0,2000}>")

# As `plain` leaves them.
ANSWERS = "re|aw|antw|sv|vs|odp|ynt|res|ref|rif|r|ang|va|bls|atb|απ|ответ|відп"
FORWARDS = "fwd?|wg|tr|rv|i|enc|doorst|vb|vl|pd|prz|tovabbitas|ilt|πρθ|fs|trs|fvs|пересл"
PREFIX = re.compile(rf"\W*(?:(?P<answer>{ANSWERS})|(?P<forward>{FORWARDS}))[ ]?(?:[\[(]\d+[\])])?[ ]?:")


def is_answer(subject: str, in_reply_to: str = "") -> bool:
    """Whether a letter answers another, or forwards an answer: "Fwd: Re: News" brings somebody's words along."""
    words, forwarded = plain(subject), False
    while found := PREFIX.match(words):
        if found["answer"]:
            return True
        forwarded = True
        words = words[found.end() :]
    return bool(in_reply_to) and not forwarded


def style(text: str, html: bool = False) -> str:
    """Return how a text quotes: headers (nothing else), inline (a quoted header), reply (an attribution) or mention."""
    text = as_read(text)
    if html:
        text = TAGS.sub("", BREAKS.sub("\n", text)).replace("&nbsp;", " ")
    elif all(FIELD_OR_BLANK.fullmatch(line) for line in text.split("\n")):
        return "headers"
    lines = bare(text)
    if len({found["technical"] or found.lastgroup for found in BLOCK.finditer(lines)}) >= 2:
        return "inline"
    return "reply" if ATTRIBUTION.search(lines) else "mention"
