#!/usr/bin/env bash
# Runs every test, in three parts at once, which wait more than they compute: those that use this
# machine's engine and well-known ports, whose output is shown as it comes, those on networks in
# namespaces and of the experiment lab, and those on ports of their own, whose output follows.
#
#   tools/test.sh [PYTEST FLAG…]
set -uo pipefail
cd "$(dirname "$0")/.."

# Daemons are started some hundred times; without bytecode each start would compile them anew.
unset PYTHONDONTWRITEBYTECODE

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
.venv/bin/python -m pytest --part=labs "$@" >"$logs/labs" 2>&1 &
labs=$!
.venv/bin/python -m pytest --part=ports "$@" >"$logs/ports" 2>&1 &
ports=$!
# An interrupt reaches all three; each ends what it has started.
trap 'wait "$labs" "$ports"; cat "$logs/labs" "$logs/ports"; exit 130' INT

status=0
.venv/bin/python -m pytest --part=machine "$@" || status=$?
wait "$labs" || status=$?
cat "$logs/labs"
wait "$ports" || status=$?
cat "$logs/ports"
exit $status
