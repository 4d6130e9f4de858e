"""Facts: how mail servers and mail programs name what they send back, in the languages of Europe.

Each line holds expressions of one language, between blanks and bars; `compiled` makes one pattern of a table. Case does
not matter. Written where the words stand: in a heading (Subject) or in the text.
"""

from __future__ import annotations

import re

# Who writes bounces (From).
DAEMONS = r"""
mailer-?daemon | post[_-]?master | mail[ -]?daemon | daemon@ | mdaemon
mail ?delivery | mail ?system | delivery ?(?:sub)?system | \bmta\b
microsoft ?exchange | system ?administrator | mail ?administrator | \bbounces?\b
"""

# A delivery failed (Subject).
FAILED = r"""
un-?deliver | non-?deliver | not delivered | delivery (?:status|fail|error|problem|has failed|notification)
deliver(?:y|ing)\b.{0,40}\bfail | fail(?:ure|ed)\b.{0,30}\b(?:deliver|notice|mail) | failure notice | mail failed
returned (?:e-?)?mail | returning to sender | mail (?:could not|failure|error|system error) | error sending
could(?:n't| not) be delivered | can ?not be delivered | rejected
unzustellbar | nicht zugestellt | zustellung (?:fehl|nicht|des status)
non (?:remis|distribu|délivr) | échec | impossible de (?:remettre|distribuer)
no se (?:pudo|puede|ha podido) entregar | error de entrega | mislukt | onbestelbaar
mancato recapito | mancata consegna | impossibile recapitare | não (?:foi )?entregue | falha
kan ikke leveres | ikke leveret | ikke levert | kunde inte levereras | toimittaminen | palautettu
niedostarczon | nie dostarczon | nedoruč | kézbesíthetetlen | nem kézbesíthető | nelivrat | неделивер
не доставлен | недоставлен | не удалось доставить | δεν παραδόθηκε | teslim edilemedi
"""

# The same, in the words of a server (text).
FAILED_TEXT = r"""
could ?n[o']t be (?:delivered|reached) | could not deliver | wasn't able to deliver | unable to deliver
not delivered to | was not delivered | did not reach | delivery (?:to .{1,80} )?(?:has )?failed
permanent (?:fatal )?(?:delivery )?error | fatal errors | trouble delivering | undeliverable
can ?not be delivered | returned to (?:its )?sender | transcript of session | said: 5\d\d
error from remote | failed permanently | nicht zugestellt | n'a pas pu | no se (?:pudo|puede)
"""

# It may still succeed (Subject and text).
DELAYED = r"""
\bdelay(?:ed)?\b | still being retried | not yet been delivered | has not been delivered yet
will (?:continue|keep) (?:to )?try | will be retried | warning message only | do not need to resend
could not send message for past | delivery attempts will continue | still undelivered after
verzögert | noch nicht zugestellt | retardé | différé | retras | ritard | vertraag | försena | forsink | opóźni
"""
FINAL = r"gi?ve(?:n|ing)? up | permanent(?:ly)?"

# It has succeeded.
SUCCEEDED = r"""
\(success\) | successfully (?:delivered|relayed|sent) | delivery receipt | was delivered to the following
erfolgreich zugestellt | lesebestätigung | read receipt | \bread: | gelesen: | accusé de (?:réception|lecture)
"""


def compiled(table: str) -> re.Pattern[str]:
    """One pattern of a table's expressions."""
    words = [word.strip() for line in table.strip().splitlines() for word in line.split(" | ")]
    return re.compile("|".join(words), re.IGNORECASE)
