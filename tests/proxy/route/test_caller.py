import pytest

from overlay.names import InstanceId, ServiceName
from proxy.route.caller import Caller, Origin

INSTANCE = Caller(ServiceName("hello"), InstanceId("a"))


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        (Origin("127.0.0.1"), True),
        (Origin("::1"), True),
        (Origin("127.0.0.1", caller=INSTANCE), False),
        (Origin("172.18.0.5"), False),
        (Origin("unknown"), False),
    ],
)
def test_this_machines_own_people_come_by_loopback_and_are_no_instance(
    origin: Origin, local: bool
) -> None:
    assert origin.local == local
