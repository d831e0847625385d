import json
from pathlib import Path
from typing import Any

import pytest

from myxo.puma.configuration import PumaConfig, read_config, read_routes
from myxo.puma.errors import ConfigInvalid
from overlay.spec import RateLimit

SERVICES = {"service1": "/policy", "service2": "/haptic"}


def config(**keys: Any) -> PumaConfig:
    return read_config({"puma_services": SERVICES, **keys})


def manager(**keys: Any) -> Any:
    return config(http_connection_manager=keys).http_connection_manager


@pytest.mark.parametrize("key", ["puma_services", "puma-services"])
def test_services_may_be_spelt_either_way_in_a_dictionary_or_in_json(key: str) -> None:
    assert read_config({key: SERVICES}).puma_services == SERVICES
    assert read_config(json.dumps({key: SERVICES})).puma_services == SERVICES


def test_there_may_be_any_number_of_services() -> None:
    many = {f"s{n}": f"/s/{n}" for n in range(300)}
    assert read_config({"puma_services": many}).puma_services == many


def test_every_key_of_the_paper_is_taken() -> None:
    whole = {
        "load_balancer": "round_robin",
        "logging": {
            "filter": '{"status_code_filter": {"comparison": {"op": "GE", "value": 400}}}',
            "config": '{"path": "access.log", "format": "%RESPONSE_CODE%"}',
            "name": "requests",
        },
        "rate_limit": {"cluster_name": "service2", "requests_per_unit": 120, "unit": "minute"},
        "dynamodb": {"config": '{"endpoints": ["http://127.0.0.1:8000/", "b:1"]}'},
        "puma_services": {**SERVICES, "service5": "/db"},
        "http_connection_manager": {
            "http_filters": [],
            "drain_timeout": '{"seconds": 2}',
            "rds": '{"path": "routes.json"}',
            "tracing": '{"otlp_endpoint": "http://127.0.0.1:4318"}',
            "idle_timeout": "30s",
            "route_config": '{"/new": "service1"}',
        },
    }
    read = read_config(json.dumps(whole))
    assert read.load_balancer is not None
    assert read.load_balancer.name == "round_robin"
    assert read.logging is not None
    assert (read.logging.name, read.logging.line) == ("requests", "%RESPONSE_CODE%")
    assert not read.logging.filter.takes({"status": 200})
    assert read.rate_limit is not None
    assert read.rate_limit.limit == RateLimit(per_s=2.0, burst=1)
    assert read.dynamodb is not None
    assert read.dynamodb.config.endpoints == ("127.0.0.1:8000", "b:1")
    assert (read.database_key, read.coded) == ("service5", ("service1", "service2"))
    connections = read.http_connection_manager
    assert (connections.drain_timeout, connections.idle_timeout) == (2.0, 30.0)
    assert connections.rds is not None
    assert connections.rds.path == Path("routes.json")
    assert connections.tracing is not None
    assert connections.tracing.otlp_endpoint == "http://127.0.0.1:4318"
    assert connections.route_config == {"/new": "service1"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"load_balancr": "random"}, "'load_balancr' here; did you mean load_balancer"),
        ({"load_balancer": "roundrobin"}, "did you mean round_robin"),
        ({"logging": {"fliter": {}}}, r"logging: there is no key 'fliter'.*filter"),
        ({"logging": {"format": "%RESPONSE_CODES%"}}, "RESPONSE_CODE"),
        ({"logging": {"format": "100 %"}}, "%%"),
        ({"logging": {"filter": {"header_filter": {}}}}, "header_filter"),
        ({"rate_limit": {"cluster_name": "service1"}}, "requests_per_unit"),
        ({"rate_limit": {"cluster_name": "servcie1", "requests_per_unit": 1}}, "mean service1"),
        ({"rate_limit": {"requests_per_unit": 0}}, "greater than 0"),
        ({"dynamodb": {"config": "{}"}}, "dynamodb.config.endpoints: Field required"),
        ({"dynamodb": {"config": {"endpoints": ["a:1"]}}}, "names '/db', which is no service"),
        ({"dynamodb": {"config": {"endpoints": ["https://a:1"]}}}, "plain HTTP"),
        ({"dynamodb": {"config": {"endpoints": ["a:1"], "weights": [1, 2]}}}, "a weight for each"),
        ({"dynamodb": {"config": {"endpoints": [], "service": "service1"}}}, "endpoints"),
        ({"puma-services": SERVICES}, "twice"),
        ({"puma_services": {}}, "puma_services"),
        ({"puma_services": {"service1": "policy"}}, "begins with /"),
        ({"puma_services": {"a": "/x", "b": "/x/"}}, "/x.* leads to a and to b"),
        ({"puma_services": {"a b": "/x"}}, "puma_services"),
        ({"port": 0}, "port"),
        ({"http_connection_manager": {"http_filters": ["envoy.gzip"]}}, "'envoy.gzip' is not hon"),
        ({"http_connection_manager": {"drain_timeout": "soon"}}, "'soon' is no duration"),
        ({"http_connection_manager": {"drain_timeout": "{...}"}}, "no JSON"),
        ({"http_connection_manager": {"idle_timeout": 0}}, "greater than 0"),
        ({"http_connection_manager": {"tracing": {}}}, "otlp_endpoint"),
        ({"http_connection_manager": {"rds": {"paht": "x"}}}, "did you mean path"),
        ({"http_connection_manager": {"route_config": {"/new": "service3"}}}, "no service"),
        ({"http_connection_manager": {"route_config": {"/policy": "service2"}}}, "leads to"),
        ({"http_connection_manager": {"server_name": "x"}}, "server_name"),
    ],
)
def test_what_is_not_known_or_cannot_be_honoured_is_an_error_that_says_so(
    keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigInvalid, match=f"(?s){said}"):
        read_config({"puma_services": SERVICES, **keys})


@pytest.mark.parametrize("written", ["", "{", "[]", '"x"', "{}", 7, None])
def test_what_is_no_configuration_is_refused(written: Any) -> None:
    with pytest.raises(ConfigInvalid, match="puma_config"):
        read_config(written)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Round Robin", "round_robin"),
        ("weighted least request", "weighted_least_request"),
        ("ORIGINAL_DST_LB", "original_destination"),
        ("maglev", "maglev"),
        ({"name": "ring-hash", "hash": "header:X-User"}, "ring_hash"),
    ],
)
def test_policies_are_known_by_the_names_of_papers_and_of_envoy(written: Any, name: str) -> None:
    balancing = config(load_balancer=written).load_balancer
    assert balancing is not None
    assert balancing.name == name


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (0.25, 0.25),
        ("5s", 5.0),
        ("250ms", 0.25),
        ({"seconds": 1, "nanos": 5 * 10**8}, 1.5),
    ],
)
def test_durations_are_written_as_envoy_writes_them(written: Any, seconds: float) -> None:
    assert manager(drain_timeout=written).drain_timeout == seconds


def test_routes_are_written_as_envoy_writes_them_or_for_short() -> None:
    envoy = {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/new"}, "route": {"cluster": "service1"}}],
            }
        ]
    }
    assert manager(route_config=envoy).route_config == {"/new": "service1"}
    envoy["virtual_hosts"][0]["domains"] = ["example.com"]
    with pytest.raises(ConfigInvalid, match="domains"):
        manager(route_config=envoy)


def test_routes_stand_beside_the_services_own_paths() -> None:
    assert config().paths({"/": "service1", "/haptic": "service2"}) == {
        "/policy": "service1",
        "/haptic": "service2",
        "/": "service1",
    }


@pytest.mark.parametrize("text", ["", "{", '{"new": "service1"}', '{"/new": "service9"}', "[]"])
def test_a_file_of_routes_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "routes.json"
    file.write_text('{"/new": "service1"}')
    assert read_routes(file, config()) == {"/new": "service1"}
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"routes\.json"):
        read_routes(file, config())


def test_what_services_need_installed_is_written_as_pip_has_it() -> None:
    assert config(requires="psycopg2>=2.9").requires == ("psycopg2>=2.9",)
    assert config(requires=["numpy", "psycopg2 >= 2.9"]).requires == ("numpy", "psycopg2>=2.9")
    with pytest.raises(ConfigInvalid, match="requires: 'numpy, please' is not what pip would"):
        config(requires=["numpy, please"])
    with pytest.raises(ConfigInvalid, match="requires: it is a list of what pip would install"):
        config(requires={"numpy": 2})
