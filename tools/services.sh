#!/usr/bin/env bash
# Real services for the tests and benches, on loopback: tools/services.sh start|stop|status [NAME ...] (default: all).
#
# Each tools/services/NAME.sh takes one verb: `start` installs what the service needs, starts it, waits until it answers
# and writes its address to .services/NAME.url (so a service that answers is left as it is); `stop` ends it;
# `status` succeeds if it answers. Data and programs lie below .services, which may be deleted when all are stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
verb=${1:?usage: tools/services.sh start|stop|status [NAME ...]}
shift
mkdir -p .services
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for script in tools/services/*.sh; do
        names+=("$(basename "$script" .sh)")
    done
fi
failed=0
for name in "${names[@]}"; do
    script=tools/services/$name.sh
    if [ ! -x "$script" ]; then
        echo "services: there is no service \"$name\"" >&2
        failed=1
    elif "$script" "$verb" >".services/$name.out" 2>&1; then
        [ "$verb" = stop ] && rm -f ".services/$name.url" && echo "services: $name stopped" && continue
        echo "services: $name at $(cat ".services/$name.url")"
    else
        echo "services: $name: $verb failed; the end of .services/$name.out:" >&2
        tail -5 ".services/$name.out" >&2
        failed=1
    fi
done
exit "$failed"
