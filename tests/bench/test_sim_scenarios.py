"""Every kind of trouble ends right, and a run that does not says how to see it again."""

import pytest

from bench.sim import __main__ as command
from bench.sim.checks import (
    CheckFailed,
    alive_everywhere,
    everything_is_so,
    first_of,
    gone_everywhere,
    records_everywhere,
)
from bench.sim.latency import lan
from bench.sim.scenarios import SCENARIOS, Scenario, play
from bench.sim.world import World
from overlay.membership import Knobs

SHORT = sorted(SCENARIOS.keys() - {"absence"})
"""What takes seconds to play with many peers."""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SHORT)
def test_fifty_peers_come_through(scenario: str) -> None:
    play(scenario, 50, 1)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["cut", "restart", "leave"])
def test_a_network_of_more_than_two_full_meshes_comes_through(scenario: str) -> None:
    play(scenario, 100, 1)


@pytest.mark.parametrize("seed", range(40))
def test_small_networks_come_through_whatever_the_seed(seed: int) -> None:
    play(SHORT[seed % len(SHORT)], 10, seed)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_full_mesh_nobody_is_held_for_dead_for_what_a_line_loses(seed: int) -> None:
    assert play("loss", 20, seed).false_deaths == 0


@pytest.mark.parametrize("matrix", ["lan", "random", "grid"])
def test_a_storm_ends_on_every_matrix(matrix: str) -> None:
    play("storm", 8, 1, matrix)


@pytest.mark.slow
def test_who_was_cut_off_for_an_hour_comes_back_by_itself() -> None:
    found = play("absence", 6, 1)
    assert found.false_deaths == 2 * 5, "each side took the other for dead, and once"
    assert found.settled_s < 10


def a_world(size: int = 6) -> World:
    world = World(size, 1, lan, knobs=Knobs.lan())
    world.run(2)
    return world


def test_what_nobody_has_found_out_yet_is_said() -> None:
    world = a_world()
    assert not list(everything_is_so(world))
    world.crash(2)
    missed = list(gone_everywhere(world, [2]))
    assert len(missed) == 5
    assert missed[0] == "peer-00000 holds peer-00002, which is gone, for alive"


def test_the_living_dead_are_said() -> None:
    world = a_world()
    world.cut([3], 1)
    world.run(20)
    wrong = list(alive_everywhere(world, range(6)))
    assert len(wrong) == 10  # the five of the one, and the one of the five
    assert "peer-00000 holds peer-00003 for dead" in wrong


def test_who_started_while_cut_off_finds_the_network_though_whom_it_met_is_gone() -> None:
    """Nobody beyond the cut has heard of the new process, so their pings are not for it."""
    world = a_world()
    world.cut([0, 5], 1)
    world.run(10)
    world.restart(5)
    world.run(5)
    world.crash(0)
    world.heal()
    assert world.run_until(lambda: first_of(everything_is_so(world)) is None, 60)


def test_records_that_differ_are_said() -> None:
    world = a_world()
    key, stamp = world.publish(1, "instance")
    world.run(1)
    assert not list(records_everywhere(world))
    world.published[key] = (stamp[0], stamp[1] + 1)
    assert len(list(records_everywhere(world))) == 6


def test_a_run_that_fails_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Scenario("one stays cut off", lambda world: world.cut([0], 1), spares_the_living=False)
    monkeypatch.setitem(SCENARIOS, "broken", broken)
    with pytest.raises(CheckFailed) as failed:
        play("broken", 6, 5, "lan")
    assert "broken with seed 5: peer-00001 holds peer-00000 for dead" in str(failed.value)
    assert "python -m bench.sim --peers 6 --seed 5 --scenario broken --matrix lan" in str(
        failed.value
    )
    monkeypatch.setattr("sys.argv", ["sim", "--peers", "6", "--seed", "5", "--scenario", "broken"])
    with pytest.raises(SystemExit, match="--peers 6 --seed 5 --scenario broken"):
        command.main()


def test_who_may_not_be_held_for_dead_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_for_a_while(world: World) -> None:
        world.cut([0], 1)
        world.run(20)
        world.heal()

    monkeypatch.setitem(SCENARIOS, "cut one", Scenario("one is cut off", cut_for_a_while))
    with pytest.raises(CheckFailed, match="held peer-00000 for dead, which it is not"):
        play("cut one", 6, 5)


def test_the_command_says_how_a_scenario_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sim", "--peers", "6", "--scenario", "leave"])
    command.main()
    said = capsys.readouterr().out
    assert said.startswith("leave: a fifth say goodbye\n6 peers, seed 1: all was so ")
    assert "course " in said


@pytest.mark.parametrize("peers", ["0", "2", "-1"])
def test_a_network_of_less_than_three_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], peers: str
) -> None:
    monkeypatch.setattr("sys.argv", ["sim", "--peers", peers])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "a network has 3 at least" in capsys.readouterr().err
