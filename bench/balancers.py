"""HAProxy and Envoy before several backends, by each of their policies that compare."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from bench.envoy import FLAGS, write_config
from bench.hop import await_answer, program, running
from overlay.testing_ports import free_port

Balancer = Callable[[Sequence[int]], AbstractContextManager[str]]
"""Takes the ports of the backends on loopback, yields the URL before them."""


@contextmanager
def haproxy(policy: str, ports: Sequence[int]) -> Iterator[str]:
    """Run HAProxy with one thread; `policy` as its `balance` takes it.

    Raises:
        HopMissing: it is not installed.
        AnswerFailed: it does not answer.
    """
    listen = free_port()
    servers = "".join(f"  server s{port} 127.0.0.1:{port}\n" for port in ports)
    config = (
        "global\n  nbthread 1\ndefaults\n  mode http\n  http-reuse always\n"
        "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"listen hop\n  bind 127.0.0.1:{listen}\n  balance {policy}\n{servers}"
    )
    with tempfile.TemporaryDirectory(prefix="myxo-bench-haproxy-") as name:
        path, log = Path(name) / "haproxy.cfg", Path(name) / "log"
        path.write_text(config)
        with running([program("haproxy"), "-db", "-f", str(path)], log) as process:
            url = f"http://127.0.0.1:{listen}/"
            await_answer(url, process, log)
            yield url


@contextmanager
def envoy(policy: str, ports: Sequence[int]) -> Iterator[str]:
    """Run Envoy with one worker; `policy` as its `lb_policy` takes it.

    Raises:
        HopMissing: it is not installed.
        AnswerFailed: it does not answer.
    """
    listen = free_port()
    with tempfile.TemporaryDirectory(prefix="myxo-bench-envoy-") as name:
        path, log = Path(name) / "envoy.json", Path(name) / "log"
        write_config(path, ("127.0.0.1", listen), ("127.0.0.1", ports[0]))
        config = json.loads(path.read_text())
        (cluster,) = config["static_resources"]["clusters"]
        cluster["lb_policy"] = policy
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}}
            for p in ports
        ]
        path.write_text(json.dumps(config))
        with running([program("envoy"), "-c", str(path), *FLAGS], log) as process:
            url = f"http://127.0.0.1:{listen}/"
            await_answer(url, process, log)
            yield url


BALANCERS: Mapping[str, Balancer] = {
    "envoy round_robin": partial(envoy, "ROUND_ROBIN"),
    "envoy least_request": partial(envoy, "LEAST_REQUEST"),
    "haproxy roundrobin": partial(haproxy, "roundrobin"),
    "haproxy leastconn": partial(haproxy, "leastconn"),
}
