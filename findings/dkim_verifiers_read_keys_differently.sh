#!/bin/bash
# One expects: a DKIM key record that is right by RFC 6376 is right for every verifier; the lists in it, of services (s=) and hashes
# (h=), may have several entries and blanks around their colons.
# Happens: dkimpy knows one service per key: s=tlsrpt:email, which a domain needs that limits its keys and also sends TLS reports (RFC
# 8460), fails all its mail. Mail::DKIM does not skip the blanks: `h=sha1 : sha256` has no sha256 for it, `s=tlsrpt : email` no email.
# OpenDKIM takes all. In dkimpy the reason is lost on the way, the verdict is a plain "fail" like that of a changed body.
# Seen: dkimpy 1.1.8 (PyPI), Mail::DKIM 1.20230212 and OpenDKIM 2.11.0-beta2 (Debian 12).
# Why it matters: one's own check of the record, by OpenDKIM's tools, is green, and so are most receivers; those behind SpamAssassin,
# amavis (Mail::DKIM), Mailman or a milter in Python (dkimpy) see a newsletter that fails DKIM. Leave s= and h= out of key records.
# Source: RFC 6376, 3.6.1 (key-s-tag, key-h-tag); none on the limits of either library.

set -eu
T=$(mktemp -d)
pids=
clean_up() { for p in $pids; do kill "$p" 2>/dev/null || :; done; wait; rm -rf "$T"; }
trap clean_up EXIT
trap 'exit 3' INT TERM
unset LD_LIBRARY_PATH

apt() { timeout 60 apt-get -qq -o APT::Sandbox::User=root -o Dir::Cache="$T/cache" "$@"; }
debs() {   # NAME=VERSION ...: unpacked into $T/x; if the machine's package lists do not help, with fresh ones of our own
    mkdir -p "$T/debs" "$T/cache/archives/partial" "$T/lists/partial"
    cd "$T/debs"
    if ! apt download "$@" >../apt.log 2>&1 &&
        ! { apt -o Dir::State::Lists="$T/lists" update && apt -o Dir::State::Lists="$T/lists" download "$@"; } >../apt.log 2>&1
    then cat ../apt.log; echo "a pinned version is not served any more: $*"; exit 1; fi
    for f in *.deb; do dpkg-deb -x "$f" "$T/x"; done
    cd "$T"
}
verdict() { if [ "$1" = "$2" ]; then echo "as described"; else echo "CHANGED: expected [$2], got [$1]"; exit 2; fi; }

debs opendkim=2.11.0~beta2-8+deb12u1 libopendkim11=2.11.0~beta2-8+deb12u1 libvbr2=2.11.0~beta2-8+deb12u1 \
    librbl1=2.11.0~beta2-8+deb12u1 libmilter1.0.1=8.17.1.9-2+deb12u2 libopendbx1=1.4.6-16+b1 libmemcached11=1.1.4-1 \
    libhashkit2=1.1.4-1 liblua5.3-0=5.3.6-2 libbsd0=0.11.7-2 libevent-2.1-7=2.1.12-stable-8 libunbound8=1.17.1-2+deb12u4 \
    libldap-2.5-0=2.5.13+dfsg-5 libsasl2-2=2.1.28+dfsg-10 \
    libmail-dkim-perl=1.20230212-2~deb12u1 libcrypt-openssl-rsa-perl=0.33-3+b1 libcrypt-openssl-random-perl=0.15-3+b1 \
    libcrypt-openssl-bignum-perl=0.09-2+b1 libcryptx-perl=0.077-1+b1 libnet-dns-perl=1.36-1+deb12u1 libmailtools-perl=2.21-2 \
    libmail-authenticationresults-perl=2.20230112-1
perl -e 'exit $^V !~ /^v5\.36\./' 2>/dev/null || { echo "needs Debian 12's perl"; exit 1; }
timeout 120 python3 -m pip install -q --no-cache-dir --no-deps --target "$T/py" dkimpy==1.1.8 dnspython==2.9.2 >pip.log 2>&1 ||
    { cat pip.log; echo "a pinned version is not served any more: dkimpy==1.1.8"; exit 1; }
libraries="$(echo "$T"/x/usr/lib/*-linux-gnu):$T/x/usr/lib"
PERL5LIB="$T/x/usr/share/perl5:$(echo "$T"/x/usr/lib/*-linux-gnu/perl5/5.36)"
export PERL5LIB PYTHONPATH=$T/py

openssl genrsa -out key.pem 2048 2>/dev/null
public=$(openssl rsa -in key.pem -pubout -outform DER 2>/dev/null | base64 -w0)
cat >sign.py <<'P'
import dkim

mail = b'From: news@example.org\r\nTo: anna@example.com\r\nSubject: News\r\n\r\nhi\r\n'
mark = dkim.sign(mail, b's', b'example.org', open('key.pem', 'rb').read(), include_headers=[b'from', b'to', b'subject'])
open('mail', 'wb').write(mark + mail)
P
cat >verify.py <<'P'
import sys

import dkim

print('pass' if dkim.verify(open('mail', 'rb').read(), dnsfunc=lambda *_, **__: sys.argv[1].encode()) else 'fail')
P
cat >verify.pl <<'P'
use strict;
use warnings;
use Mail::DKIM::Verifier;

package Answer;    # what the library needs of a DNS record
sub new  { return bless { text => $_[1] }, $_[0] }
sub type { return 'TXT' }
sub txtdata { return $_[0]{text} }
sub char_str_list { return $_[0]{text} }

package main;
{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query_async = sub {
        my ($name, $type, %more) = @_;
        my $result = $more{Callbacks}{Success}->(Answer->new($ENV{RECORD}));
        return sub { return $result };
    };
}
my $verifier = Mail::DKIM::Verifier->new();
open my $file, '<:raw', 'mail' or die;
local $/ = undef;
$verifier->PRINT(<$file>);
$verifier->CLOSE;
my $result = $verifier->result_detail;
$result =~ s/\s+/ /g;
print "$result\n";
P
timeout 30 python3 sign.py

results=
try() {   # what a key record holds besides the key -> the three verdicts
    record="v=DKIM1; k=rsa; ${1}p=$public"
    a=$(timeout 20 python3 verify.py "$record")
    b=$(RECORD=$record timeout 20 perl verify.pl)
    echo "s._domainkey.example.org $record" >record
    printf '%s\n' 'Mode v' "TestDNSData file:$T/record" 'Syslog no' >conf
    LD_LIBRARY_PATH=$libraries timeout 20 "$T/x/usr/sbin/opendkim" -x conf -t mail -vv >out 2>&1 || :
    c=fail; ! grep -q 'verification (s=s, d=example.org, 2048-bit key) succeeded' out || c=pass
    printf '  %-18s dkimpy: %-5s OpenDKIM: %-5s Mail::DKIM: %s\n' "${1:-(no limits)}" "$a" "$c" "$b"
    results="$results $a/${b%% *}/$c"
}
echo "version:  dkimpy $(python3 -c 'from importlib.metadata import version; print(version("dkimpy"))')," \
    "Mail::DKIM $(perl -MMail::DKIM -e 'print Mail::DKIM->VERSION')," \
    "$(LD_LIBRARY_PATH=$libraries timeout 10 "$T/x/usr/sbin/opendkim" -V | sed -n '1s/^opendkim: //p')"
echo "expected: pass everywhere; it is the same signature and key"
echo "seen:"
try ''
try 's=email; '
try 's=tlsrpt:email; '
try 's=tlsrpt : email; '
try 'h=sha1:sha256; '
try 'h=sha1 : sha256; '
verdict "$results" ' pass/pass/pass pass/pass/pass fail/pass/pass fail/invalid/pass pass/pass/pass pass/invalid/pass'
