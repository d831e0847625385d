from collections.abc import Mapping
from typing import Any

import trio

from overlay.identity import Identity
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.testing import bury, empty_view, meet
from overlay.watching import changes_of

ME, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))


async def test_what_changes_while_changes_are_told_is_told_right_after() -> None:
    view = empty_view(ME, "here")
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1), role=Role.PROXY, host="other", machine="there"
    )
    view.apply(sign_record(OTHER, record), 1.0)
    meet(view, OTHER.peer_id)
    told: list[Mapping[str, Any]] = []

    with trio.move_on_after(1):  # nothing changes after it
        async for changes in changes_of(view, trio.sleep_forever):
            if not told:
                bury(view, OTHER.peer_id)
            told.extend(changes)
    assert [(change["host"], change["state"]) for change in told] == [
        ("other", "alive"),
        ("other", "dead"),
    ]
