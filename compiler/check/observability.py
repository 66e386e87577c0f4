"""Loggers, and where Ray's dashboard listens."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan


def observability(plan: Plan) -> Iterator[Problem]:
    loggers = plan.spec.observability.loggers
    if "file" not in loggers:
        yield Problem(
            ("observability", "loggers"),
            f"{', '.join(loggers)}: without file there is no metrics.jsonl, by which runs are followed and resumed",
            fix="add 'file'",
        )
    for number, logger in enumerate(loggers):
        if logger in loggers[:number]:
            yield Problem(("observability", "loggers", number), f'"{logger}" is named twice', fix="remove it")
    dashboard, proxy = plan.spec.observability.dashboard, plan.spec.proxy
    place = ("observability", "dashboard")
    if dashboard is not None and dashboard.port == proxy.port:
        yield Problem((*place, "port"), f"{dashboard.port} is the proxy's port (proxy.port)", "any other")
    if dashboard is not None and not dashboard.host.startswith("127."):
        yield Problem(
            (*place, "host"),
            f"{dashboard.host}: whoever reaches Ray's dashboard can run programs as the trainer does",
            fix="keep 127.0.0.1 and forward its port with ssh -L",
            severity="warn",
        )


RULES: tuple[Rule, ...] = (observability,)
