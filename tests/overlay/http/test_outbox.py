from overlay.http.outbox import BUSY_ROUNDS, MOST, Outbox


class Noting:
    """A connection that notes when it is flushed."""

    def __init__(self) -> None:
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def test_messages_wait_for_the_rounds_end_only_while_there_are_several() -> None:
    made, one, other = Outbox(), Noting(), Noting()
    for _ in range(3):
        assert not made.add(one)
        made.before_io_wait(0)
    assert not made.add(one)
    assert not made.add(other)
    for _ in range(BUSY_ROUNDS):
        made.before_io_wait(0)
        flushed = one.flushed
        assert made.add(one)
        assert one.flushed == flushed
    made.before_io_wait(0)
    assert one.flushed == BUSY_ROUNDS
    assert not made.add(one)


def test_no_message_waits_for_many_others() -> None:
    made, connections = Outbox(), [Noting() for _ in range(MOST)]
    made.add(connections[0])
    made.add(connections[1])
    made.before_io_wait(0)
    for connection in connections[:-1]:
        made.add(connection)
    assert not any(c.flushed for c in connections)
    made.add(connections[-1])
    assert all(c.flushed == 1 for c in connections)
