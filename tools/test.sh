#!/usr/bin/env bash
# Runs every test, in three parts at once, which wait more than they compute: those that use this
# machine's engine and well-known ports, whose output is shown as it comes, those on networks in
# namespaces and of the experiment lab, and those on ports of their own, whose output follows.
#
#   tools/test.sh [PYTEST FLAG…]
set -euo pipefail
cd "$(dirname "$0")/.."

# Daemons are started some hundred times; without bytecode each start would compile them anew.
unset PYTHONDONTWRITEBYTECODE
# The threads of numpy's products would spin on the processors that the other parts need.
export OPENBLAS_NUM_THREADS=1

exec .venv/bin/python -m pytest --part=each "$@"
