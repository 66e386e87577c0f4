"""The circuit breaker against a plain model of its three states."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.rollouter.breaker import Breaker, BreakerSettings, Health


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_one_attempt_decides() -> None:
    clock = Clock()
    breaker = Breaker(BreakerSettings(failures=3, pause_sec=1, longest_pause_sec=3), clock)
    assert [breaker.failed(), breaker.failed()] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(), breaker.failed(), breaker.failed()] == [False, False, True]
    assert breaker.health is Health.OPEN and not breaker.admits()
    for pause in (1, 2, 3, 3):
        clock.now += pause - 0.01
        assert not breaker.admits()
        clock.now += 0.02
        assert breaker.health is Health.HALF_OPEN and breaker.admits()
        breaker.started()
        assert not breaker.admits(), "one attempt at a time"
        breaker.failed()
        breaker.ended()
        assert breaker.health is Health.OPEN
    clock.now += 4
    breaker.started()
    assert breaker.succeeded()
    breaker.ended()
    assert breaker.health is Health.CLOSED and breaker.admits()


def test_an_attempt_that_was_cancelled_leaves_the_place_to_another() -> None:
    clock = Clock()
    breaker = Breaker(BreakerSettings(failures=1), clock)
    breaker.failed()
    clock.now += 2
    breaker.started()
    breaker.ended()
    assert breaker.admits()


def test_what_is_gone_comes_back_by_a_health_check_alone() -> None:
    clock = Clock()
    breaker = Breaker(BreakerSettings(), clock)
    assert breaker.failed(certain=True)
    clock.now += 1e6
    assert breaker.health is Health.OPEN and not breaker.admits()
    assert breaker.answered() and breaker.health is Health.CLOSED
    for _ in range(3):
        breaker.failed()
    assert not breaker.answered(), "that it answers does not excuse the calls it failed"
    assert breaker.health is Health.OPEN


@given(st.lists(st.sampled_from(["start", "end", "good", "bad", "gone", "answer", "wait"]), max_size=60))
def test_no_call_starts_while_it_is_open_and_it_never_stays_so_for_ever(steps: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(BreakerSettings(failures=2, pause_sec=1, longest_pause_sec=4), clock)
    for step in steps:
        if step == "start" and breaker.admits():
            assert breaker.health is not Health.OPEN
            breaker.started()
        elif step == "end":
            breaker.ended()
        elif step == "good":
            breaker.succeeded()
            assert breaker.health is Health.CLOSED
        elif step in ("bad", "gone"):
            before = breaker.health
            opened = breaker.failed(certain=step == "gone")
            assert opened == (before is Health.CLOSED and breaker.health is Health.OPEN)
        elif step == "answer":
            breaker.answered()
        else:
            clock.now += 1.5
    breaker.ended()
    breaker.answered()
    clock.now += 4.1
    assert breaker.admits()
