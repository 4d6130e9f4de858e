"""Facts: words of refusals that are about one recipient. How a line reads: `verdict_us`."""

ADDRESS = """
user unknown | address gone | Postfix, Sendmail | 2025
unknown user | address gone | Exim | 2025
user is unknown | address gone | qmail | 2025
user * not known | address gone | CommuniGate | 2020
user * unknown | address gone | CommuniGate | 2020
unknown user account | address gone | IMail | 2018
unknown recipient | address gone | Exchange | 2024
recipient unknown | address gone | Zimbra | 2024
recipient * unknown | address gone | OpenSMTPD | 2024
unknown local part | address gone | Exim | 2024
unknown address | address gone | sendmail | 2024
address unknown | address gone | GMX | 2024
addressee unknown | address gone | CommuniGate | 2020
unknown mailbox | address gone | Courier | 2020
mailbox unknown | address gone | GroupWise | 2018
unknown account | address gone | MDaemon | 2020
unknown or illegal alias | address gone | PMDF | 2018
unknown virtual mailbox | address gone | Postfix | 2024
unknown destination address | address gone | Mimecast | 2020
no such user | address gone | Gmail, qmail | 2025
no such person | address gone | GroupWise | 2018
no such recipient | address gone | Exim | 2024
no such mailbox | address gone | qmail | 2024
no such address | address gone | Exim | 2024
no such account | address gone | qmail | 2020
no such local user | address gone | Exim | 2020
no such virtual user | address gone | Exim | 2020
no such domain | address gone | Exim | 2024
no such name | address gone | Mailtraq | 2018
no such object | address gone | LDAP | 2018
no such a user | address gone | UOL | 2020
no account by that name | address gone | qmail, vpopmail | 2020
no mailbox found | address gone | MTAs | 2020
no mail box available | address gone | MTAs | 2020
no mailbox here | address gone | qmail | 2024
no mailbox by that name | address gone | qmail | 2024
no mailbox * that name | address gone | qmail | 2024
no user by that name | address gone | vpopmail | 2018
no valid recipient/recipients | address gone | Postfix | 2024
no valid * for this user | address gone | Exim | 2018
no valid cert for | address other | MailMarshal | 2018
there is no * user | address gone | Zoho | 2020
there is no one at this address | address gone | qmail | 2018
there was no * such user | address gone | Lotus | 2018
not a known user | address gone | CommuniGate | 2020
not a valid user | address gone | Lotus | 2020
not a valid mailbox | address gone | qmail | 2020
not a valid recipient | address gone | Symantec | 2020
not a local user | address gone | Exim | 2018
not a valid email | address gone | Zoho | 2020
not a registered * user | address gone | gateways | 2018
not our customer | address gone | qmail | 2024
not our user | address gone | qmail | 2024
not known here | address gone | IMail | 2018
not known at this site | address gone | PMDF | 2018
not listed in | address gone | Notes | 2018
not listed in * directory | address gone | Domino | 2024
not found in * directory | address gone | Domino | 2024
not listed in domino directory | address gone | Domino | 2024
no matches found in * directory | address gone | Notes | 2018
not present in directory | address gone | Notes | 2018
not in directory | address gone | IMail | 2018
user not found | address gone | Apple, IceWarp | 2025
user * not found | address gone | Zoho | 2024
recipient not found | address gone | Exchange | 2024
recipientnotfound | address gone | Exchange | 2024
recipient * not found | address gone | Exchange | 2024
recipnotfound | address gone | Exchange | 2024
mailbox not found | address gone | IceWarp | 2024
mailbox * not found | address gone | IceWarp | 2024
address not found | address gone | Gmail | 2024
address * not found | address gone | Exim | 2024
account not found | address gone | Zimbra | 2024
name not found | address gone | Exchange of old | 2005
could not be found | address gone | Exchange | 2024
couldn t be found | address gone | Exchange | 2024
wasn t found | address gone | Exchange Online | 2024
domain * not found | address gone | Gmail | 2024
domain name not found | address gone | Postfix | 2024
does not exist | address gone | Gmail | 2025
doesn t exist | address gone | Exim | 2024
do not exist | address gone | Exim | 2024
not exist | address gone | QQ | 2024
nonexistent user/recipient/mailbox/account/address | address gone | Exim | 2020
non existent user/recipient/mailbox/account/address | address gone | Exim | 2020
doesn t have a yahoo * account | address gone | Yahoo | 2024
doesn t have a * account | address gone | Yahoo | 2024
does not have an * account | address gone | Yahoo | 2024
invalid recipient/recipients | address gone | Exim | 2024
invalid user | address gone | Yandex | 2024
invalid mailbox | address gone | QQ, mail.ru | 2024
invalid address | address gone | qmail | 2024
invalid account | address gone | Rediff | 2020
invalid final delivery | address gone | IMail | 2018
invalid destination | address gone | GroupWise | 2018
invalid to address | address gone | gateways | 2018
invalid domain | address gone | sendmail | 2024
recipient invalid | address gone | MDaemon | 2018
adresse * destinataire invalide | address gone | Orange | 2024
recipient rejected | address gone | Sophos, Barracuda | 2024
~ recipient address rejected | address gone | Postfix, Exchange Online | 2025
recipient address rejected access denied | address gone | Exchange Online | 2025
recipient addresses rejected | address gone | Exchange Online | 2025
all recipient/recipients addresses rejected | address gone | Exchange Online | 2025
~ recipients were rejected | address other | Postfix | 2024
address rejected | address gone | Cisco | 2025
~ recipient/recipients was/were rejected | address other | MTAs | 2020
~ recipient * rejected | address other | MTAs | 2024
~ recipient * denied | address other | MTAs | 2024
recipient verification failed | address gone | Exim | 2024
recipient not ok | address gone | MTAs | 2018
cannot verify recipient | address gone | Exim | 2020
unverified address | address gone | Postfix | 2024
undeliverable address | address gone | Postfix | 2024
unrouteable/unroutable address | address gone | Exim | 2024
unrouteable/unroutable mail domain | address gone | Exim | 2024
unrouteable/unroutable domain | address gone | Exim | 2024
unroutable | address gone | Exim | 2024
undeliverable mail for | address gone | MTAs | 2018
bad destination mailbox address | address gone | sendmail | 2024
bad destination email address | address gone | Yahoo | 2018
bad address | address gone | qmail | 2024
bad recipient | address gone | MTAs | 2018
mailbox unavailable | address gone | RFC 5321 | 2008
mailbox not available | address gone | MTAs | 2020
unavailable mailbox | address gone | MTAs | 2020
mailbox name not allowed | address gone | RFC 5321 | 2008
mailbox is unavailable | address gone | Hotmail | 2020
not a mailbox | address gone | MTAs | 2018
not an active address | address gone | Exim | 2020
destinatario desconocido | address gone | MTAs | 2020
usuario desconocido | address gone | MTAs | 2020
utente sconosciuto | address gone | MTAs | 2020
destinataire inconnu | address gone | MTAs | 2020
utilisateur inconnu | address gone | MTAs | 2020
unbekannter benutzer/empfänger/nutzer | address gone | MTAs | 2020
benutzer/empfänger/adressat * unbekannt | address gone | MTAs | 2020
kein * postfach | address gone | MTAs | 2020
casilla * expirado | address closed | MTAs | 2020
no longer on server | address gone | MTAs | 2024
no longer valid | address gone | MTAs | 2024
no longer exists | address gone | MTAs | 2024
no longer active | address closed | MTAs | 2024
no longer available | address gone | AOL | 2024
no longer in use | address gone | MTAs | 2024
no longer accepts mail/email/messages | address closed | AOL | 2024
no longer accepting mail/email/messages | address closed | AOL | 2024
has been replaced by | address gone | MTAs | 2020
has moved | address gone | MTAs | 2020
user has left | address gone | MTAs | 2020
deliver to mailbox * refused | address other | MTAs | 2020
is not accepting any mail | address closed | AOL | 2024
is not accepting mail/email | address closed | AOL | 2024
not accepting messages | address closed | MTAs | 2020
does not accept mail/email | address gone | RFC 7504 | 2015
doesn t receive email | address gone | Gmail | 2025
does not like recipient | address gone | qmail | 2024
does not receive mail | address gone | MTAs | 2024
an mx or srv record indicated no smtp service | address gone | mail.ru | 2024
null mx | address gone | RFC 7505 | 2015
nullmx | address gone | RFC 7505 | 2015
badrcptto | address gone | qmail | 2024
delivery to * was prohibited | address other | MTAs | 2018
cannot find your user | address gone | MTAs | 2018
can t open mailbox | address gone | MTAs | 2018
couldn t create | address gone | procmail | 2020
unable to find recipient | address gone | MTAs | 2018
misspelled | address gone | MTAs | 2018
protected by spamarrest | address other | Spam Arrest | 2018
user suspended | address closed | MTAs | 2020
account * suspended | address closed | MTAs | 2024
recipient suspend/suspended | address closed | MTAs | 2020
account disabled | address closed | MTAs | 2024
account * disabled | address closed | Yahoo, Gmail | 2025
account is blocked | address closed | La Poste | 2024
account * blocked | address closed | La Poste | 2024
account has been blocked | address closed | mail.ru | 2024
account is locked | address closed | iCloud | 2020
account locked | address closed | MTAs | 2020
account inactive | address closed | MTAs | 2024
account * inactive | address closed | Gmail | 2025
account expired | address closed | MTAs | 2020
account * closed | address closed | MTAs | 2024
account deactivated | address closed | MTAs | 2024
account that you tried to reach is disabled | address closed | Gmail | 2025
account that you tried to reach is inactive | address closed | Gmail | 2025
account that you tried to reach is over quota | address full | Gmail | 2025
account that you tried to reach does not exist | address gone | Gmail | 2025
account * over quota | address full | Gmail | 2025
user disabled | address closed | MTAs | 2024
user is disabled | address closed | MTAs | 2024
user temporary/temporarily locked | address closed | MTAs | 2024
user * locked | address closed | MTAs | 2024
user is inactive | address closed | MTAs | 2024
user inactive | address closed | MTAs | 2024
inactive user | address closed | mail.ru | 2024
mailbox disabled | address closed | MTAs | 2024
mailbox * disabled | address closed | Yahoo | 2024
mailbox * inactive | address closed | Rambler | 2024
mailbox is frozen | address closed | I.UA | 2024
mailbox * blocked | address closed | MTAs | 2024
mailbox temporarily disabled | address closed | Dovecot | 2020
disabled recipient | address closed | MTAs | 2024
disabled user | address closed | MTAs | 2024
recipient disabled | address closed | MTAs | 2024
recipient address * disabled | address closed | RFC 5248 | 2008
disabled or discontinued | address closed | Yahoo | 2024
address is administratively disabled | address closed | sendmail | 2018
deactivated mailbox | address closed | MTAs | 2018
email/mail address * disabled | address closed | MTAs | 2020
compte * bloque | address closed | La Poste | 2024
mailbox full | address full | MTAs | 2025
mailbox is full | address full | MTAs | 2025
mailbox * full | address full | MTAs | 2025
full mailbox | address full | MTAs | 2020
inbox * full | address full | MTAs | 2020
inbox is out of storage | address full | Gmail | 2025
inbox * storage | address full | Gmail | 2025
out of storage space | address full | Gmail | 2025
over quota | address full | Dovecot, Gmail | 2025
overquota | address full | Orange | 2024
quota exceeded | address full | Dovecot | 2025
quotaexceeded | address full | Exchange | 2024
quota full | address full | MTAs | 2020
quota violation | address full | MTAs | 2020
exceeded * quota | address full | MTAs | 2024
exceeds * quota | address full | MTAs | 2024
exceeded storage allocation | address full | RFC 5321 | 2008
exceed * quota | address full | MTAs | 2024
exceeded * storage | address full | MTAs | 2024
has exceeded the limit | address full | MTAs | 2024
mailbox exceeds allowed size | address full | IMail | 2018
mailbox size limit exceeded | address full | MTAs | 2024
mailbox * exceeded | address full | MTAs | 2024
has too many messages on | address full | web.de | 2020
mailfolder is full | address full | MTAs | 2018
mail box full | address full | MTAs | 2020
boite * pleine | address full | Orange | 2024
postfach * voll | address full | MTAs | 2020
account is full | address full | MTAs | 2020
insufficient disk space for user | address full | MTAs | 2018
no space left for this user | address full | MTAs | 2018
not enough space | address full | MTAs | 2018
not enough storage | address full | MTAs | 2018
storage quota | address full | MTAs | 2018
doesn t have enough disk space | address full | MTAs | 2018
too much mail data | address full | docomo | 2020
would be over the allowed quota | address full | MTAs | 2018
receiving mail too quickly | address other | Gmail | 2026
receiving mail at a rate | address other | Gmail | 2026
receiving email at a rate | address other | Gmail | 2026
refused due to recipient preferences | address other | Facebook | 2025
blocked by a user * filter | address other | MTAs | 2018
user reject | address other | MTAs | 2020
message filtered | address other | MTAs | 2020
not accepted by the recipient | address other | MTAs | 2020
sender not authenticated for group | address other | Exchange Online | 2024
requires that all senders be authenticated | address other | Exchange | 2024
authrequired authentication required | address other | Exchange | 2024
authrequired | address other | Exchange | 2024
only accepts * from * in your organization | address other | Exchange Online | 2024
not permitted to send to this recipient | address other | Exchange | 2024
restricted * recipient | address other | Exchange | 2024
not allowed to post/send to this list/group | address other | MTAs | 2020
group * may not exist | address gone | Google Groups | 2024
"""
