"""Where the experiment runs, whatever the target: variables that are someone else's."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from runtime.config.variables import OWNED

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def variables(plan: Plan) -> Iterator[Problem]:
    """``cluster.env`` sets nothing that a run depends on, and nothing that is a secret by another field."""
    spec, place = plan.spec, ("cluster", "env")
    if not spec.cluster.knows("env"):
        return
    secrets = {secret.variable: index for index, secret in enumerate(spec.secrets) if secret.knows("variable")}
    for name in spec.cluster.env:
        if OWNED.fullmatch(name):
            yield Problem(
                (*place, name),
                f"{name} is set by LiveRL or the platform itself, and a run depends on it",
                "other names, such as NCCL_DEBUG, FI_PROVIDER, HF_HOME, HTTPS_PROXY",
                "leave it out",
            )
        elif name in secrets:
            what = f"{name} is already secrets[{secrets[name]}]"
            yield Problem((*place, name), what, fix="name it in one of the two: secrets for what no file may hold")
    lower = {name.lower() for name in spec.cluster.env}
    if "no_proxy" not in lower:
        for name in spec.cluster.env:
            if name.lower() in _PROXIES:
                yield Problem(
                    (*place, name),
                    "a proxy without NO_PROXY, so that requests to the cluster's own addresses leave it too",
                    fix="set NO_PROXY to 127.0.0.1,localhost and the ranges of the cluster's pods and services",
                    severity="warn",
                )


RULES: tuple[Rule, ...] = (variables,)
