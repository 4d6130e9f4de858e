#!/bin/bash
# One expects: a dump by mariadb-dump, restored on the same version, gives the same table; a number that the column holds exactly,
# such as 1234567, above all.
# Happens: a FLOAT is dumped as SELECT shows it, with six digits: 1234567 comes back as 1234570. No option changes that, neither the dump
# nor the restore says a word. DOUBLE and DECIMAL come back whole.
# Seen: MariaDB 10.11.19 (Debian 12).
# Why it matters: a CMS and its extensions beside the CRM use FLOAT for prices, weights, positions and counters (a plain "float" in Drupal's
# schema is one). The rebuilt host has other numbers than the lost one, and whoever proves a backup by CHECKSUM TABLE
# finds a table broken that no second dump mends. Look in information_schema.columns for data_type 'float' before the day.
# Source: none of MariaDB's pages on mariadb-dump; the reason is in those on FLOAT, which is shown with FLT_DIG digits.

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

debs mariadb-server-core=1:10.11.19-0+deb12u1 mariadb-client-core=1:10.11.19-0+deb12u1 mariadb-client=1:10.11.19-0+deb12u1 \
    liburing2=2.3-3 libaio1=0.3.113-4 libnuma1=2.0.16-1 libsnappy1v5=1.1.9-3 libncurses6=6.4-4 libedit2=3.1-20221030-2 \
    libbsd0=0.11.7-2
LD_LIBRARY_PATH=$(echo "$T"/x/usr/lib/*-linux-gnu):$(echo "$T"/x/lib/*-linux-gnu)
export LD_LIBRARY_PATH
as=()
chmod 755 "$T"; mkdir -m 777 data
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)   # mariadbd does not run as root
printf '[mysqld]\n%s\n' "datadir = $T/data" "socket = $T/data/s" "pid-file = $T/data/pid" "log-error = $T/data/log" \
    "lc-messages-dir = $T/x/usr/share/mysql" "plugin-dir = $T/x/usr/lib/mysql/plugin" >conf
printf '%s\n' skip-networking skip-grant-tables 'innodb-buffer-pool-size = 16M' 'innodb-log-file-size = 4M' >>conf
timeout 60 "${as[@]}" "$T/x/usr/sbin/mariadbd" --defaults-file="$T/conf" >/dev/null 2>&1 & pids=$!
for _ in $(seq 100); do [ -S data/s ] && break; sleep 0.2; done
client() { timeout 20 "$T/x/usr/bin/$1" --no-defaults --socket="$T/data/s" "${@:2}"; }

client mariadb -e 'create database lost; create database rebuilt'
client mariadb lost -e "create table t (id int primary key, f float, d double, n decimal(12, 3)) engine = innodb;
    insert into t values (1, 1234567, 1234567, 1234567), (2, 16777216, 16777216, 16777216), (3, 98765.432, 98765.432, 98765.432)"
rc=0
client mariadb-dump --single-transaction lost >dump.sql 2>out || rc=$?
client mariadb rebuilt <dump.sql >>out 2>&1 || rc=$?
echo "version:  MariaDB $(client mariadb -Ne 'select version()')"
echo "expected: each row twice the same"
echo "seen:     dump and restore end with $rc, and say $(wc -c <out) bytes"
client mariadb -Ne "select '  FLOAT  ', lost.t.f + 0e0, rebuilt.t.f + 0e0 from lost.t join rebuilt.t using (id) union all
    select '  DOUBLE ', lost.t.d, rebuilt.t.d from lost.t join rebuilt.t using (id) union all
    select '  DECIMAL', lost.t.n, rebuilt.t.n from lost.t join rebuilt.t using (id)" | expand -t 10,28
same=$(client mariadb -Ne "select concat(sum(a.f = b.f), sum(a.d = b.d), sum(a.n = b.n)) from lost.t a join rebuilt.t b using (id)")
exact=$(client mariadb -Ne "select concat(a.f + 0e0, '/', b.f + 0e0) from lost.t a join rebuilt.t b using (id) where id = 1")
client mariadb -Ne 'checksum table lost.t, rebuilt.t' | sed 's/^/  CHECKSUM TABLE /'
verdict "$rc $(wc -c <out) $same $exact" '0 0 033 1234567/1234570'
