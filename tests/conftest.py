"""What every test needs: interrupts that interrupt, programs that stay with one worker, no clock in properties."""

import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# Where Python may not write byte code, each worker of each group would rewrite all assertions again. What tests
# import stays as it was.
_BEFORE = sys.dont_write_bytecode
sys.dont_write_bytecode = False

# How long an example takes is the machine's affair.
settings.register_profile("liverl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("liverl")

# A shell that starts this in the background hands down an ignored SIGINT; tests of Ctrl-C would then wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start one engine or install one program are of one group: workers side by side would do it twice."""
    for item in items:
        if item.get_closest_marker("consumers"):
            room = "/".join(item.nodeid.split("/")[:3])
            item.add_marker(pytest.mark.xdist_group(room))


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = _BEFORE
