"""Whatever a service's definition says, its container gets no more than the safe defaults."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from allocator.engine.containers import Ownership, container_config, host_config
from allocator.engine.networks import BRIDGES
from allocator.runtime import Launch
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec
from registry.conf.service import parse_conf
from registry.errors import ConfInvalid

IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))

GREEDY = {
    "privileged": True,
    "Privileged": True,
    "cap_add": ["SYS_ADMIN"],
    "CapAdd": ["ALL"],
    "devices": ["/dev/kvm"],
    "Binds": ["/:/host"],
    "volumes": ["/:/host"],
    "mounts": [{"type": "bind", "source": "/", "target": "/host"}],
    "network_mode": "host",
    "pid_mode": "host",
    "ipc_mode": "host",
    "userns_mode": "host",
    "security_opt": ["seccomp=unconfined"],
    "publish_all_ports": True,
    "port_bindings": {"22": 22},
    "user": "root",
    "group_add": ["docker"],
    "runtime_args": ["--privileged"],
}

NEVER = {
    "privileged",
    "cap_add",
    "devices",
    "device_requests",
    "device_cgroup_rules",
    "binds",
    "mounts",
    "volumes_from",
    "pid_mode",
    "ipc_mode",
    "userns_mode",
    "uts_mode",
    "cgroupns",
    "publish_all_ports",
    "port_bindings",
    "group_add",
    "cgroup_parent",
    "sysctls",
    "oom_kill_disable",
}
"""Arguments of the engine's SDK that give a container more than its own."""


def strategy_of(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for every field that a definition has now or will have, as far as it takes them."""
    scalars = st.none() | st.booleans() | st.integers(0, 4096) | st.sampled_from(["host", "/x", ""])
    return st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, scalars))


def launched(spec: ServiceSpec) -> dict[str, Any]:
    launch = Launch(InstanceId("i"), ServiceName("hello"), 1, PeerId("someone"), spec, 4200)
    return container_config(launch, Ownership("network", PeerId("me")), "172.17.0.1")


@given(strategy_of(ServiceSpec), st.sampled_from([GREEDY, {}]))
def test_no_field_of_a_definition_asks_for_a_privilege(
    fields: dict[str, Any], greedy: dict[str, Any]
) -> None:
    wanted = {"image": IMAGE, **greedy}
    for name, value in fields.items():
        try:
            ServiceSpec.model_validate({"image": IMAGE, name: value})
        except ValueError:
            continue
        wanted[name] = value
    spec = ServiceSpec.model_validate(wanted)
    host = host_config(spec, BRIDGES[spec.network])
    assert host.keys() & NEVER == set()
    assert "host" not in str(host.get("network_mode"))
    assert host["security_opt"] == ["no-new-privileges"]
    assert host["cap_drop"]
    assert host["pids_limit"] > 0
    assert launched(spec).keys() & (NEVER | {"volumes", "user", "host_config"}) == set()


@pytest.mark.parametrize("name", GREEDY)
def test_a_configuration_that_asks_for_one_is_refused_with_the_name(name: str) -> None:
    text = json.dumps({"image": "nginx", name: GREEDY[name]})
    with pytest.raises(ConfInvalid, match=name):
        parse_conf(text, "service-conf.json")
