"""Facts: what the codes of a refusal are about, those of RFC 3463 and those of single providers.

A line is: form | subject and kind | source | year. `verdict` reads the tables and says how they are used.
"""

# Enhanced status codes (RFC 3463, RFC 5248, IANA's registry) without the first digit. "!" marks a code that no words
# outweigh; "?" one that says so little that words, then the reply code, decide.
ENHANCED = """
0.0 | ? | RFC 3463 | 2003
1.0 | ? | RFC 3463 | 2003
1.1 | address gone | RFC 3463 | 2003
1.2 | address gone | RFC 3463 | 2003
1.3 | address gone | RFC 3463 | 2003
1.4 | address other | RFC 3463 | 2003
1.6 | address gone | RFC 3463 | 2003
1.7 | ! us policy | RFC 3463 | 2003
1.8 | ! us policy | RFC 3463 | 2003
1.9 | theirs system | RFC 3886 | 2004
1.10 | ! address gone | RFC 7505 | 2015
1.20 | ! address gone | Exchange Online | 2024
1.90 | ! us rate | Exchange Online | 2024
1.351 | address gone | Exchange Online | 2024
2.0 | ? | RFC 3463 | 2003
2.1 | address closed | RFC 3463 | 2003
2.2 | address full | RFC 3463 | 2003
2.3 | us size | RFC 3463 | 2003
2.4 | address other | RFC 3463 | 2003
3.0 | ? | RFC 3463 | 2003
3.1 | theirs system | RFC 3463 | 2003
3.2 | theirs system | RFC 3463 | 2003
3.3 | theirs protocol | RFC 3463 | 2003
3.4 | us size | RFC 3463 | 2003
3.5 | theirs system | RFC 3463 | 2003
4.0 | ? | RFC 3463 | 2003
4.1 | network unreachable | RFC 3463 | 2003
4.2 | network unreachable | RFC 3463 | 2003
4.3 | network dns | RFC 3463 | 2003
4.4 | network dns | RFC 3463 | 2003
4.5 | theirs system | RFC 3463 | 2003
4.6 | network loop | RFC 3463 | 2003
4.7 | network expired | RFC 3463 | 2003
4.8 | theirs system | RFC 8460 | 2018
4.14 | ! network loop | Exchange Online | 2024
4.300 | network expired | Exchange Online | 2024
4.310 | address gone | Exchange Online | 2024
4.312 | network dns | Exchange Online | 2024
4.316 | network unreachable | Exchange Online | 2024
5.0 | ? | RFC 3463 | 2003
5.1 | ? | RFC 3463 | 2003
5.2 | ? | RFC 3463 | 2003
5.3 | us rate | RFC 3463 | 2003
5.4 | ? | RFC 3463 | 2003
5.5 | theirs protocol | RFC 3463 | 2003
5.6 | us size | RFC 4468 | 2006
6.0 | ? | RFC 3463 | 2003
6.1 | us content | RFC 3463 | 2003
6.2 | us content | RFC 3463 | 2003
6.3 | us content | RFC 3463 | 2003
6.7 | theirs protocol | RFC 6531 | 2012
6.8 | theirs protocol | RFC 6531 | 2012
6.9 | theirs protocol | RFC 6531 | 2012
7.0 | us policy | RFC 3463 | 2003
7.1 | us policy | RFC 3463 | 2003
7.2 | address other | RFC 3463 | 2003
7.3 | theirs protocol | RFC 3463 | 2003
7.4 | theirs tls | RFC 3463 | 2003
7.5 | theirs tls | RFC 3463 | 2003
7.7 | us content | RFC 3463 | 2003
7.8 | us authentication | RFC 4954 | 2007
7.10 | theirs tls | RFC 5248 | 2008
7.13 | ! address closed | RFC 5248 | 2008
7.16 | ! us size | RFC 6710 | 2012
7.17 | ! address gone | RFC 7293 | 2014
7.18 | ! address gone | RFC 7293 | 2014
7.19 | ! address other | RFC 7293 | 2014
7.20 | ! us authentication | RFC 7372 | 2014
7.21 | ! us authentication | RFC 7372 | 2014
7.22 | ! us authentication | RFC 7372 | 2014
7.23 | ! us authentication | RFC 7372 | 2014
7.24 | ! us authentication | RFC 7372 | 2014
7.25 | ! us ptr | RFC 7372 | 2014
7.26 | ! us authentication | RFC 7372 | 2014
7.27 | us policy | RFC 7505 | 2015
7.28 | ! us rate | IANA | 2016
7.29 | ! us authentication | RFC 8617 | 2019
7.30 | theirs tls | RFC 8689 | 2019
7.54 | theirs relay | Exchange | 2024
7.57 | us authentication | Exchange | 2024
7.60 | us authentication | Exchange | 2024
7.64 | theirs relay | Exchange Online | 2024
7.123 | ! address other | Exchange Online | 2024
7.124 | ! address other | Exchange Online | 2024
7.129 | ! address other | Exchange Online | 2024
7.133 | ! address other | Exchange Online | 2024
7.134 | ! address other | Exchange Online | 2024
7.135 | ! address other | Exchange Online | 2024
7.136 | ! address other | Exchange Online | 2024
7.193 | ! address other | Exchange Online | 2024
7.232 | ! us rate | Exchange Online | 2025
7.233 | ! us rate | Exchange Online | 2025
7.321 | theirs tls | Exchange Online | 2024
7.323 | theirs tls | Exchange Online | 2024
7.324 | theirs tls | Exchange Online | 2024
7.500 | us rate | Exchange Online | 2024
7.508 | ! us rate | Exchange Online | 2024
7.509 | ! us authentication | Exchange Online | 2024
7.510 | ! address other | Exchange Online | 2024
7.515 | ! us authentication | Outlook.com | 2025
7.520 | address other | Exchange Online | 2024
7.750 | ! us policy | Exchange Online | 2024
"""

# The same for ranges: 7.5xx and 7.6xx of Microsoft are its lists of senders.
RANGES = """
7.50x | ! us reputation | Exchange Online | 2024
7.51x | ! us reputation | Exchange Online | 2024
7.60x | ! us reputation | Exchange Online | 2024
7.61x | ! us reputation | Exchange Online | 2024
7.62x | ! us reputation | Exchange Online | 2024
7.63x | ! us reputation | Exchange Online | 2024
7.64x | ! us reputation | Exchange Online | 2024
7.65x | ! us rate | Outlook.com | 2024
7.70x | ! us reputation | Exchange Online | 2024
7.71x | ! us reputation | Exchange Online | 2024
7.72x | ! us reputation | Exchange Online | 2024
"""

# Providers' own codes: a pattern for one word of the refusal, which begins with the letters before the space; "at
# DOMAIN" holds at that host only.
OWN = r"""
ofr OFR\d*_10[12] | us reputation | Orange | 2026
ofr OFR\d*_10[3-9] | us connections | Orange | 2026
ofr OFR\d*_41[56] | address gone | Orange | 2026
ofr OFR\d*_417 | address full | Orange | 2026
ofr OFR\d*_426 | address closed | Orange | 2026
ofr OFR\d*_506 | us content | Orange | 2026
ofr OFR\d*_[0-9]+ | us policy | Orange | 2026
lpn LPN\d*_10[12] | us reputation | La Poste | 2024
lpn LPN\d*_10[3-9] | us connections | La Poste | 2024
lpn LPN\d*_41[56] | address gone | La Poste | 2024
lpn LPN\d*_417 | address full | La Poste | 2024
lpn LPN\d*_426 | address closed | La Poste | 2024
lpn LPN\d*_506 | us content | La Poste | 2024
lpn LPN\d*_[0-9]+ | us policy | La Poste | 2024
tss TSS\d\d | us rate | Yahoo | 2026
ts0 TS0\d | us rate | Yahoo | 2024
bl2 BL2\d | us reputation | Yahoo | 2024
ph0 PH01 | us content | Yahoo | 2024
gl0 GL01 | theirs greylisting | Yahoo | 2024
ipt IPTS\d\d | us rate | Yahoo | 2026
4.1 4\.16\.5\d(?:\.\d)? | us rate | Yahoo | 2026
554 554\.30 | address closed | Yahoo | 2024
554 554\.\d\d | us policy | Yahoo | 2024
sc- SC-00\d | us reputation | Outlook.com | 2026
dy- DY-00\d | us reputation | Outlook.com | 2024
ou- OU-00\d | us reputation | Outlook.com | 2024
rp- RP-00\d | us rate | Outlook.com | 2024
s31 S31\d\d | us reputation | Outlook.com | 2024
s77 S77\d{1,3} | us rate | Outlook.com | 2024
201 201806281 | address gone | Exchange Online | 2024
hcm HCM\d | us rate | web.de | 2026
bl0 BL0000\d\d | us reputation | Comcast | 2024
rl0 RL0000\d\d | us rate | Comcast | 2024
dm0 DM0000\d\d | us authentication | Comcast | 2024
pt0 PT0000\d\d | us ptr | Comcast | 2024
ru0 RU0000\d\d | address gone | Comcast | 2024
sp0 SP0000\d\d | us content | Comcast | 2024
aup AUP#CXDNS | us ptr | Cox | 2024
aup AUP#\S+ | us policy | Cox, Spectrum | 2025
cxb CXBL | us reputation | Cox | 2024
cxt CXTHRT | us rate | Cox | 2024
cxd CXDNS | us ptr | Cox | 2024
cxc CXCNCT | us connections | Cox | 2024
dns DNS:[A-Z]{1,2}\d? | us ptr | AOL | 2018
hvu HVU:[A-Z]{1,2}\d? | us content | AOL | 2018
rly RLY:[A-Z]{1,2}\d? | us reputation | AOL | 2018
con CON:[A-Z]{1,2}\d? | us reputation | AOL | 2018
dyn DYN:[A-Z]{1,2}\d? | us rate | AOL | 2018
rtr RTR:[A-Z]{1,2}\d? | us reputation | AOL | 2018
rcp RCP-P1 | address gone | Facebook | 2025
rcp RCP-P[2-9] | address other | Facebook | 2025
pol POL-[PT]\d | us policy | Facebook | 2025
con CON-[PT]\d | us connections | Facebook | 2025
msg MSG-P\d | us content | Facebook | 2025
ib1 IB1\d\d | us connections | GoDaddy | 2025
ib2 IB21\d | us reputation | GoDaddy | 2025
ib4 IB40\d | us authentication | GoDaddy | 2025
ib5 IB50[678] | us authentication | GoDaddy | 2025
ib5 IB5\d\d | us content | GoDaddy | 2025
ib6 IB60[57] | us rate | GoDaddy | 2025
ib7 IB70\d | us policy | GoDaddy | 2025
ib9 IB90\d | us reputation | GoDaddy | 2025
mxi MXIN\d\d\d | us policy | KPN, Ziggo | 2025
dt: DT:[A-Z]{3} | us content | NetEase | 2024
hl: HL:ITC | us connections | NetEase | 2024
hl: HL:IFC | us rate | NetEase | 2024
hl: HL:[A-Z]{3} | us reputation | NetEase | 2024
mi: MI:DMC | us authentication | NetEase | 2024
mi: MI:[A-Z]{3} | us policy | NetEase | 2024
rp: RP:(?:QRC|TRC|CEL) | us rate | NetEase | 2024
bl BL at t-online.de | us reputation | T-Online | 2026
now NOWL at t-online.de | us reputation | T-Online | 2026
dia DIAL at t-online.de | us reputation | T-Online | 2026
"""
