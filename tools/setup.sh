#!/usr/bin/env bash
# Makes .venv with Myxo and everything it needs; does nothing where that is done.
#
#   tools/setup.sh demo   what `make demo` needs
#   tools/setup.sh test   also the linters, Docker, etcd, Prometheus: what `make test` needs
#   tools/setup.sh bench  also what is compared with and what makes load: what `make bench` needs
#
# PYTHON names the interpreter (3.11 or later) where the first one found is not the one wanted.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-demo}
case $purpose in
  demo) lock=requirements.lock ;;
  test) lock=requirements-dev.lock ;;
  bench) lock=requirements-bench.lock ;;
  *) echo "usage: tools/setup.sh demo|test|bench" >&2; exit 2 ;;
esac

fail() { echo "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    # A version manager's shim exists for versions that it will not run, so each one is tried.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or later found: sudo apt-get install python3, or set PYTHON=/path/to/python"
}

compiles() {  # compiles HEADER [CC FLAGS]: one of libp2p's libraries has no wheel and needs these
  local header=$1
  shift
  have cc && echo "#include <$header>" | cc "$@" -E -x c - -o /dev/null 2>/dev/null
}

missing_packages() {
  local python=$1 include
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  have cc || echo gcc
  compiles stdlib.h || echo libc6-dev
  compiles gmp.h || echo libgmp-dev
  compiles Python.h "-I$include" || echo python3-dev
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  have curl || echo curl
  [ "$purpose" != bench ] || have wrk || echo wrk
  [ "$purpose" != bench ] || have serf || echo serf
  [ "$purpose" != bench ] || have nginx || echo nginx
  [ "$purpose" != bench ] || have haproxy || echo haproxy
  [ "$purpose" != demo ] || return 0
  have dockerd || echo docker.io
  have docker-compose || docker compose version >/dev/null 2>&1 || echo docker-compose
  have etcd || echo etcd-server
  have etcdctl || echo etcd-client
  have prometheus || echo prometheus
  # Ubuntu has browsers in snaps only; there the test of a page in one is skipped.
  have chromedriver || grep -qi '^ID=ubuntu' /etc/os-release || echo chromium chromium-driver
  have docker-registry || echo docker-registry
  # The lab's databases and the queue that its daemon can read; each test starts its own.
  have mariadbd || echo mariadb-server
  have redis-server || echo redis-server
  have pg_ctlcluster || echo postgresql
  [ -x /bin/busybox ] || echo busybox-static
  have ip || echo iproute2
  have iptables || echo iptables
  have ping || echo iputils-ping
  have ps || echo procps
  have openssl || echo openssl
}

install_packages() {
  local as_root=""
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "please install what is missing: sudo apt-get install $*"
    as_root="sudo -n"
  fi
  have apt-get || fail "please install what is missing (Debian's names): $*"
  echo "setup: installing $*"
  # No service is started by its package: the tests start their own, on ports of their own.
  local policy=/usr/sbin/policy-rc.d made_policy=""
  if [ ! -e $policy ]; then
    made_policy=yes
    trap "$as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
  fi
  local status=0 log
  log=$(mktemp)
  { $as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null || status=$?
  if [ -n "$made_policy" ]; then
    trap - EXIT
    $as_root rm -f $policy
  fi
  [ $status = 0 ] || { cat "$log" >&2; fail "apt-get could not install: $*"; }
  rm -f "$log"
  if [ -d /run/systemd/system ]; then
    for unit in etcd prometheus docker-registry serf nginx haproxy mariadb redis postgresql; do
      case " $* " in *" $unit"*) $as_root systemctl disable -q "$unit" || true ;; esac
    done
    case " $* " in *" docker.io "*) $as_root systemctl start docker || true ;; esac
  fi
}

fingerprint() { cat "$1" pyproject.toml hatch_build.py allocator/sandbox.c tools/setup.sh | sha256sum; }
is_done() { [ "$(cat ".venv/$1.stamp" 2>/dev/null)" = "$(fingerprint "$2")" ]; }

python=$(find_python)
missing=$(missing_packages "$python" | tr '\n' ' ')
# shellcheck disable=SC2086  # the names are meant to be split
[ -z "${missing% }" ] || install_packages $missing
# Debian 13 has the engine without its command, which before came with it.
[ "$purpose" = demo ] || have docker || install_packages docker-cli

# What is set up for tests has all that a demo needs, in the same versions.
if { is_done "$purpose" "$lock" || { [ "$purpose" = demo ] && is_done test requirements-dev.lock; }; } &&
  [ -x "allocator/sandbox-$(uname -m)" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  "$python" -m venv --clear .venv
echo "setup: $(.venv/bin/python --version), the libraries of $lock into .venv; some minutes, most of them downloads"
pip=".venv/bin/python -m pip --disable-pip-version-check --no-input -qq"
$pip install --no-compile --require-hashes --use-pep517 -r "$lock"
$pip install --no-deps --no-build-isolation -e .  # compiles allocator/sandbox.c, too
# pip compiles on one processor; this, too, passes over what is for another Python.
.venv/bin/python -W ignore -m compileall -qq -j 0 .venv/lib/python3*/site-packages || true
# trio-typing, which libp2p requires, brings stubs of trio 0.20 that shadow trio's own types.
rm -rf .venv/lib/python3*/site-packages/trio-stubs
fingerprint "$lock" > ".venv/$purpose.stamp"
echo "setup: done"
