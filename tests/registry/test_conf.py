"""The configuration: read as the first users wrote it, and refused so that it can be mended."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.balancing import Balancing
from overlay.spec import RateLimit, ServiceSpec
from registry.conf.docker import DockerConf
from registry.conf.service import parse_conf, read_conf
from registry.errors import ConfInvalid

HELLO_CONF = """{
    "NetworkSoftReq": {
        "RTT": 500
    },
    "NetworkHardReq": {
        "RTT": 1000
    },
    "CpuReq": 0,
    "MemoryReq": 0,

    "DockerConf": {
        "From": "ubuntu:16.04",
        "Copy": [
            ["helloworldserver", "."]
        ],
        "Run": [],
        "Cmd": "./helloworldserver $SERVICE_PORT"
    }
}
"""


def test_the_file_of_the_first_readme_is_read_as_it_stands() -> None:
    conf = parse_conf(HELLO_CONF, "service-conf.json")
    assert conf.docker == DockerConf(
        base="ubuntu:16.04",
        copies=(("helloworldserver", "."),),
        run=(),
        cmd="./helloworldserver $SERVICE_PORT",
    )
    spec = ServiceSpec(process="true", **conf.spec)
    assert (spec.soft_rtt_s, spec.hard_rtt_s) == (0.5, 1.0)
    assert (spec.cpu_millicores, spec.memory_mib) == (0, 0)


def test_tabs_and_a_byte_order_mark_do_not_matter() -> None:
    assert parse_conf("\ufeff" + HELLO_CONF.replace("    ", "\t"), "c.json") == parse_conf(
        HELLO_CONF, "c.json"
    )


def test_the_same_may_be_written_as_yaml() -> None:
    text = """
NetworkSoftReq: {RTT: 500}
NetworkHardReq: {RTT: 1000}
CpuReq: 0
MemoryReq: 0
DockerConf:
  From: ubuntu:16.04
  Copy:
    - [helloworldserver, .]
  Run: []
  Cmd: ./helloworldserver $SERVICE_PORT
"""
    assert parse_conf(text, "conf.yaml") == parse_conf(HELLO_CONF, "conf.json")


def test_the_optional_fields_go_into_the_spec() -> None:
    text = json.dumps(
        {
            "constraints": {"zone": ["a", "!b"], "disk": "ssd"},
            "prefer": {"host": "!old"},
            "port": 81,
            "env": {"MODE": "fast"},
            "concurrency": 5,
            "max_instances": 3,
            "min_instances": 2,
            "min_state": "paused",
            "idle_pause_s": 0.5,
            "idle_stop_s": 1.5,
            "ready_timeout_s": 20,
            "preempt_grace_s": 7,
            "idempotent": True,
            "health": "/ok",
            "read_only": False,
            "cap_drop": "all",
            "network": "none",
            "policy": {"name": "maglev", "hash": "cookie:sid", "weights": {"einstein": 0.5}},
            "sticky": True,
        }
    )
    spec = ServiceSpec(process="true", **parse_conf(text, "c.json").spec)
    assert spec.constraints == {"zone": ("a", "!b"), "disk": ("ssd",)}
    assert spec.prefer == {"host": ("!old",)}
    assert (spec.port, spec.env, spec.concurrency) == (81, {"MODE": "fast"}, 5)
    assert (spec.max_instances, spec.idle_stop_s, spec.ready_timeout_s) == (3, 1.5, 20)
    assert (spec.min_instances, spec.min_state, spec.idle_pause_s) == (2, "paused", 0.5)
    assert spec.preempt_grace_s == 7
    assert (spec.idempotent, spec.health) == (True, "/ok")
    assert (spec.read_only, spec.cap_drop_all, spec.network) == (False, True, "none")
    assert spec.policy == Balancing(name="maglev", hash="cookie:sid", weights={"einstein": 0.5})
    assert spec.sticky == "myxo-instance"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("round_robin", "round_robin"),
        ("RING_HASH", "ring_hash"),
        ("weighted least request", "weighted_least_request"),
        ("ORIGINAL_DST_LB", "original_destination"),
        ("TC", "least_request"),
        ("RR", "round_robin"),
    ],
)
def test_a_policy_is_known_by_its_name_at_puma_and_at_the_queue_simulator(
    written: str, name: str
) -> None:
    conf = parse_conf(json.dumps({"policy": written}), "c.json")
    assert ServiceSpec(process="true", **conf.spec).policy == Balancing(name=name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"min_instances": 3, "max_instances": 2}', "at most max_instances, which is 2"),
        ('{"min_state": "frozen"}', '"running", or "paused"'),
        ('{"network": "host"}', '"outside", or "none"'),
        ('{"rate_limit": 100}', 'as in {"per_s": 100, "burst": 20}'),
        ('{"rate_limit": {"burst": 5}}', 'as in {"per_s": 100, "burst": 20}'),
        ('{"global_rate_limit": {"per_s": 0}}', "global_rate_limit.per_s is 0.*over 0"),
        ('{"client_rate_limit": {"per_s": 1, "bust": 2}}', "did you mean burst"),
        ('{"retry_statuses": [404]}', "statuses from 500 to 599"),
        ('{"retry_percent": 101}', "from 0 to 100"),
        ('{"hedge_percentile": 10}', "from 50 to 99.9"),
        ('{"timeout_s": 0}', "seconds over 0"),
        ('{"health_failures": 0}', "from 1 to 1000"),
        ('{"min_state": "paused", "idle_pause_s": 0}', "never paused"),
    ],
)
def test_what_cannot_be_kept_so_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfInvalid, match=complaint):
        parse_conf(text, "c.json")


def test_a_rate_without_a_burst_has_a_seconds_worth_of_it() -> None:
    conf = parse_conf('{"rate_limit": {"per_s": 12.5}, "retry_statuses": [503]}', "c.json")
    spec = ServiceSpec(process="true", **conf.spec)
    assert spec.rate_limit == RateLimit(per_s=12.5, burst=13)
    assert spec.retry_statuses == (503,)


def test_zero_is_no_requirement() -> None:
    conf = parse_conf('{"NetworkSoftReq": {"RTT": 0}, "NetworkHardReq": {}}', "c.json")
    assert ServiceSpec(process="true", **conf.spec).soft_rtt_s is None


def test_an_image_to_run_as_it_is_may_be_named() -> None:
    assert parse_conf("image: nginx:1.25", "c.yaml").image == "nginx:1.25"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{\n"CpuReq": 1,\n"MemoryReg": 5}', ["line 3", "MemoryReg", "did you mean MemoryReq"]),
        ('{\n"cpureq": 1}', ["line 2", "did you mean CpuReq"]),
        ('{\n"DockerConf": {\n"Form": "x"}}', ["line 3", "in DockerConf", "did you mean From"]),
        ('{\n\n"CpuReq": "many"}', ["line 3", "CpuReq", '"many"', "millicores"]),
        ('{"CpuReq": true}', ["CpuReq is true", "millicores"]),
        ('{"CpuReq": 1.5}', ["CpuReq is 1.5", "whole"]),
        ('{"MemoryReq": -1}', ["MemoryReq is -1", "MiB", "0 is no requirement"]),
        ('{"NetworkSoftReq": 5}', ["NetworkSoftReq is 5", "RTT"]),
        (
            '{"NetworkSoftReq": {"RTT": 200000000}}',
            ["NetworkSoftReq.RTT", "milliseconds", "nanoseconds", "write 200"],
        ),
        (
            '{"NetworkSoftReq": {"RTT": 9},\n"NetworkHardReq": {"RTT": 5}}',
            ["line 1", "NetworkSoftReq.RTT is 9", "at most NetworkHardReq.RTT"],
        ),
        ('{"DockerConf": {"Copy": [["a", "."],\n["b"]]}}', ["line 2", "Copy[1]", '["b"]']),
        ('{"DockerConf": {"Run": "make"}}', ["DockerConf.Run", "list of shell commands"]),
        ('{"DockerConf": {"From": "a b"}}', ["DockerConf.From", "ubuntu:16.04"]),
        ('{"DockerConf": {},\n"image": "x"}', ["line 2", "either image"]),
        ('{"port": 0}', ["port is 0", "1 to 65535"]),
        ('{"env": {"A": 1}}', ["env.A is 1"]),
        ('{"constraints": ["a"]}', ["constraints", "by label"]),
        ('{"constraints": {"zone": []}}', ["constraints.zone is []"]),
        ('{"prefer": {"zone": ["a", 1]}}', ["prefer.zone", '"a", 1']),
        ('{"prefer": {"-": "a"}}', ["prefer.-"]),
        ('{"constraints": {"zone": "a b"}}', ["constraints.zone", '"a b"']),
        ('{"env": {"1A": "x"}}', ["env.1A"]),
        ('{"health": "ok"}', ["health", "/health"]),
        ('{"health": "/o k"}', ["health", "/health"]),
        ('{"cap_drop": "NET_RAW"}', ["cap_drop", '"all"']),
        ('{"policy": "fastest"}', ["policy", '"fastest"', "ring_hash"]),
        ('{"policy": {"hash": "client"}}', ["policy", "as name"]),
        ('{"policy": {"name": "maglev", "hash": "header:"}}', ["policy.hash", "header:NAME"]),
        ('{"policy": {"name": "random", "hash": "path"}}', ["policy.hash", "ring_hash hash"]),
        ('{"policy": {"name": "random", "weights": {"a": 1}}}', ["policy.weights", "maglev"]),
        ('{"policy": {"name": "maglev", "weights": {"a": -1}}}', ["policy.weights.a", "from 0"]),
        ('{"sticky": "a;b"}', ["sticky", "name of a cookie"]),
        ('{"idempotent": "yes"}', ["idempotent", "true or false"]),
        ('{"CpuReq": 1,\n"CpuReq": 2}', ["line 2", "CpuReq", "twice", "line 1"]),
        ('{"CpuReq": 1,\n}', ["line 2", "not JSON"]),
        ("[1]", ["object"]),
        ("", ["empty"]),
        ("a: &x [1]\nb: *x", ["aliases"]),
        ("NetworkSoftReq:\n\tRTT: 5", ["line 2", "not YAML"]),
        ("<html>", ["object"]),
        ("[" * 5000, ["deep"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfInvalid) as refused:
        parse_conf(text, "service-conf.json")
    for part in ["service-conf.json", *parts]:
        assert part in str(refused.value)


def test_a_file_that_is_missing_too_large_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfInvalid, match="No such file"):
        read_conf(tmp_path / "none.json")
    large = tmp_path / "large.json"
    large.write_text('{"env": {"A": "' + "x" * 10_000_000 + '"}}')
    with pytest.raises(ConfInvalid, match="over 262144 bytes"):
        read_conf(large)
    binary = tmp_path / "server"
    binary.write_bytes(b"\x7fELF\n\xff\xfe")
    with pytest.raises(ConfInvalid, match="line 2: the text is not UTF-8"):
        read_conf(binary)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["RTT", "Copy", "From", "CpuReq", "env", "DockerConf"]) | st.text(),
            inner,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_json_at_all_ends_in_anything_but_a_configuration_or_a_refusal(value: object) -> None:
    with suppress(ConfInvalid):
        parse_conf(json.dumps(value), "c.json")


@given(st.text())
def test_no_text_at_all_ends_in_anything_but_a_configuration_or_a_refusal(text: str) -> None:
    with suppress(ConfInvalid):
        parse_conf(text, "c.yaml")


@given(st.text().filter(lambda t: t.strip() and "\0" not in t))
def test_texts_come_out_of_json_as_they_went_in(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    docker = parse_conf(json.dumps({"DockerConf": {"Cmd": text}}), "c.json").docker
    assert docker is not None
    assert docker.cmd == text
