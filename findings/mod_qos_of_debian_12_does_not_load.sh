#!/bin/bash
# One expects: an Apache module of a Debian release loads into the Apache of the same release.
# Happens: mod_qos of Debian 12 does not: "undefined symbol: pcre_free". Its package depends on libpcre3, but the file does not name the library
# among those it needs; it came with Apache, which uses PCRE2 since 2.4.52. With `LoadFile .../libpcre.so.3` before it, it loads and works.
# Seen: libapache2-mod-qos 11.63-1+b2 with apache2 2.4.71-1~deb12u1 (Debian 12). Debian 13's loads.
# Why it matters: installing the package enables the module, and Apache does not come back from its next restart. A front door that counts
# requests with mod_qos needs Debian 13, or that line.
# Source: the same message for a newer Apache beside an older module, https://github.com/oerdnj/deb.sury.org/issues/1702 (2022).

set -eu
T=$(mktemp -d)
clean_up() { rm -rf "$T"; }
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

debs apache2-bin=2.4.71-1~deb12u1 libapache2-mod-qos=11.63-1+b2 libapr1=1.7.2-3+deb12u1 libaprutil1=1.6.3-1 libpcre3=2:8.39-15
library=$(echo "$T"/x/usr/lib/*-linux-gnu) pcre=$(echo "$T"/x/usr/lib/*-linux-gnu/libpcre.so.3)
[ -e "$pcre" ] || pcre=$(echo "$T"/x/lib/*-linux-gnu/libpcre.so.3)
modules=$T/x/usr/lib/apache2/modules
try() {   # what, line before the module -> whether Apache takes the configuration
    printf '%s\n' "ServerRoot $T" 'ServerName localhost' "PidFile $T/pid" "ErrorLog $T/log" "LoadModule mpm_event_module $modules/mod_mpm_event.so" \
        "$2" "LoadModule qos_module $modules/mod_qos.so" 'Listen 127.0.0.1:1' >conf
    if LD_LIBRARY_PATH=$library timeout 20 "$T/x/usr/sbin/apache2" -t -f "$T/conf" >said 2>&1; then took=yes; else took=no; fi
    printf '  %-26s Apache takes it: %s\n' "$1" "$took"
    sed -n 's/.*\(undefined symbol: .*\)/    \1/p' said
    results="$results $took"
}
results=
echo "version:  Apache 2.4.71-1~deb12u1, mod_qos 11.63-1+b2"
echo "expected: yes"
echo "seen:"
try 'the module:' ''
try 'libpcre.so.3 before it:' "LoadFile $pcre"
verdict "$results" ' no yes'
