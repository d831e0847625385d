import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import trio

from overlay.errors import SettingsInvalid
from overlay.testing_ports import free_port
from proxy.envoy.admin import Admin, AdminUnreachable
from proxy.envoy.bootstrap import Files, bootstrap
from proxy.envoy.clusters import proxy_cluster
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front
from proxy.envoy.messages import resources
from proxy.envoy.process import EnvoyFailed, EnvoyProcess, envoy_program
from proxy.envoy.routes import route_configuration

TIMEOUT_S = 60.0


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of an Envoy that serves nothing."""
    found, folder = Files(tmp_path_factory.mktemp("e")), Folder()
    front = Front("inside", "127.0.0.1", free_port())
    folder.write(found.bootstrap, bootstrap(found, [front], certificates=0, mutual=False))
    cluster = proxy_cluster(found.proxy)
    folder.write(found.clusters, resources("config.cluster.v3.Cluster", 1, [cluster]))
    kind = "config.route.v3.RouteConfiguration"
    routes = route_configuration(front, [])
    folder.write(found.routes("inside"), resources(kind, 1, [routes]))
    return found


@pytest.mark.slow
async def test_an_envoy_that_dies_is_started_again_and_ends_with_its_proxy(files: Files) -> None:
    admin = Admin(files.admin)
    envoy = EnvoyProcess(envoy_program(), files.bootstrap, 1, admin)
    ends: list[int | None] = []
    envoy.ended = lambda: ends.append(envoy.pid)
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(envoy.run)
            first = envoy.pid
            assert first is not None
            assert list(await admin.clusters()) == ["proxy"]
            assert await admin.under_way() == (0, 0)
            os.kill(first, signal.SIGKILL)
            while not ends or not await admin.is_live():  # noqa: ASYNC110  (another process)
                await trio.sleep(0.02)
            second = envoy.pid
            assert second not in {None, first}
            nursery.cancel_scope.cancel()
    assert len(ends) == 2
    assert not Path(f"/proc/{second}").exists()
    with pytest.raises(AdminUnreachable):
        await admin.clusters()


@pytest.mark.slow
async def test_a_configuration_that_envoy_does_not_take_is_told_with_its_words(
    files: Files,
) -> None:
    files.bootstrap.write_text('{"node": {"nonsense": 1}}')
    envoy = EnvoyProcess(envoy_program(), files.bootstrap, 1, Admin(files.admin))
    with (
        trio.fail_after(TIMEOUT_S),
        pytest.RaisesGroup(EnvoyFailed, flatten_subgroups=True) as all_,
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(envoy.run)
    assert "nonsense" in str(all_.value.exceptions)


def test_without_an_envoy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", "")
    assert shutil.which("envoy") is None
    with pytest.raises(SettingsInvalid, match=r"myxo\[envoy\]"):
        envoy_program()
