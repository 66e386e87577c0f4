"""Makes the pictures of the page in ``docs/pictures/`` from a real run, with Debian's Chromium.

    python -m scripts.screenshots RUN_DIR [STEP/TRIAL]

Without a trial, the newest that was solved in several turns is shown.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlencode

from runtime.page.library import Run
from tests.runtime.page.browser import Watched, chromium, served

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WIDTH = 1360
HEIGHTS = {"overview": 1250, "trial": 860}
READY = {"overview": "#panel-reward canvas", "trial": "#turns details"}


def main(run: Path, trial: str | None) -> None:
    """Write one picture for each view of ``READY``."""
    shown = Run(run.resolve())
    step, _, name = (trial or _solved(shown)).partition("/")
    queries = {"overview": {}, "trial": {"step": step, "id": name}}
    FOLDER.mkdir(exist_ok=True)
    with served(shown.directory.path) as address, chromium() as browser:
        for view, ready in READY.items():
            page = Watched(browser, viewport={"width": WIDTH, "height": HEIGHTS[view]}, color_scheme="light").page
            page.goto(f"{address}#/{view}?{urlencode({'run': shown.name, **queries[view]})}")
            page.wait_for_selector(ready)
            page.wait_for_timeout(500)  # plots are drawn after the page is laid out
            page.screenshot(path=FOLDER / f"{view}.png")
            page.close()


def _solved(run: Run) -> str:
    rows = run.trials({"verdict": "solved", "sort": "step", "size": "500"})["rows"]
    best = max(rows, key=lambda row: min(row["model_calls"] or 0, 12))
    return f"{best['step']}/{best['trial_id']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
