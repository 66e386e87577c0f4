"""A run on a cluster that loses a machine: it waits until there is another and goes on from its newest checkpoint, so
that an eviction costs the steps in flight and no retry of the platform's.

Needs the number of machines (``LIVERL_RAY_NODES``), which the launch knows; without it a loss ends the run as any
failure does. Knows Ray's words for a lost machine, not why it was lost.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from runtime.errors import RunError
from runtime.trainer.joined_ray import ADDRESS

log = logging.getLogger(__name__)

NODES = "LIVERL_RAY_NODES"
MOST = 50
"""Losses in a row without a new step, after which it is no longer taken for bad luck."""
_LOST = re.compile(
    r"NodeDiedError|its node has died|node has been marked dead|[Nn]ode with node id:? \w+ .*has been marked dead"
    r"|owner's node has (?:died|crashed)|Task was killed due to the node .*dying"
    # The head's: its service ends with it.
    r"|Failed to connect to GCS within \d+ seconds"
)
_WAIT = """import sys, time, ray
while True:
    try:
        ray.init(address=sys.argv[1], logging_level="ERROR")
        break
    except (ConnectionError, RuntimeError):
        time.sleep(5)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(5)
"""


class MachineLost(RunError):
    """The trainer ended because a machine of its cluster did."""


def lost_machine(text: str) -> bool:
    """Whether the trainer's log ``text`` says so."""
    return _LOST.search(text) is not None


def train_through(
    train: Callable[[bool], None],
    *,
    resume: bool,
    progress: Callable[[], int],
    wait: Callable[[str, int], None] | None = None,
) -> None:
    """``train(resume)`` to its end, again after every ``MachineLost`` where the number of machines is known.

    ``progress`` counts the steps that are done. Raises what ``train`` raises for other reasons."""
    address, nodes, losses = os.environ.get(ADDRESS), os.environ.get(NODES, ""), 0
    done = progress()
    while True:
        try:
            return train(resume)
        except MachineLost as error:
            losses = 1 if progress() > done else losses + 1
            if address is None or not nodes.isdigit() or losses > MOST:
                raise
            log.warning("%s; waiting until the cluster has %s machines again", error, nodes)
        done = progress()
        (wait or wait_for_nodes)(address, int(nodes))
        resume = True


def wait_for_nodes(address: str, count: int) -> None:
    """Return when ``count`` machines of the Ray cluster live; its owner's deadline ends the wait."""
    subprocess.run([sys.executable, "-c", _WAIT, address, str(count)], cwd=Path("/"), check=False)
