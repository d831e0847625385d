"""A real Envoy says whether it understands what is written for it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.balancing import Balancing
from overlay.names import InstanceId, PeerId, service_name
from overlay.spec import ServiceSpec
from proxy.envoy.bootstrap import (
    Files,
    bootstrap,
    gateway_secrets,
    secret_message,
    secrets,
)
from proxy.envoy.clusters import cluster_of, endpoints_of, proxy_cluster
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front
from proxy.envoy.mapping import Endpoint, Machine, Mapped
from proxy.envoy.messages import Message, resources
from proxy.envoy.process import envoy_program
from proxy.envoy.routes import route_configuration
from proxy.route.exposure import exposure_of
from proxy.testing_certificates import Authority

TIMEOUT_S = 60.0
PEER = PeerId("somebody")

INSIDE = Front("inside", "127.0.0.1", 14200, machine_names=frozenset({"alpha.example"}))
OUTSIDE = Front("outside0", "::", 14443, "https", exposure_of(["hello", "shop=shop.example"]))

SPECS = [
    ServiceSpec(process="x"),
    ServiceSpec(process="x", idempotent=True, retry_statuses=(503,), timeout_s=2.5, eject_after=0),
    ServiceSpec(process="x", protocol="h2c"),
    ServiceSpec(process="x", policy=Balancing(name="maglev", hash="header:X-User")),
    ServiceSpec(process="x", policy=Balancing(name="ring_hash", hash="cookie:user")),
    ServiceSpec(process="x", policy=Balancing(name="ring_hash")),
    ServiceSpec(process="x", policy=Balancing(name="round_robin"), retry_percent=0),
]


def mapped(number: int, spec: ServiceSpec) -> Mapped:
    ends = (
        Endpoint(InstanceId("a"), "127.0.0.1:9001"),
        Endpoint(InstanceId("b"), "127.0.0.1:9002", weight=250, draining=True),
    )
    name = service_name("hello" if not number else f"hello-{number}")
    far = Machine(PEER, (("10.0.0.1", 4443), ("::2", 4443)), f"{name}/7", weight=8)
    return Mapped(name, spec, ends, (far,), ((PEER, "ab" * 32),))


def valid(folder: Path, config: Message) -> str:
    """Return what Envoy has to say against a configuration."""
    path = folder / "checked.json"
    Folder().write(path, config)
    command = [envoy_program(), "--mode", "validate", "-c", str(path), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.slow
def test_envoy_understands_all_that_is_written_for_it(tmp_path: Path) -> None:
    files, folder = Files(tmp_path), Folder()
    services = [mapped(number, spec) for number, spec in enumerate(SPECS)]
    clusters = [proxy_cluster(files.proxy)]
    for service in services:
        ends = endpoints_of(service, files.proxy)
        file = files.endpoints(service.name, service.version)
        whole = {**cluster_of(service, file, files.credentials), "load_assignment": ends}
        del whole["eds_cluster_config"]
        clusters.append({**whole, "type": "STATIC"})
    cert, key = Authority(tmp_path).issue("edge", "localhost")
    pem = key.read_bytes() + cert.read_bytes()
    shown = secrets([pem], cert.read_text())
    shown += gateway_secrets(cert.read_text(), key, cert.read_text())
    for secret in shown:
        folder.write(files.secret(secret["name"]), secret_message(1, secret))
    fronts = [INSIDE, OUTSIDE]
    boot = bootstrap(files, fronts, certificates=1, mutual=True)
    # Validation reads no watched files: what they hold is put in the place of their names.
    for listener, front in zip(boot["static_resources"]["listeners"], fronts, strict=True):
        (chain,) = listener["filter_chains"]
        config = chain["filters"][0]["typed_config"]
        del config["rds"]
        config["route_config"] = route_configuration(front, services)
    boot["static_resources"]["clusters"] = clusters
    del boot["dynamic_resources"]
    assert valid(tmp_path, boot) == ""
    broken = {**boot, "node": {"id": 7, "nonsense": True}}
    assert "nonsense" in valid(tmp_path, broken)


def test_a_file_is_replaced_only_by_something_new(tmp_path: Path) -> None:
    folder, path = Folder(), tmp_path / "clusters.json"
    one = proxy_cluster(tmp_path / "proxy.sock")
    assert folder.write(path, resources("config.cluster.v3.Cluster", 1, [one]))
    first = path.stat()
    assert first.st_mode & 0o777 == 0o600
    assert not folder.write(path, resources("config.cluster.v3.Cluster", 2, [one]))
    assert path.stat() == first
    assert folder.write(path, resources("config.cluster.v3.Cluster", 3, []))
    assert path.stat().st_ino != first.st_ino


def test_a_service_without_a_serving_endpoint_has_no_route() -> None:
    name = service_name("hello")
    ends = (Endpoint(InstanceId("a"), "127.0.0.1:9001", draining=True),)
    leaving = Mapped(name, SPECS[0], ends)
    serving = Mapped(name, SPECS[0], (replace(ends[0], draining=False),))
    for front in (INSIDE, OUTSIDE):
        assert "service/hello" not in str(route_configuration(front, [leaving]))
        assert "service/hello" in str(route_configuration(front, [serving]))


def test_only_what_is_exposed_has_a_route_from_outside() -> None:
    hidden = Mapped(service_name("hidden"), SPECS[0], (Endpoint(InstanceId("a"), "127.0.0.1:1"),))
    assert "service/hidden" not in str(route_configuration(OUTSIDE, [hidden]))
    assert "service/hidden" in str(route_configuration(INSIDE, [hidden]))
