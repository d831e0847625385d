import os
import signal

import trio

from myxo.following import Followed


def sleeping() -> int:
    return os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")  # noqa: S606  (no shell: that is meant)


async def test_how_a_child_ended_is_told_to_all_who_wait() -> None:
    followed = Followed(sleeping(), is_child=True)
    codes: list[int] = []

    async def wait() -> None:
        codes.append(await followed.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert followed.returncode is None
        followed.kill()
    assert codes == [-signal.SIGKILL, -signal.SIGKILL]
    assert followed.returncode == -signal.SIGKILL


async def test_of_another_ones_process_only_the_end_is_seen() -> None:
    pid = sleeping()
    followed = Followed(pid, is_child=False)
    followed.send_signal(signal.SIGTERM)
    assert await followed.wait() == 0
    os.waitid(os.P_PID, pid, os.WEXITED)  # noqa: ASYNC222  (it has ended)
    followed.kill()  # it has ended: nobody is met
