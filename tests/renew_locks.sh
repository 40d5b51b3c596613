#!/bin/sh
# Writes tests/locked/ anew: the newest release of each package that the suite and the
# tools need, for each supported Python, with its hashes. Run by `make locks`, after
# which the whole suite has to pass; what changed is a commit of its own.
#
# tools is what builds and installs the rest; oldest is what the oldest Python tests
# with besides, the oldest drivers; each other file is an extra of setup.cfg with all that it needs.
# No file says where a package comes from: pip asks the index that it is set up for.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
EXTRAS="cli test test-mysql test-web test-browser fuzz nox docs dev"
OLDEST=3.9
# The last uWSGI that runs threads only if asked to.
UWSGI_WITHOUT_THREADS=2.0.26

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$PYTHON" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check uv

# lock NAME SOURCE...: the file for these requirements.
lock() {
    name=$1
    shift
    UV_CUSTOM_COMPILE_COMMAND="make locks" "$scratch/venv/bin/uv" pip compile -q \
        --no-config --no-python-downloads --universal --python-version "$OLDEST" \
        --generate-hashes --no-annotate --upgrade \
        --output-file "$scratch/$name.txt" "$@" >/dev/null
}

extras=
for extra in $EXTRAS; do
    extras="$extras --extra $extra"
done
# All at once first: a package has one version in all of them.
# shellcheck disable=SC2086 # several words
lock all setup.cfg $extras
for extra in $EXTRAS; do
    lock "$extra" setup.cfg --extra "$extra" --constraint "$scratch/all.txt"
done
lock test-web-oldest setup.cfg --extra test-web-oldest
printf '%s\n' 'pip>=21.3' setuptools wheel >"$scratch/tools.in"
lock tools "$scratch/tools.in" --constraint "$scratch/all.txt"
{
    # Not mysql-connector-python: the C extension of 9.0 holds the interpreter while it
    # waits for a server, and tests have servers' answers delayed by a thread beside it.
    sed -n -E 's/^ *(pymysql|pymemcache|mysqlclient|msgspec|zstandard)>=([0-9.]+).*/\1==\2/p' setup.cfg
    echo "uwsgi==$UWSGI_WITHOUT_THREADS"
} >"$scratch/oldest.in"
lock oldest "$scratch/oldest.in"

mkdir -p tests/locked
rm -f tests/locked/*.txt
for name in $EXTRAS test-web-oldest tools oldest; do
    mv "$scratch/$name.txt" tests/locked/
done
