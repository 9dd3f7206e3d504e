#!/bin/sh
# Makes a variable of each secret file, named as the file, in capitals; addresses hold them as ${NAME}. Then runs "$@".
set -eu
for file in "${SECRETS_DIR:-/run/secrets}"/*; do
    [ -f "$file" ] || continue
    name=$(basename "$file" | tr 'a-z.-' 'A-Z__')
    value=$(cat "$file")
    export "$name=$value"
done
exec "$@"
