"""What every test needs: interrupts that interrupt, groups by cost, long ones first, no clock in properties."""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Where Python may not write byte code, each worker of each group would rewrite all assertions again. What tests
# import stays as it was.
_BEFORE = sys.dont_write_bytecode
sys.dont_write_bytecode = False

# How long an example takes is the machine's affair.
settings.register_profile("liverl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Before a commit half of the examples; all of them in every whole run, each time others.
settings.register_profile("check", settings.get_profile("liverl"), max_examples=50)
settings.load_profile("liverl")

# A shell that starts this in the background hands down an ignored SIGINT; tests of Ctrl-C would then wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

GROUPS = ("consumers", "network", "deep", "verl", "torch", "sandbox")
"""Marks, the costliest first: a test is of the group of its first. Without any it is of the group ``fast``. The
expressions of ``scripts/test.sh`` say the same."""
LISTS = "LIVERL_TEST_GROUPS"
"""The folder where ``scripts/test.sh`` wants to find the files of each group, and how many tests there are."""


def group_of(item: pytest.Item) -> str:
    return next((name for name in GROUPS if item.get_closest_marker(name)), "fast")


def _longest(item: pytest.Item) -> float:
    """How long it may take at most, in seconds."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.hookimpl(tryfirst=True)  # before tests of other groups are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    longest: dict[str, float] = defaultdict(float)
    files: dict[str, dict[str, None]] = {name: {} for name in (*GROUPS, "fast")}
    for item in items:
        if item.get_closest_marker("consumers"):
            # Those that start one engine or install one program are of one group: two workers would do it twice.
            item.add_marker(pytest.mark.xdist_group("/".join(item.nodeid.split("/")[:3])))
        file = item.nodeid.partition("::")[0]
        longest[file] = max(longest[file], _longest(item))
        files[group_of(item)][file] = None
    # One that begins last would have a worker to itself at the end, while the other has nothing to do.
    items.sort(key=lambda item: -longest[item.nodeid.partition("::")[0]])
    if (folder := os.environ.get(LISTS)) and os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        _write_lists(Path(folder), files, config.rootpath)
        in_order = sorted(files["consumers"], key=lambda file: -longest[file])
        _write_rooms(Path(folder, "rooms"), in_order, config.rootpath)
        # Last: who waits for the lists waits for this.
        Path(folder, "number.new").write_text(f"{len(items)}\n")
        Path(folder, "number.new").rename(Path(folder, "number"))


def _write_lists(folder: Path, files: dict[str, dict[str, None]], root: Path) -> None:
    for name, paths in files.items():
        (folder / f"{name}.files").write_text("".join(f"{root / path}\n" for path in paths))


def _write_rooms(folder: Path, files: Sequence[str], root: Path) -> None:
    """A file for each room with the paths of its tests, in the order in which rooms are begun."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for file in files:
        rooms["/".join(file.split("/")[:3])].append(file)
    folder.mkdir(exist_ok=True)
    for number, paths in enumerate(rooms.values()):
        (folder / f"{number:03}").write_text("".join(f"{root / path}\n" for path in paths))


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = _BEFORE
