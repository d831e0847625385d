from allocator.instances.crashes import FAILURES, WINDOW_S, CrashGuard, CrashLoop
from overlay.names import ServiceName

KEY = (ServiceName("hello"), 1)


def test_a_service_that_keeps_failing_is_refused_with_the_last_reason() -> None:
    guard = CrashGuard()
    for n in range(FAILURES):
        assert guard.refusal(KEY, now=n) is None
        guard.failed(KEY, now=n, reason=f"reason {n}")
    text = guard.refusal(KEY, now=FAILURES)
    assert text is not None
    assert text.endswith(f"the last time: reason {FAILURES - 1}")
    assert guard.refusal((ServiceName("hello"), 2), now=FAILURES) is None


def test_it_may_start_again_when_the_oldest_failure_is_out_of_the_window() -> None:
    guard = CrashGuard()
    for n in range(FAILURES):
        guard.failed(KEY, now=10 + n, reason="")
    assert guard.refusal(KEY, now=10 + WINDOW_S - 0.1) is not None
    assert guard.refusal(KEY, now=10 + WINDOW_S) is None
    guard.failed(KEY, now=10 + WINDOW_S, reason="")
    assert guard.refusal(KEY, now=10 + WINDOW_S) is not None


def test_few_failures_are_no_reason_to_refuse() -> None:
    guard = CrashGuard()
    for n in range(FAILURES - 1):
        guard.failed(KEY, now=n, reason="")
    assert guard.refusal(KEY, now=FAILURES) is None
    guard.failed(KEY, now=FAILURES, reason="")


def test_a_revision_that_nobody_starts_any_more_is_forgotten() -> None:
    guard = CrashGuard()
    newer = (KEY[0], 2)
    for key in (KEY, newer):
        for n in range(FAILURES):
            guard.failed(key, now=n, reason="")
    guard.forget(KEY[0], below=2)
    assert [(loop.service, loop.revision) for loop in guard.loops(now=FAILURES)] == [newer]
    guard.forget(KEY[0], below=None)
    assert guard.loops(now=FAILURES) == []


def test_what_fails_is_shown_with_its_count_its_last_reason_and_its_next_try() -> None:
    guard = CrashGuard()
    guard.failed(KEY, now=0, reason="first")
    guard.failed(KEY, now=5, reason="second")
    assert guard.loops(now=5) == [CrashLoop(*KEY, 2, "second", 0)]
    for n in range(FAILURES - 2):
        guard.failed(KEY, now=10 + n, reason="last")
    assert guard.loops(now=20) == [CrashLoop(*KEY, FAILURES, "last", WINDOW_S - 20)]
    assert guard.loops(now=12 + WINDOW_S) == []
