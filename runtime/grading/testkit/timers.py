"""How long one test may take: so much of the processor's time, and several times as long on the clock.

Time that other programs take from a busy machine is not the test's, and a test that waits or sleeps is not an endless
loop. What runs in a child process, or in the process of the code under test, is limited by the clock alone here.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

CLOCK_PER_CPU = 4.0
_AGAIN_SEC = 0.1  # timers repeat: code under test may swallow the first


class TestTimeout(BaseException):
    """One test ran out of its time; no Exception, so that ``except Exception`` in the code under test lets it by."""


def start(cpu_sec: float, *, clock_sec: float | None = None) -> None:
    """``TestTimeout`` is raised in the main thread after so much time of the processor or, by default, four times as
    much on the clock."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _on_end)
    signal.setitimer(signal.ITIMER_PROF, cpu_sec, _AGAIN_SEC)
    signal.setitimer(signal.ITIMER_REAL, CLOCK_PER_CPU * cpu_sec if clock_sec is None else clock_sec, _AGAIN_SEC)


def stop() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _on_end(number: int, frame: FrameType | None) -> None:
    raise TestTimeout("the test ran out of time")
