#!/usr/bin/env bash
# Makes an environment for each peer named (all without a name) under bench/peers/.venvs, from its pinned requirements.
# Peers stay out of the project's own environment: they pin other versions of what both need.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
[ -x "$python" ] || python=python3
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for file in *.txt; do names+=("${file%.txt}"); done
fi
for name in "${names[@]}"; do
    if [ ! -f "$name.txt" ]; then
        echo "setup: there is no $PWD/$name.txt; peers are: $(basename -s .txt -- *.txt | tr '\n' ' ')" >&2
        exit 1
    fi
    "$python" -m venv --clear ".venvs/$name"
    ".venvs/$name/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$name.txt"
    echo "$name: $PWD/.venvs/$name"
done
