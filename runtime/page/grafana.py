"""A dashboard for Grafana over what ``prometheus`` tells: the plots of the page's own table, one panel each."""

from __future__ import annotations

from typing import Any

from runtime.report.panels import PANELS, Panel

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDE, _HIGH, _PER_ROW = 8, 7, 3


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    panels: list[dict[str, Any]] = []
    row, place = 0, 0
    section = ""
    for panel in PANELS:
        if panel.section != section:
            section, row, place = panel.section, row + (_HIGH if place else 0), 0
            panels.append(
                {"type": "row", "title": section, "gridPos": {"x": 0, "y": row, "w": 24, "h": 1}, "panels": []}
            )
            row += 1
        panels.append(_plot(panel, x=place * _WIDE, y=row))
        place += 1
        if place == _PER_ROW:
            place, row = 0, row + _HIGH
    return {
        "uid": "liverl-runs",
        "title": "LiveRL runs",
        "tags": ["liverl"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "run", "type": "query", "label": "Run", "datasource": _SOURCE, "multi": True,
                    "includeAll": True, "refresh": 2, "query": "label_values(liverl_run_step, run)",
                },
            ]
        },
        "panels": [{"id": number, **panel} for number, panel in enumerate([_findings(), *_below(panels, 5)], 1)],
    }  # fmt: skip


def _findings() -> dict[str, Any]:
    query = 'liverl_lamp{run=~"$run"} == 2 or liverl_finding{run=~"$run"}'
    return {
        "type": "table",
        "title": "Lamps that say ill, and known failures",
        "datasource": _SOURCE,
        "gridPos": {"x": 0, "y": 0, "w": 24, "h": 5},
        "targets": [{"refId": "A", "expr": query, "format": "table", "instant": True, "datasource": _SOURCE}],
    }


def _below(panels: list[dict[str, Any]], lines: int) -> list[dict[str, Any]]:
    return [{**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] + lines}} for panel in panels]


def _plot(panel: Panel, *, x: int, y: int) -> dict[str, Any]:
    targets = []
    for number, line in enumerate(panel.lines):
        key = f'key=~"{line.key[:-1]}.*"' if line.key.endswith("*") else f'key="{line.key}"'
        targets.append(
            {
                "refId": chr(ord("A") + number),
                "expr": f'liverl_metric{{run=~"$run",{key}}}',
                "legendFormat": "{{run}} " + (line.label or "{{key}}"),
                "datasource": _SOURCE,
            }
        )
    scale = {"type": "log", "log": 10} if panel.log else {"type": "linear"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDE, "h": _HIGH},
        "fieldConfig": {
            "defaults": {
                "unit": {"share": "percentunit", "s": "s"}.get(panel.unit, "short"),
                "custom": {"scaleDistribution": scale},
            },
            "overrides": [],
        },
        "targets": targets,
    }


def main() -> None:
    """Print it."""
    import json

    print(json.dumps(dashboard(), indent=1))


if __name__ == "__main__":
    main()
