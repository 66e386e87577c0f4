"""What shells complete beside commands and options: runs by name. Knows the folder of all runs, nothing of shells."""

from __future__ import annotations

import os
from pathlib import Path


def complete_run(incomplete: str) -> list[str]:
    """Runs below the folder of all runs (``LIVERL_RUNS_DIR``) that begin so, the newest first, and ``last``."""
    from runtime.suggest import RUNS_DIR

    folder = Path(os.environ.get(RUNS_DIR) or "runs")
    found = sorted((path.parent for path in folder.glob("*/*/run.json")), key=lambda path: path.name, reverse=True)
    names = ["last", *(f"{path.parent.name}/{path.name}" for path in found), *(path.name for path in found)]
    return [name for name in names if name.startswith(incomplete)]
