import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from bench.netlab.errors import PlanInvalid
from bench.netlab.geo import CITIES, Place, delay_s, distance_km
from bench.netlab.link import PERFECT
from bench.netlab.plan import MAX_HOSTS, HostPlan, Nat, make_plan, read_plan
from bench.netlab.presets import WAN_DELAY_S, WAN_LOSS

WRITTEN = """
preset = "lan"
seed = 7

[[hosts]]
name = "a"
region = "eu"

[[hosts]]
name = "b"
region = "us"
nat = "cone"
engine = true

[[hosts]]
name = "c"
region = "us"

[default]
loss = 0.01
queue_ms = 20

[[regions]]
between = ["eu", "us"]
delay_ms = 45
loss = 0.02

[[links]]
from = "a"
to = "b"
loss = 0
bandwidth_mbps = 10
"""


def test_the_plan_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "netlab.md").read_text()
    written = tmp_path / "plan.toml"
    written.write_text(page.partition("```toml\n")[2].partition("```")[0])
    plan = read_plan(written)
    assert [host.name for host in plan.hosts] == ["a", "b"]
    assert plan.links["a", "b"].loss == 0.1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(WRITTEN)
    return path


def test_hosts_get_addresses_in_the_order_of_the_plan(file: Path) -> None:
    assert read_plan(file).hosts == (
        HostPlan("a", "10.77.0.1"),
        HostPlan("b", "10.77.0.2", Nat.CONE, engine=True),
        HostPlan("c", "10.77.0.3"),
    )


def test_what_says_more_about_a_link_beats_what_says_less(file: Path) -> None:
    links = read_plan(file).links
    assert (links["a", "b"].delay_s, links["a", "b"].loss) == (0.045, 0.0)
    assert links["a", "b"].bandwidth_bps == 10e6
    assert (links["b", "a"].delay_s, links["b", "a"].loss) == (0.045, 0.02)
    assert (links["b", "c"].delay_s, links["b", "c"].loss) == (0.0001, 0.01)
    assert {link.queue_s for link in links.values()} == {0.02}
    assert links.keys() == set(permutations("abc", 2))


def test_a_plan_may_be_json(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "plan.json"
    said = {"hosts": [{"name": "a"}, {"name": "b"}], "default": {"delay_ms": 5}}
    other.write_text(json.dumps(said))
    assert read_plan(other) == make_plan(**said)


def test_what_is_said_beside_a_file_beats_it(file: Path) -> None:
    plan = read_plan(file, hosts=[{"name": "a"}], seed=3, regions=[], links=[])
    assert (len(plan.hosts), plan.seed) == (1, 3)


def test_a_number_of_hosts_is_enough_and_links_are_then_perfect() -> None:
    plan = make_plan(hosts=3)
    assert [host.name for host in plan.hosts] == ["h1", "h2", "h3"]
    assert set(plan.links.values()) == {PERFECT}
    assert plan.mtu == 1500


def test_wan_draws_one_delay_for_both_ways_within_its_range() -> None:
    links = make_plan(hosts=12, preset="wan").links
    delays = {link.delay_s for link in links.values()}
    assert WAN_DELAY_S[0] <= min(delays) < 0.02
    assert 0.13 < max(delays) <= WAN_DELAY_S[1]
    assert all(link.loss == WAN_LOSS for link in links.values())
    assert all(links[a, b] == links[b, a] for a, b in links)


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    assert make_plan(hosts=4, preset="wan", seed=5) == make_plan(hosts=4, preset="wan", seed=5)
    assert make_plan(hosts=4, preset="wan", seed=5) != make_plan(hosts=4, preset="wan", seed=6)


def test_a_pair_keeps_its_delay_when_other_hosts_join() -> None:
    few, many = (make_plan(hosts=n, preset="wan").links for n in (3, 9))
    assert all(many[pair] == few[pair] for pair in few)


def test_geo_goes_by_the_cities_of_the_hosts() -> None:
    hosts = [{"name": "l", "city": "london"}, {"name": "n", "latitude": 40.71, "longitude": -74.01}]
    links = make_plan(hosts=hosts, preset="geo").links
    assert links["l", "n"].delay_s == delay_s(CITIES["london"], CITIES["new-york"])
    assert 0.035 < links["l", "n"].delay_s < 0.045


def test_hosts_that_name_no_city_are_spread_over_the_world() -> None:
    links = make_plan(hosts=3, preset="geo").links
    assert links["h1", "h2"].delay_s == delay_s(CITIES["frankfurt"], CITIES["new-york"])


def test_distances_are_those_on_a_sphere() -> None:
    assert distance_km(Place(0, 0), Place(0, 180)) == pytest.approx(20_015, abs=1)
    assert distance_km(CITIES["london"], CITIES["new-york"]) == pytest.approx(5570, rel=0.005)
    assert distance_km(CITIES["tokyo"], CITIES["tokyo"]) == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"hosts": 0}, "1 to 200 hosts"),
        ({"hosts": MAX_HOSTS + 1}, "1 to 200 hosts"),
        ({"hosts": [{"name": "a"}, {"name": "a"}]}, "two hosts are named a"),
        ({"hosts": [{"name": "A b"}]}, "hosts.0.name"),
        ({"hosts": [{"name": "a", "city": "atlantis"}]}, "'atlantis' is not one of amsterdam"),
        ({"hosts": [{"name": "a", "latitude": 4}]}, "go together"),
        ({"hosts": [{"name": "a", "nat": "some"}]}, "'none', 'cone' or 'symmetric'"),
        ({"preset": "moon"}, "preset"),
        ({"default": {"delay_ms": -1}}, "default.delay_ms"),
        ({"default": {"loss": 2}}, "default.loss"),
        ({"default": {"delay": 2}}, "default.delay"),
        (
            {"hosts": 3, "links": [{"between": ["h1", "h9"], "delay_ms": 1}]},
            "no host is named 'h9'",
        ),
        ({"hosts": 3, "regions": [{"between": ["eu", "us"]}]}, "no region is named 'eu'"),
        ({"links": [{"from": "h1", "delay_ms": 1}]}, "say either between"),
        ({"links": [{"between": ["h1", "h2"], "to": "h1"}]}, "say either between"),
        ({"hosts": 7, "network": "10.0.0.0/29"}, "an address for each"),
        ({"mtu": 100}, "mtu"),
    ],
)
def test_what_is_wrong_is_named(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanInvalid, match=reason):
        make_plan(**said)


def test_a_file_that_is_not_there_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match=r"none\.toml cannot be read: No such file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("hosts = [")
    with pytest.raises(PlanInvalid, match=r"bad\.toml is no TOML or JSON"):
        read_plan(tmp_path / "bad.toml")
