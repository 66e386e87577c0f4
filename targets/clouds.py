"""What SkyPilot's clouds differ in, as data: the parts of a task that one of them would refuse or pass over.

Read from SkyPilot 0.14.1 (``sky/clouds``); a test holds it against the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.errors import Problem
from compiler.plan import Plan


@dataclass(frozen=True)
class Cloud:
    spot: bool
    """Has interruptible machines."""
    zones: bool
    """Has zones that a task may name."""
    stops: bool
    """Ends idle machines by itself."""
    label: str | None
    """What its labels look like, ``KEY=VALUE``; None: it passes over them."""


CLOUDS = {
    "aws": Cloud(spot=True, zones=True, stops=True, label=r"(?!aws:)\S{1,127}=\S{0,255}"),
    "azure": Cloud(spot=True, zones=True, stops=True, label=r"[^<>%&?/\\=]{1,512}=.{0,256}"),
    "gcp": Cloud(spot=True, zones=True, stops=True, label=r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}"),
    "kubernetes": Cloud(
        spot=True, zones=False, stops=False, label=r"([a-z0-9][-a-z0-9.]*/)?[a-z0-9]([-a-z0-9_.]*[a-z0-9])?=.*"
    ),
    "lambda": Cloud(spot=False, zones=False, stops=True, label=None),
}


def name_of(infra: str) -> str:
    return infra.partition("/")[0]


def of(plan: Plan) -> Cloud:
    return CLOUDS[name_of(plan.spec.cluster.skypilot.infra)]


def problems(plan: Plan) -> Iterator[Problem]:
    sky, place = plan.spec.cluster.skypilot, ("cluster", "skypilot")
    name, cloud = name_of(sky.infra), of(plan)
    if sky.spot and not cloud.spot:
        yield Problem((*place, "spot"), f"{name} has no interruptible machines", "false")
    if name == "kubernetes" and sky.spot:
        what = "true, which SkyPilot takes only from a cluster that labels its interruptible nodes"
        yield Problem((*place, "spot"), what, severity="warn")
    if not cloud.zones and name != "kubernetes" and sky.infra.count("/") > 1:
        yield Problem((*place, "infra"), f"{sky.infra} names a zone, and {name} has none", f"{name}/REGION")
    for key, value in plan.spec.cluster.labels.items():
        if cloud.label is None:
            what = f"{name} has no labels: nothing there carries it"
            yield Problem(("cluster", "labels", key), what, fix="leave it out", severity="warn")
        elif not re.fullmatch(cloud.label, f"{key}={value}"):
            yield Problem(
                ("cluster", "labels", key), f"{value}: {name} takes no such label", f"KEY=VALUE as {cloud.label}"
            )
