#!/usr/bin/env bash
# Runs every test, in two halves at once: those that use this machine's engine and well-known ports,
# whose output is shown as it comes, and those on networks of their own, whose output follows.
#
#   tools/test.sh [PYTEST FLAG…]
set -uo pipefail
cd "$(dirname "$0")/.."

# Daemons are started some hundred times; without bytecode each start would compile them anew.
unset PYTHONDONTWRITEBYTECODE

log=$(mktemp)
.venv/bin/python -m pytest --half=apart "$@" >"$log" 2>&1 &
other=$!
# An interrupt reaches both; each ends what it has started.
trap 'wait "$other"; cat "$log"; rm -f "$log"; exit 130' INT

status=0
.venv/bin/python -m pytest --half=machine "$@" || status=$?
wait "$other" || status=$?
cat "$log"
rm -f "$log"
exit $status
