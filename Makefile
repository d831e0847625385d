# Each recipe sets up what it needs on a Debian or Ubuntu machine; see CONTRIBUTING.md.
.PHONY: demo test test-fast lint bench setup lock clean
.NOTPARALLEL:

PYTEST = .venv/bin/python -m pytest

demo:  ## a service that runs nowhere answers a curl
	@tools/setup.sh demo
	@.venv/bin/python demos/helloworld/demo.py

test: setup  ## everything, on a real Docker engine and a real etcd
	@tools/with-engine.sh tools/test.sh

test-fast: setup  ## what takes seconds
	@$(PYTEST) -m "not docker and not etcd and not netns and not slow"

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/mypy tests demos
	.venv/bin/lint-imports

bench:
	@tools/setup.sh bench
	@tools/with-engine.sh .venv/bin/python -m bench

setup:
	@tools/setup.sh test

lock:  ## after a change of the dependencies in pyproject.toml
	@tools/lock.sh

clean:
	rm -rf .venv .venv-lock build dist wheels .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
