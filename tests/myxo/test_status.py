from pathlib import Path
from typing import Any

import pytest
import trio

from myxo.status import NothingRuns, as_tables, merged, print_status, read_status
from overlay.node import open_node
from overlay.records import Role
from overlay.settings import NodeSettings


async def read(tmp_path: Path) -> list[dict[str, Any]]:
    with trio.fail_after(20):
        first = NodeSettings(
            psk="secret", p2p_listen_addr="127.0.0.1:0", ephemeral=True, state_dir=tmp_path
        )
        async with open_node(first, Role.BOOTSTRAP) as bootstrap:
            address = f"{bootstrap.record.addresses[0]}/p2p/{bootstrap.peer_id}"
            second = first.model_copy(update={"bootstraps": (address,)})
            async with open_node(second, Role.PROXY) as proxy:
                proxy.status = lambda: {"services": [{"name": "hello"}]}
                while not (bootstrap.view.peers() and proxy.view.peers()):
                    await bootstrap.changed()
                return await read_status(tmp_path)


async def test_the_daemons_of_a_machine_are_shown_as_one_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemons = await read(tmp_path)
    assert sorted(d["role"] for d in daemons) == ["bootstrap", "proxy"]
    both = merged(daemons)
    assert len(both["daemons"]) == 2
    assert both["services"] == [{"name": "hello"}]
    assert as_tables(daemons)
    capsys.readouterr()
    print_status(daemons, as_json=False)
    assert "none: starts on the first request" in " ".join(capsys.readouterr().out.split())
    print_status(daemons, as_json=True)
    assert '"services"' in capsys.readouterr().out


async def test_where_nothing_runs_it_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(NothingRuns, match="myxo up"):
        await read_status(tmp_path)


async def test_what_a_peer_says_of_itself_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemons = await read(tmp_path)
    for peer in daemons[0]["peers"]:
        peer["host"] = "[/red]"
    print_status(daemons[:1], as_json=False)
    assert "[/red]" in capsys.readouterr().out


async def test_what_rests_what_fails_and_what_is_gone_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemons = await read(tmp_path)
    daemons[0] |= {
        "standby": {
            "instances": 3,
            "memory_mib": 41,
            "most_instances": 64,
            "most_memory_mib": 512,
        },
        "crash_loops": [
            {
                "service": "broken",
                "revision": 7,
                "failures": 5,
                "reason": "it ended with exit code 3",
                "wait_s": 12.2,
                "log": "\n".join(f"line {n}" for n in range(9)),
            }
        ],
        "not_kept": [
            {
                "service": "greedy",
                "owner": "12D3KooWMmW7x9sb28AzMw9aidokzDvDuaqoppHJvR86wX4weDnb",
                "withheld": 4,
                "most_of_owner": 16,
                "most_in_all": 64,
            }
        ],
        "put_away": [{"id": "abc", "service": "old", "ago_s": 4.2, "why": "room_needed"}],
    }
    print_status(daemons, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 41 64 instances, 512 MiB" in shown
    assert "broken 7 5 in 12 s it ended with exit code 3" in shown
    assert "line 4 line 5 line 6 line 7 line 8" in shown
    assert "line 3" not in shown
    assert "greedy 4 16 of one owner is the most, 64 of all" in shown
    assert "old abc 4 s room_needed" in shown
