"""Facts: words of refusals that are about us, about their server or about the network between.

A line is: words | subject and kind | source | year. Case, punctuation, addresses and numbers in the refusal do not
matter; "a/b" is either word, "*" up to five others; "~" marks words that count
only if no others are found. The longest words that are found count: "too many invalid
recipients" (us) hides "invalid recipients" (the address).
"""

US = """
too many invalid recipients | us reputation | MTAs | 2026
too many unknown recipients/users | us reputation | MTAs | 2026
mail from unknown users | us reputation | MTAs | 2026
too many bad recipients | us reputation | MTAs | 2020
too many nonexistent recipients | us reputation | Yahoo | 2020
blocked | us reputation | MTAs | 2026
is blocked | us reputation | MTAs | 2026
blocked using | us reputation | Postfix | 2025
blocked by | us reputation | MTAs | 2025
ip * blocked | us reputation | MTAs | 2025
host * blocked | us reputation | Postfix | 2025
bloquee | us reputation | Orange | 2024
blocklist/blacklist/blocklisted/blacklisted/denylist/denylisted | us reputation | MTAs | 2026
block/black/deny list/listed | us reputation | Outlook.com | 2026
blocking list | us reputation | MTAs | 2020
listed at/by/in | us reputation | MTAs | 2024
rbl/dnsbl/dnsbls/dnsrbl/uribl/surbl | us reputation | MTAs | 2026
spamhaus/spamcop/sorbs/barracudacentral/senderscore | us reputation | lists of senders | 2026
senderbase/abuseat/uceprotect/mailspike/abusix | us reputation | lists of senders | 2026
csi cloudmark com | us reputation | Cloudmark | 2024
cloudmark | us reputation | Cloudmark | 2024
proofpoint com | us reputation | Proofpoint | 2024
poor/bad/low reputation | us reputation | MTAs | 2026
very low reputation | us reputation | Gmail | 2026
reputation | us reputation | MTAs | 2026
banned sending ip | us reputation | Exchange Online | 2024
banned | us reputation | MTAs | 2024
unsolicited | us reputation | Gmail | 2026
unusual amount of unsolicited mail | us rate | Gmail | 2026
unusual rate of * mail/email/traffic | us rate | Gmail | 2026
unusual sending patterns | us rate | Gmail | 2024
a problem occurred ask your postmaster | us reputation | T-Online | 2026
~ no smtp service | us reputation | GMX | 2026
~ nemesis esmtp service not available | us reputation | GMX | 2026
weren t sent | us reputation | Outlook.com | 2026
too many unwanted messages | us reputation | Outlook.com | 2026
part of their network is on our block list | us reputation | Outlook.com | 2026
user complaints | us rate | Yahoo | 2026
unexpected volume | us rate | Yahoo | 2026
not accepting connections | us reputation | Apple | 2024
~ client host rejected | us policy | Postfix | 2025
~ client host * rejected | us policy | Postfix | 2025
connection refused by policy | us policy | MTAs | 2024
connections from * refused/rejected/denied | us policy | MTAs | 2024
connection denied/rejected | us policy | MTAs | 2024
connection dropped | us policy | MTAs | 2020
host network not allowed | us policy | Mimecast | 2026
~ access denied | us policy | MTAs | 2026
access from ip | us policy | MTAs | 2020
access not allowed | us policy | MTAs | 2020
not authorized/authorised to send | us policy | MTAs | 2024
~ not allowed to send | us policy | MTAs | 2024
not allowed to connect | us policy | MTAs | 2020
not permitted to send | us policy | MTAs | 2024
~ denied by policy | us policy | Mimecast | 2026
~ rejected by policy | us policy | MTAs | 2024
~ policy | us policy | MTAs | 2024
~ policies | us policy | MTAs | 2024
~ policy reason/reasons/violation/restriction/restrictions | us policy | MTAs | 2026
~ for policy reasons | us policy | MTAs | 2026
~ policy violation | us policy | MTAs | 2026
sender rejected | us policy | Cox | 2026
sender was rejected | us policy | MTAs | 2024
sender address rejected | us policy | Postfix | 2025
sender denied | us policy | Exchange | 2024
sender * not allowed | us policy | MTAs | 2020
sender not allowed | us policy | MTAs | 2024
sender verify failed | us policy | Exim | 2024
sender verification/callout * failed | us policy | Exim | 2024
sender domain * does not exist | us policy | sendmail | 2026
sender domain must exist | us policy | sendmail | 2020
~ sender domain | us policy | MTAs | 2024
sender ip | us reputation | MTAs | 2024
domain of sender address * does not exist | us policy | sendmail | 2026
domain of sender | us policy | sendmail | 2026
sender address does not exist | us policy | MTAs | 2020
verification failed for * sender | us policy | Exim | 2024
but my name was rejected | us policy | qmail | 2020
but sender was rejected | us policy | qmail | 2020
bad sender | us policy | MTAs | 2020
invalid sender | us policy | MTAs | 2020
unknown sender | us policy | MTAs | 2020
mail from * not allowed/accepted/rejected | us policy | MTAs | 2024
mail from domain | us policy | MTAs | 2024
mailfrom domain is listed | us reputation | KPN | 2025
return path * not allowed | us policy | MTAs | 2018
badmailfrom | us policy | qmail | 2020
purported responsible address | us authentication | MTAs | 2018
http help mail ru | us content | mail.ru | 2026
spam message rejected | us content | mail.ru | 2026
message * rejected * spam | us content | MTAs | 2024
spam | us content | MTAs | 2026
likely spam | us content | Gmail | 2024
spam score | us content | MTAs | 2026
scored as spam | us content | MTAs | 2026
spam detected | us content | MTAs | 2024
spam content | us content | MTAs | 2024
spamming | us reputation | MTAs | 2024
looks like spam | us content | MTAs | 2024
classified/considered/identified/flagged/detected/rejected as spam | us content | MTAs | 2026
mcspamsignature | us content | Mimecast | 2024
ube/uce | us content | MTAs | 2020
bulk mail/email | us content | MTAs | 2024
virus | us content | MTAs | 2024
virus detected | us content | MTAs | 2024
malware | us content | MTAs | 2024
phishing | us content | MTAs | 2024
content rejected | us content | MTAs | 2026
content * rejected | us content | MTAs | 2024
message content | us content | MTAs | 2026
content not accepted | us content | MTAs | 2024
because its content | us content | Gmail | 2024
illegal attachment | us content | Gmail | 2024
attachment | us content | MTAs | 2024
header error | us content | Yahoo | 2024
line limit exceeded | us content | Exim | 2024
line too long | us content | MTAs | 2024
headers too large | us content | MTAs | 2024
non ascii addresses | theirs protocol | RFC 6531 | 2012
improper use of 8 bit | us content | MTAs | 2024
duplicate header | us content | MTAs | 2024
rfc 5322/2822/822 compliant | us content | Gmail | 2024
not * compliant | us content | MTAs | 2024
multiple addresses in from | us content | Gmail | 2024
missing header | us content | MTAs | 2020
suspicious | us content | Gmail | 2024
dkim/dmarc | us authentication | MTAs | 2026
dmarc policy | us authentication | MTAs | 2026
dmarc check failed | us authentication | QQ | 2024
spf | us authentication | MTAs | 2026
bad spf | us authentication | MTAs | 2026
spf record/records | us authentication | GoDaddy | 2026
spf check/fail/failed/failure | us authentication | MTAs | 2026
sender policy framework | us authentication | MTAs | 2020
unauthenticated | us authentication | MTAs | 2024
unauthenticated email | us authentication | Gmail | 2024
authentication information | us authentication | Gmail | 2024
sender is unauthenticated | us authentication | Gmail | 2026
authentication required | us authentication | MTAs | 2024
authentication checks | us authentication | MTAs | 2024
turn on smtp authentication | us authentication | MTAs | 2024
smtp auth * required | us authentication | MTAs | 2020
mismatches client ip | us authentication | QQ | 2024
ptr | us ptr | MTAs | 2026
ptr record | us ptr | MTAs | 2026
no ptr | us ptr | GMX | 2026
bad dns ptr | us ptr | GMX | 2026
reverse dns | us ptr | MTAs | 2026
rdns | us ptr | MTAs | 2026
reverse lookup/hostname/name | us ptr | MTAs | 2024
cannot find your hostname | us ptr | Postfix | 2025
cannot find your reverse hostname | us ptr | Postfix | 2025
ip name lookup failed | us ptr | sendmail | 2024
ip name possibly forged | us ptr | sendmail | 2024
relaying denied ip name lookup failed | us ptr | sendmail | 2024
relaying denied ip name possibly forged | us ptr | sendmail | 2024
unverifyable/unverifiable sending | us ptr | MTAs | 2018
unresolvable * hostname | us ptr | MTAs | 2020
no access from mail server | us policy | MTAs | 2018
your server requires confirmation | us policy | MTAs | 2020
whitelist/whitelisted | us policy | MTAs | 2020
open relay | us reputation | MTAs | 2018
dynamic ip | us reputation | MTAs | 2024
generic hostname | us ptr | MTAs | 2020
may not be mail exchanger | us policy | MTAs | 2020
helo/ehlo * rejected/denied/invalid | us policy | Postfix | 2024
helo command rejected | us policy | Postfix | 2025
need fully qualified hostname | us policy | Postfix | 2025
invalid helo/ehlo | us policy | Exim | 2024
rate limit/limited/limiting | us rate | MTAs | 2026
ratelimit/ratelimited | us rate | MTAs | 2026
rate limit exceeded | us rate | MTAs | 2026
temporarily rate limited due to ip reputation | us rate | Outlook.com | 2026
throttled/throttling | us rate | MTAs | 2026
frequency limited | us rate | QQ | 2024
ip frequency limited | us rate | QQ | 2024
connection frequency limited | us connections | QQ | 2024
connection rate limit exceeded | us connections | sendmail | 2024
too many mails/messages/emails | us rate | MTAs | 2026
too many recipients | us rate | MTAs | 2024
sent to too many recipients | us rate | GoDaddy | 2026
too fast/quick/quickly | us rate | MTAs | 2026
slow down | us rate | MTAs | 2024
try again slower | us rate | Postfix | 2024
sending too many | us rate | MTAs | 2024
exceeded * rate/limit/messages * hour/day/minute | us rate | MTAs | 2024
too much mail | us rate | MTAs | 2024
mail rate | us rate | MTAs | 2024
sending limit | us rate | MTAs | 2024
server busy please try again later from | us rate | Outlook.com | 2026
too many connections | us connections | MTAs | 2026
too many concurrent | us connections | MTAs | 2026
too many concurrent connections/sessions | us connections | MTAs | 2026
too many simultaneous | us connections | MTAs | 2026
too many sessions | us connections | MTAs | 2026
too many * connections | us connections | MTAs | 2026
maximum connections | us connections | MTAs | 2024
connection limit | us connections | MTAs | 2024
max message/messages per connection | us connections | MTAs | 2026
maximum messages per connection | us connections | MTAs | 2026
try again later closing connection | us rate | Gmail | 2026
service refused please try later | us connections | Orange | 2026
service refuse veuillez essayer | us connections | Orange | 2026
message size exceeds | us size | Postfix | 2024
message too large | us size | MTAs | 2024
message too big | us size | MTAs | 2024
message length exceeds | us size | MTAs | 2024
message file too big | us size | MTAs | 2018
message exceeds * size | us size | MTAs | 2024
exceeds * maximum * size | us size | MTAs | 2024
exceeds * size limit | us size | MTAs | 2024
size limit | us size | MTAs | 2024
too large | us size | MTAs | 2024
size exceeds | us size | MTAs | 2024
~ rejected/refused/denied/prohibited | us policy | MTAs | 2024
~ not allowed/permitted/accepted/authorized | us policy | MTAs | 2024
~ mail rejected | us policy | Orange | 2026
~ message rejected | us policy | MTAs | 2024
~ email rejected | us policy | MTAs | 2024
~ mail refused | us policy | MTAs | 2024
~ message refused | us policy | MTAs | 2024
~ message * not accepted | us policy | MTAs | 2024
~ message not allowed | us policy | Yahoo | 2024
~ email not accepted | us policy | Yahoo | 2024
~ mail not accepted | us policy | MTAs | 2024
~ delivery not authorized | us policy | MTAs | 2024
~ not authorized/authorised | us policy | MTAs | 2024
administrative prohibition | us policy | Exim | 2024
administratively denied/prohibited | us policy | MTAs | 2024
~ security reasons | us policy | MTAs | 2024
rejected by header/body checks | us content | Postfix | 2020
domain * blocked | us reputation | MTAs | 2024
email address is not verified | us policy | Amazon SES | 2025
"""

OTHERS = """
relay/relaying denied | theirs relay | sendmail | 2025
relay access denied | theirs relay | Postfix | 2025
relay not permitted | theirs relay | Exim | 2025
relaying not permitted/allowed | theirs relay | MTAs | 2025
relaying * prohibited | theirs relay | Exim | 2020
relay * not allowed | theirs relay | MTAs | 2020
relay is not permitted | theirs relay | Exim | 2025
relay is not permitted from your server * is blocked | us reputation | Exim | 2026
relay is not permitted from your server | us policy | Exim | 2026
not configured to relay | theirs relay | MTAs | 2024
unable to relay | theirs relay | Exchange | 2024
we do not relay | theirs relay | MTAs | 2018
allowed rcpthosts | theirs relay | qmail | 2024
greylisted/greylisting/graylisted/graylisting/greylist | theirs greylisting | MTAs | 2025
gray/grey listed/listing | theirs greylisting | MTAs | 2025
hop count exceeded | network loop | MTAs | 2024
too many hops | network loop | MTAs | 2024
mail loop/loops | network loop | MTAs | 2024
loops back to myself | network loop | Postfix | 2024
routing loop | network loop | Domino | 2020
mail forwarding loop | network loop | Postfix | 2024
too many received headers | network loop | MTAs | 2020
host or domain name not found | network dns | Postfix | 2025
name service error | network dns | Postfix | 2025
malformed or unexpected name server reply | network dns | Postfix | 2025
name or service not known | network dns | MTAs | 2024
host not found | network dns | Postfix | 2025
host unknown | network dns | sendmail | 2025
unknown host | network dns | MTAs | 2024
couldn t find any host | network dns | qmail | 2024
nxdomain | network dns | Gmail | 2025
dns lookup failure | network dns | dma | 2024
could not find a gateway | network dns | MTAs | 2018
dns error | network dns | Gmail | 2025
dns query failed | network dns | Exchange Online | 2024
no mx record | network dns | Yahoo | 2024
couldn t find a mail exchanger | network dns | qmail | 2024
no route to host | network unreachable | Postfix | 2025
network is unreachable | network unreachable | Postfix | 2025
connection timed out | network unreachable | Postfix | 2025
connection refused | network unreachable | Postfix | 2025
operation timed out | network unreachable | MTAs | 2024
lost connection | network unreachable | Postfix | 2025
conversation with * timed out | network unreachable | Postfix | 2025
timed out | network unreachable | MTAs | 2024
did not accept our requests to connect | network unreachable | Gmail | 2025
unable to connect | network unreachable | MTAs | 2024
wasn t able to establish an smtp connection | network unreachable | qmail | 2024
domain is not reachable | network unreachable | 1&1 | 2024
not reachable | network unreachable | MTAs | 2020
envelope expired | network expired | OpenSMTPD | 2024
all hosts have been failing | network expired | Exim | 2024
after multiple retries | network expired | Yahoo | 2024
could not deliver for the last | network expired | dma | 2024
message expired | network expired | MTAs | 2024
delivery time expired | network expired | MTAs | 2024
retry time * exceeded/elapsed | network expired | Exim | 2024
retry timeout exceeded | network expired | Exim | 2024
in the queue too long | network expired | qmail | 2024
could not be delivered for more than | network expired | sendmail | 2024
could not be delivered within | network expired | MTAs | 2024
tls is required | theirs tls | Postfix | 2025
certificate | theirs tls | Postfix | 2025
starttls | theirs tls | MTAs | 2025
cannot start tls | theirs tls | Postfix | 2025
insufficient disk space | theirs system | MTAs | 2024
insufficient system storage | theirs system | RFC 5321 | 2008
insufficient system resources | theirs system | Exchange | 2024
mail system full | theirs system | MTAs | 2020
disk full | theirs system | MTAs | 2020
no space left on device | theirs system | MTAs | 2020
system config error | theirs system | sendmail | 2024
local configuration error | theirs system | MTAs | 2024
internal system error | theirs system | MTAs | 2024
internal server error | theirs system | MTAs | 2024
internal error | theirs system | MTAs | 2024
local error | theirs system | MTAs | 2020
temporary failure | theirs system | MTAs | 2024
temporary error/problem | theirs system | MTAs | 2024
temporary lookup failure | theirs system | Postfix | 2025
temporary local problem | theirs system | Exim | 2024
temporarily unavailable | theirs system | MTAs | 2024
service unavailable | theirs system | RFC 5321 | 2008
service currently unavailable | theirs system | MTAs | 2024
service not available | theirs system | RFC 5321 | 2008
upstream error | theirs system | Cloudflare | 2024
try again later | theirs system | MTAs | 2024
command not implemented | theirs protocol | RFC 5321 | 2008
command parameter not implemented | theirs protocol | RFC 5321 | 2008
sequence of commands | theirs protocol | RFC 5321 | 2008
protocol violation | us policy | MTAs | 2020
protocol error | theirs protocol | MTAs | 2024
mailer error | theirs system | MTAs | 2020
lock failure | theirs system | procmail | 2020
error while writing | theirs system | procmail | 2020
"""
