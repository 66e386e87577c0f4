"""How much slower this machine is now for what else it does: limits on the clock are multiplied by it.

Limits that decide about a mutant count the processor's time; those on the clock only end what hangs, and must not end
what waits for its turn.
"""

from __future__ import annotations

import os


def patience() -> float:
    """At least 1: programs that want a processor, for each processor that there is."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
