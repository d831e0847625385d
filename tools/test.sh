#!/usr/bin/env bash
# Runs every test, in three parts at once, which wait more than they compute: those that use this
# machine's engine and well-known ports, whose output is shown as it comes, those on networks in
# namespaces, and those within one process, whose output follows.
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
.venv/bin/python -m pytest --part=process "$@" >"$logs/process" 2>&1 &
process=$!
# An interrupt reaches all three; each ends what it has started.
trap 'wait "$labs" "$process"; cat "$logs/labs" "$logs/process"; exit 130' INT

status=0
.venv/bin/python -m pytest --part=machine "$@" || status=$?
wait "$labs" || status=$?
cat "$logs/labs"
wait "$process" || status=$?
cat "$logs/process"
exit $status
