"""Other proxies as the same hop: one worker, one route, connections kept on both sides, no log.

Each is a context manager that takes where the server is and yields `(url, pid)`: where the hop
answers, and the process that does its work.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.envoy import envoy
from bench.hop import await_answer, program, running
from overlay.testing_ports import free_port

CONFIG = "config.toml"
"""The ending is Traefik's wish."""

POOL = 64
"""Idle connections to the server that a hop keeps, as Myxo's proxy does."""

Hop = Callable[[str, int], AbstractContextManager[tuple[str, int]]]


@contextmanager
def nginx(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Run nginx before the server at `host:port`, without a master process."""
    config = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream server {{ server {host}:{port}; keepalive {pool}; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096;
    location / {{
      proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""
    with _hop("nginx", ["-c", "{folder}/config.toml"], config, host, port) as found:
        yield found


@contextmanager
def haproxy(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Run HAProxy before the server at `host:port`, with one thread."""
    config = """
global
  nbthread 1
  maxconn 9500
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen hop
  bind 127.0.0.1:{listen} backlog 4096
  server server {host}:{port} pool-max-conn {pool}
"""
    with _hop("haproxy", ["-db", "-f", "{folder}/config.toml"], config, host, port) as found:
        yield found


@contextmanager
def traefik(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Run Traefik before the server at `host:port`, on one processor."""
    config = """
[http.routers.all]
rule = "PathPrefix(`/`)"
service = "server"
[http.services.server.loadBalancer]
serversTransport = "pool"
[[http.services.server.loadBalancer.servers]]
url = "http://{host}:{port}"
[http.serversTransports.pool]
maxIdleConnsPerHost = {pool}
"""
    flags = ["--entrypoints.hop.address=127.0.0.1:{listen}"]
    flags += ["--providers.file.filename={folder}/config.toml", "--log.level=ERROR"]
    flags += ["--global.checknewversion=false", "--global.sendanonymoususage=false"]
    one = {"GOMAXPROCS": "1"}
    with _hop("traefik", flags, config, host, port, environment=one) as found:
        yield found


QUICK_HOPS: Mapping[str, Hop] = {"envoy": envoy, "nginx": nginx}
ALL_HOPS: Mapping[str, Hop] = {**QUICK_HOPS, "haproxy": haproxy, "traefik": traefik}


@contextmanager
def _hop(
    name: str,
    flags: Sequence[str],
    config: str,
    host: str,
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """Run a hop for the length of a block, once it answers.

    Args:
        name: the program's, as Debian or PyPI install it.
        flags: with `{folder}` and `{listen}` to be filled in.
        config: of `{folder}/config.toml`, with the same and `{host}`, `{port}` and `{pool}`.
        host: of the server.
        port: of the server.
        environment: all that the program sees.

    Raises:
        HopMissing: it is not installed.
        AnswerFailed: it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix=f"myxo-bench-{name}-") as folder:
        known = {"folder": folder, "listen": free_port(), "host": host, "port": port, "pool": POOL}
        (Path(folder) / CONFIG).write_text(config.format(**known))
        command = [program(name), *(flag.format(**known) for flag in flags)]
        log = Path(folder) / "log"
        with running(command, log, environment=environment) as process:
            url = f"http://127.0.0.1:{known['listen']}/"
            await_answer(url, process, log)
            yield url, process.pid
