#!/usr/bin/env bash
# Writes the four lock files from pyproject.toml; they hold for every supported Python.
# No index is named in them: pip asks the one it is configured for, and checks the hashes.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv-lock/bin/uv ] || { python3 -m venv .venv-lock && .venv-lock/bin/pip install -q uv; }
compile() {
  .venv-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate --native-tls --quiet "$@"
}
compile --group build -o requirements.lock
compile --group build --group dev -c requirements.lock -o requirements-dev.lock
compile --group build --extra lab -c requirements-dev.lock -o requirements-lab.lock
compile --group build --group dev --group bench -c requirements-dev.lock -o requirements-bench.lock
