#!/bin/sh
# Makes .venv in this checkout and installs the package with its dev extra into it.
# Returns at once when that was done before and nothing it depends on has changed.
# PYTHON=/path/to/python chooses the interpreter. Exit status 2: something is missing on
# this machine, and the last line says what; 1: a download or an install failed.
set -eu
export PIP_DISABLE_PIP_VERSION_CHECK=1        # its upgrade notice is noise here
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" # the default 30 s is short for GB-sized wheels

say() { printf 'setup: %s\n' "$*" >&2; }
die() { status=$1; shift; say "$*"; exit "$status"; }

CDPATH='' cd -- "$(dirname -- "$0")/.."

# 1. A Python. Asked for its base interpreter, because in an activated .venv `python3` is the
#    very one that is about to be removed.
probe='import sys
if sys.version_info < (3, 11): sys.exit(1)
print("%d.%d" % sys.version_info[:2], sys.base_prefix, sys._base_executable, sep="\n")'
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"
else set -- python3 python3.14 python3.13 python3.12 python3.11; fi
found=
for candidate do
    if found=$("$candidate" -c "$probe" 2>/dev/null); then break; fi
done
[ -n "$found" ] || die 2 "needs Python 3.11 or newer and found none (tried: $*); apt-get install python3," \
    "or python3.11 where python3 is older; one kept elsewhere: PYTHON=/path/to/python make ..."
version=$(printf '%s\n' "$found" | sed -n 1p)
prefix=$(printf '%s\n' "$found" | sed -n 2p)
python=$(printf '%s\n' "$found" | sed -n 3p)

# 2. Done already? The checkout's path counts: a venv's scripts hold absolute paths, so one that
#    was moved or copied along with its checkout no longer works.
key=$({ pwd -P; echo "$version $prefix"; cat pyproject.toml tools/setup.sh; } | sha256sum | cut -c1-16)
stamp=.venv/.setup-$key
if [ -e "$stamp" ]; then exit 0; fi

say "setting up .venv with Python $version: about a minute and 6 GB of disk, once"
free_kb=$(df -Pk . | awk 'END { print $4 }')
if [ "$free_kb" -lt 8000000 ]; then say "only $((free_kb / 1000000)) GB of disk are free here, it may not fit"; fi

# 3. The venv, always a new one: what an interrupted set-up or an older pyproject.toml left
#    behind is gone. Debian and Ubuntu keep ensurepip in a package of its own (pythonX.Y-venv);
#    without it, any pip outside the venv can put one inside, and failing that apt can help.
venv_pkg=python$version-venv

has_ensurepip() { "$python" -c 'import venv, ensurepip' 2>/dev/null; }

quietly() { # shows the command's output only when it fails
    output=$("$@" 2>&1 </dev/null) || { printf '%s\n' "$output" >&2; return 1; }
}

venv_with_outside_pip() {
    "$python" -m pip --version >/dev/null 2>&1 || return 1
    "$python" -m venv --without-pip .venv >/dev/null 2>&1 || return 1
    quietly "$python" -m pip --python .venv/bin/python install -q pip
}

apt_venv_pkg() { # as root, or with a sudo that asks nothing
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo='sudo -n'; else return 1; fi
    say "installing $venv_pkg with apt-get"
    # shellcheck disable=SC2086  # $sudo is empty or two words
    quietly $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
        quietly $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$venv_pkg" && has_ensurepip
}

rm -rf .venv
if ! has_ensurepip && ! venv_with_outside_pip && ! apt_venv_pkg; then
    die 2 "$python cannot make a virtual environment with pip in it: run 'apt-get install $venv_pkg' as root, then try again"
fi
[ -x .venv/bin/pip ] || "$python" -m venv --clear .venv >&2 || die 1 "could not make .venv (see above)"

# 4. The package, by uv because it is several times faster, else by pip. Python compiles modules when it first imports
#    them; where it may not, every command would compile torch anew, which takes three times as long as importing it.
compile=${PYTHONDONTWRITEBYTECODE:+--compile-bytecode}
# shellcheck disable=SC2086  # $compile is empty or one word
if ! { .venv/bin/python -m pip install -q uv && .venv/bin/uv pip install -q $compile --python .venv/bin/python -e '.[dev]'; }; then
    say "that did not work with uv, trying pip alone"
    .venv/bin/python -m pip install -q -e '.[dev]' ||
        die 1 "could not install the dependencies (see above): if it was the network, just run the same command again"
fi

touch "$stamp" # last: an interrupted set-up has no stamp
