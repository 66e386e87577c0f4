"""What every test needs: an interrupt that interrupts, and real programs that stay with one worker."""

import signal

import pytest

# A shell that starts this in the background hands down an ignored SIGINT; tests of Ctrl-C would then wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start one engine or install one program are of one group: workers side by side would do it twice."""
    for item in items:
        if item.get_closest_marker("consumers"):
            room = "/".join(item.nodeid.split("/")[:3])
            item.add_marker(pytest.mark.xdist_group(room))
