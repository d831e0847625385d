#!/usr/bin/env bash
# Runs a command with a Docker engine: the one that answers, or else, as root, a private one that
# lives as long as the command; its containers, images and bridge go with it. Of a command that fails
# the engine's log stays, with what the engine was at when it was asked to end. With neither, the
# command runs without.
#
#   tools/with-engine.sh make test
set -euo pipefail

export PATH="$PATH:/usr/sbin:/sbin"
# The builder that BuildKit replaces needs no plugin, which Debian's docker.io does not bring.
export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0

answers() {
  local socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
  case $socket in
    unix://*) curl -fsS --max-time 5 --unix-socket "${socket#unix://}" http://engine/_ping ;;
    *) docker version ;;
  esac >/dev/null 2>&1
}

if [ $# = 0 ]; then
  echo "usage: tools/with-engine.sh COMMAND [ARGUMENT…]" >&2
  exit 2
fi
if answers || [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
  exec "$@"
fi

had_bridge=$(ip link show docker0 2>/dev/null || true)
home=$(mktemp -d /tmp/myxo-engine.XXXXXX)
export DOCKER_HOST="unix://$home/docker.sock"
dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/docker.pid" \
  -H "$DOCKER_HOST" >"$home/log" 2>&1 </dev/null &
engine=$!

stop_engine() {
  local status=$? kept
  if [ "$status" != 0 ]; then
    kill -USR1 "$engine" 2>/dev/null && sleep 1
    kept=$(mktemp /tmp/myxo-engine-log.XXXXXX)
    cat "$home/log" "$home"/exec/goroutine-stacks-* >"$kept" 2>/dev/null || true
    echo "with-engine: the engine's log is in $kept" >&2
  fi
  kill "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  [ -n "$had_bridge" ] || ip link delete docker0 2>/dev/null || true
  # dockerd leaves its own network namespace mounted there, the deepest mounts go first.
  awk -v home="$home/" 'index($5, home) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
    while read -r mounted; do umount "$mounted" || umount --lazy "$mounted" || true; done
  # What is still busy must not turn a green run red.
  rm -rf "$home" 2>/dev/null || echo "with-engine: $home could not be removed entirely" >&2
}
trap stop_engine EXIT

for _ in $(seq 300); do
  answers && break
  if ! kill -0 "$engine" 2>/dev/null; then
    echo "with-engine: the private Docker engine did not start:" >&2
    tail -n 20 "$home/log" >&2
    exit 1
  fi
  sleep 0.1
done
answers || { echo "with-engine: the engine did not answer in 30 s" >&2; tail "$home/log" >&2; exit 1; }

"$@"
