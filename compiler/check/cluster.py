"""Where the experiment runs, whatever the target: names that are someone else's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from runtime.config.variables import OWNED

_OWN_MARKS = re.compile(
    r"(liverl|ray\.io|volcano\.sh)/.+|kueue\.x-k8s\.io/(queue-name|priority-class)"
    r"|cluster-autoscaler\.kubernetes\.io/safe-to-evict|karpenter\.sh/do-not-disrupt"
)
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


def marks(plan: Plan) -> Iterator[Problem]:
    """``cluster.labels`` and ``annotations`` change none by which LiveRL, KubeRay or a queue find what is theirs."""
    for field in ("labels", "annotations"):
        if not plan.spec.cluster.knows(field):
            continue
        for key in getattr(plan.spec.cluster, field):
            if _OWN_MARKS.fullmatch(key):
                yield Problem(
                    ("cluster", field, key),
                    f"{key} is set by LiveRL or KubeRay itself",
                    fix="leave it out; cluster.queue and cluster.priority have fields of their own",
                )


RULES: tuple[Rule, ...] = (variables, marks)
