"""What Prometheus is told, and the dashboard for Grafana that asks for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from runtime.page import grafana
from runtime.page.library import Library
from runtime.page.prometheus import render
from tests.runtime.page.made import HOSTILE, make_run

DOCS = Path(__file__).parents[3] / "docs"
LINE = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\} (\S+)')


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    run = make_run(tmp_path, experiment=f'odd "{HOSTILE[:3]}\\', lr=0.0)
    library = Library(tmp_path)
    found = {}
    for line in render(library.runs()).splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            labels = re.sub(r'experiment="(?:[^"\\]|\\.)*",', "", match[2])
            found[match[1], labels.replace(f'run="{run.path.name}"', "").strip(",")] = float(match[3])
    library.close()
    last = json.loads(run.metrics.read_bytes().splitlines()[-1])["data"]
    assert found["liverl_run_step", ""] == 4 and found["liverl_run_total_steps", ""] == 10
    for key in ("critic/score/mean", "actor/entropy", "timing_s/step"):
        assert found["liverl_metric", f'key="{key}"'] == last[key]
    assert found["liverl_lamp", 'lamp="learning rate"'] == 2
    assert found["liverl_finding", 'rule="lr-zero"'] == 1


def test_the_dashboard_in_the_docs_is_the_generated_one() -> None:
    made = grafana.dashboard()
    assert json.loads((DOCS / "grafana.json").read_text()) == made, "python -m runtime.page.grafana > docs/grafana.json"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len(set(places)) == len(places)
    names = {
        match
        for panel in made["panels"]
        for target in panel.get("targets", [])
        for match in re.findall(r"liverl_\w+", target["expr"])
    }
    assert names == {"liverl_metric", "liverl_lamp", "liverl_finding"}
