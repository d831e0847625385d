from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio.testing

from allocator.engine.containers import Ownership
from allocator.engine.sandbox_pool import SandboxPlan, SandboxPool
from allocator.errors import RuntimeDown
from overlay.names import PeerId


async def test_one_that_is_being_made_is_known_so_that_nobody_removes_it_as_a_strangers(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    program = tmp_path / "sandbox"
    program.write_bytes(b"a program")
    known: list[int] = []

    async def call(function: Callable[..., Any]) -> Any:
        known.append(len(pool.known))
        raise RuntimeDown("the engine went away")

    plan = SandboxPlan(size=1, program=program)
    pool = SandboxPool(Ownership("network", PeerId("me")), plan, call)
    nursery.start_soon(pool.run)
    await trio.sleep(60)
    assert known == [1]
    await trio.testing.wait_all_tasks_blocked()
    assert len(pool.known) == 0
    nursery.cancel_scope.cancel()
