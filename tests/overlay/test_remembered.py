import json
import random
from pathlib import Path

import trio
import trio.testing

from overlay.identity import Identity
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.remembered import KEEP_FIRST_S, KEEP_PERIOD_S, REMEMBERED, Remembered
from overlay.testing import empty_view, meet
from overlay.view import View

NOW = 1_700_000_000.0
ME = Identity.from_seed(b"m" * 32)


def view_of(count: int) -> View:
    view = empty_view(ME, "here")
    take(view, ME, "10.0.0.0", "here")
    for number in range(1, count + 1):
        take(view, Identity.from_seed(number.to_bytes(32, "big")), f"10.0.0.{number}", str(number))
    return view


def take(view: View, owner: Identity, host: str, machine: str) -> None:
    version = Version(epoch=NOW, counter=0)
    address = f"/ip4/{host}/tcp/4003"
    record = PeerRecord(
        version=version, role=Role.PROXY, host=host, machine=machine, addresses=(address,)
    )
    view.apply(sign_record(owner, record), NOW)
    if owner is not ME:
        meet(view, owner.peer_id, NOW)


def remembered(directory: Path, network: str = "n") -> Remembered:
    return Remembered(directory, network, ME.peer_id)


def test_who_was_there_is_remembered_for_that_network_alone(tmp_path: Path) -> None:
    assert remembered(tmp_path).addresses() == ()
    remembered(tmp_path).write(view_of(3), random.Random(0))
    found = remembered(tmp_path).addresses()
    assert sorted(a.split("/p2p/")[0] for a in found) == [
        f"/ip4/10.0.0.{n}/tcp/4003" for n in (1, 2, 3)
    ]
    assert remembered(tmp_path, "another").addresses() == ()


def test_so_many_are_remembered_and_an_empty_view_forgets_nobody(tmp_path: Path) -> None:
    remembered(tmp_path).write(view_of(2 * REMEMBERED), random.Random(0))
    assert len(remembered(tmp_path).addresses()) == REMEMBERED
    remembered(tmp_path).write(view_of(0), random.Random(0))
    assert len(remembered(tmp_path).addresses()) == REMEMBERED


def test_what_is_no_address_of_another_peer_is_left_out(tmp_path: Path) -> None:
    remembered(tmp_path).write(view_of(1), random.Random(0))
    (file,) = (tmp_path / "peers").iterdir()
    (good,) = json.loads(file.read_text())
    file.write_text(json.dumps([7, "nonsense", f"/ip4/10.0.0.9/tcp/1/p2p/{ME.peer_id}", good]))
    assert remembered(tmp_path).addresses() == (good,)
    file.write_text("{")
    assert remembered(tmp_path).addresses() == ()


async def test_a_machine_whose_plug_is_pulled_in_its_first_minute_remembers(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    kept = remembered(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep, view_of(1), random.Random(0))
        await trio.sleep(KEEP_FIRST_S + 0.1)
        assert len(kept.addresses()) == 1
        nursery.cancel_scope.cancel()


async def test_it_is_written_less_and_less_often_but_once_a_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    view, kept = view_of(1), remembered(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep, view, random.Random(0))
        await trio.sleep(20 * KEEP_PERIOD_S)
        take(view, Identity.generate(), "10.0.1.1", "new")
        await trio.sleep(KEEP_PERIOD_S + 0.1)
        assert len(kept.addresses()) == 2
        nursery.cancel_scope.cancel()
