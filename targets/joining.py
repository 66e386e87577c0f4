"""What targets share that run a bundle inside a Ray cluster which somebody else started. Knows no manifest."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.bundle import LOCK, lock_text
from compiler.compiled import VERSION
from compiler.errors import Problem
from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.experiment import Dashboard

RAY_ADDRESS = "LIVERL_RAY_ADDRESS"
"""Variable that names the cluster to the trainer. Not Ray's own RAY_ADDRESS: a stray one must not capture a local
run."""
LOCAL_RAY = (
    "num_cpus",
    "num_gpus",
    "object_store_memory",
    "include_dashboard",
    "dashboard_host",
    "dashboard_port",
    "_temp_dir",
)
"""Arguments that start a Ray on this machine; a job on a cluster finds one running."""
CONFIGURATION = ("runtime.json", "verl.yaml", "vllm.yaml")
"""Files that a run reads."""
RESERVED_PORTS = (6379, 8080, 8265, 10001, 52365)
"""Ray's own, as KubeRay and ``ray start`` set them: GCS, metrics, dashboard, client, agent."""
HEADER = "Compiled by LiveRL. Change the spec, not this file."


def dashboard_problems(plan: Plan) -> list[Problem]:
    """A Ray that runs has its dashboard where its owner put it."""
    dashboard = plan.spec.observability.dashboard
    if dashboard is None:
        return []
    return [
        Problem(
            ("observability", "dashboard", field),
            f"{value}, but the cluster that runs has its dashboard at an address of its own",
            str(default),
            "leave it out",
        )
        for field, value, default in (("host", dashboard.host, Dashboard().host), ("port", dashboard.port, 8265))
        if value != default
    ]


def join_ray(verl: Facts) -> Facts:
    """verl's configuration with the running cluster in place of a Ray of its own."""
    joined = verl.copy()
    for argument in LOCAL_RAY:
        joined.drop(f"ray_kwargs.ray_init.{argument}")
    joined.decide(
        "ray_kwargs.ray_init.address",
        f"${{oc.env:{RAY_ADDRESS},auto}}",
        "the cluster that runs when the trainer starts",
    )
    return joined


def open_proxy(runtime: Facts, *, port: int) -> Facts:
    """The runtime's configuration with the proxy listening where other machines reach it."""
    opened = runtime.copy()
    proxy = dict(runtime["proxy"].value)  # type: ignore[arg-type]
    opened.replace("proxy", {**proxy, "host": "0.0.0.0", "port": port}, "proxy", why="reached from other machines")
    return opened


def carried(plan: Plan, files: Mapping[str, str], *, target: str, pins: Mapping[str, str]) -> dict[str, str]:
    """The smallest bundle that runs: the configuration and a lock over it, for targets that copy it somewhere."""
    configuration = {name: files[name] for name in CONFIGURATION}
    lock = lock_text(
        configuration,
        entry=plan.spec.name,
        sources={},
        experiment=plan.spec.name,
        target=target,
        pins=pins,
        version=VERSION,
    )
    return {**configuration, LOCK: lock}
