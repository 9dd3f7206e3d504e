#!/usr/bin/env bash
# Makes .venv and installs exactly what uv.lock names. Needs Python 3.11 or newer, or uv; nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv

# Prints the path of a Python that is new enough. Asked from / so that no version manager reads this folder's settings.
find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3 /usr/bin/python3; do
        (cd / && "$name" -c 'import sys, ensurepip; assert sys.version_info >= (3, 11); print(sys.executable)') 2>/dev/null && return
    done
    return 1
}

find_uv() {
    local name
    for name in "$PWD/$venv/bin/uv" uv; do
        if "$name" --version >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    return 1
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    if python=$(find_python); then
        "$python" -m venv --clear "$venv"
    elif uv=$(find_uv); then
        "$uv" venv --clear --python 3.11 "$venv"
    else
        echo "setup: no Python 3.11 or newer with the venv module was found; install one, or name it: make setup PYTHON=/path/to/python3" >&2
        exit 1
    fi
fi
if ! uv=$(find_uv); then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    uv="$PWD/$venv/bin/uv"
fi
# --inexact leaves a uv in place that lives in the environment itself. Bytecode and kernels are compiled here: where
# PYTHONDONTWRITEBYTECODE is set every process would else compile LightGBM's imports anew (3 s each).
"$uv" sync --quiet --frozen --inexact --compile-bytecode --all-extras --all-groups --python "$venv/bin/python"
"$venv/bin/python" -m compileall -q src
echo "setup: compiling the kernels"
"$venv/bin/python" tools/compile_kernels.py ||
    echo "setup: the kernels were not compiled (see above); the first run of each will wait for the compiler" >&2
echo "setup: $("$venv/bin/python" --version) in $venv, $(grep -c '^name = ' uv.lock) packages locked"
