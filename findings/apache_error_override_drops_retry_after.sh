#!/bin/bash
# One expects: ProxyErrorOverride puts one's own page in place of the backend's; status and headers stay, Retry-After of a 503 above all.
# Happens: all headers of the backend's answer go with its page, Retry-After, Set-Cookie and Cache-Control too; of a 401 WWW-Authenticate is
# spared. With ErrorDocument as a text it is the same. `Header always set` with a condition on the status brings one back.
# Seen: Apache 2.4.71 (Debian 12).
# Why it matters: the front door shows a page of its own while the CRM behind it is down for maintenance and says for how long. Callbacks
# of payment providers and search engines see a 503 without a time and wait by their own rule, and no-store for the page is lost as well.
# Source: Apache's manual, ProxyErrorOverride under mod_proxy, speaks of the page only.

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

debs apache2-bin=2.4.71-1~deb12u1 libapr1=1.7.2-3+deb12u1 libaprutil1=1.6.3-1+deb12u1
libraries=$(echo "$T"/x/usr/lib/*-linux-gnu)
modules=$T/x/usr/lib/apache2/modules
chmod 755 "$T"; mkdir htdocs; echo sorry >htdocs/sorry.html
cat >backend.py <<'P'
import http.server


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with the status in the path, and with headers that belong to an error."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.send_response(int(self.path.rsplit('/')[-1]))
        for name, value in (('Retry-After', '120'), ('Cache-Control', 'no-store'), ('Set-Cookie', 'seen=1'),
                            ('WWW-Authenticate', 'Basic realm="crm"'), ('Content-Length', '2')):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b'no')

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Backend)
with open('port', 'w') as file:
    file.write(str(server.server_address[1]))
server.serve_forever()
P
cat >ask.py <<'P'
import sys
import time
import urllib.error
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(100):
    try:
        opener.open(sys.argv[1], timeout=10)
    except urllib.error.HTTPError as error:
        names = ('Retry-After', 'Cache-Control', 'Set-Cookie', 'WWW-Authenticate')
        print(error.code, ' '.join(name for name in names if name in error.headers) or 'none')
        break
    except OSError:
        time.sleep(0.1)
P
timeout 60 python3 backend.py & pids=$!
for _ in $(seq 50); do [ -s port ] && break; sleep 0.1; done
backend=$(cat port)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
{
    printf '%s\n' "ServerRoot $T" 'ServerName crm.example.org' "Listen 127.0.0.1:$port" "PidFile $T/pid" "ErrorLog $T/log" "DefaultRuntimeDir $T" \
        "Mutex file:$T" 'User nobody' 'Group nogroup' "DocumentRoot $T/htdocs"
    for name in mpm_event authz_core headers proxy proxy_http; do echo "LoadModule ${name}_module $modules/mod_$name.so"; done
    cat <<P
<Location /page/>
    ProxyErrorOverride On
    ErrorDocument 503 /sorry.html
    ErrorDocument 401 /sorry.html
</Location>
<Location /text/>
    ProxyErrorOverride On
    ErrorDocument 503 sorry
</Location>
<Location /always/>
    ProxyErrorOverride On
    ErrorDocument 503 sorry
    Header always set Retry-After 120 "expr=%{REQUEST_STATUS} == 503"
</Location>
P
    for path in plain page text always; do echo "ProxyPass /$path/ http://127.0.0.1:$backend/"; done
} >conf
apache=$T/x/usr/sbin/apache2
LD_LIBRARY_PATH=$libraries timeout 60 "$apache" -f "$T/conf" -DFOREGROUND >out 2>&1 & pids="$pids $!"
results=
try() {   # title, path -> status and the backend's headers that are left
    said=$(timeout 30 python3 ask.py "http://127.0.0.1:$port/$2")
    printf '  %-46s %s\n' "$1" "$said"
    results="$results/$said"
}
echo "version:  $(LD_LIBRARY_PATH=$libraries timeout 10 "$apache" -v | sed -n 's/^Server version: //p')"
echo "expected: Retry-After in each answer of 503"
echo "seen:"
try 'without ProxyErrorOverride:' plain/503
try 'with it, ErrorDocument a page:' page/503
try 'with it, ErrorDocument a text:' text/503
try 'with it, and Header always set Retry-After:' always/503
try 'with it, 401:' page/401
all='Retry-After Cache-Control Set-Cookie WWW-Authenticate'
verdict "$results" "/503 $all/503 none/503 none/503 Retry-After/401 WWW-Authenticate"
