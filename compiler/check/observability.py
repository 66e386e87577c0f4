"""Loggers, where Ray's dashboard listens, and who is told of a run's end."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from runtime.config.notify import WebhookNotification


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


def notify(plan: Plan) -> Iterator[Problem]:
    """An address is given once, and a secret one is a variable that targets bring to the trainer."""
    known = {secret.variable for secret in plan.spec.secrets}
    for number, one in enumerate(plan.spec.observability.notify):
        if not isinstance(one, WebhookNotification):
            continue
        place = ("observability", "notify", number)
        if (one.url is None) is (one.url_variable is None):
            what = "no address" if one.url is None else "two addresses"
            yield Problem(place, what, "one of url and url_variable")
        if one.url_variable is not None and one.url_variable not in known:
            yield Problem(
                (*place, "url_variable"),
                f"{one.url_variable} is not one of secrets, so no target brings it to the trainer",
                fix=f"add {{ variable: '{one.url_variable}', used_by: 'observability' }} to secrets",
            )


RULES: tuple[Rule, ...] = (observability, notify)
