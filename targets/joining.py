"""What targets share that run a bundle inside a Ray cluster which somebody else started. Knows no manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping

from compiler import readers
from compiler.bundle import lock_text
from compiler.compiled import VERSION
from compiler.errors import Problem
from compiler.facts import Facts
from compiler.plan import Plan
from compiler.spec.experiment import Dashboard
from targets import pins

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
PROXY_PORT = 8790
"""Where the proxy listens for other machines, unless the spec says."""
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


def supervised_problems(plan: Plan) -> list[Problem]:
    """The stage before reinforcement is trained where the run's own process is: on these targets it has no GPU."""
    if plan.supervised is None:
        return []
    what = "the supervised stage runs on the target local or docker alone"
    fix = "train it there with schedule.steps 0, and name its result as policy.path"
    return [Problem(("policy", "warm_start"), what, "null", fix)]


def env_problems(plan: Plan) -> list[Problem]:
    """Variables that travel to a running Ray's workers arrive as they are, or are refused."""
    return [
        Problem(("cluster", "env", name), f"{json.dumps(value, ensure_ascii=False)}: {why}", fix="write it out")
        for name, value in plan.spec.cluster.env.items()
        if (why := readers.ray_env(value))
    ]


def annotation_warning(plan: Plan) -> list[Problem]:
    """Where nothing carries ``cluster.annotations``."""
    if not plan.spec.cluster.annotations:
        return []
    what = "nothing carries them on this target: they are the pods' of k8s"
    return [
        Problem(("cluster", "annotations"), what, fix="leave them out where they are not only for k8s", severity="warn")
    ]


def give_env(plan: Plan, runtime: Facts) -> None:
    """The trainer's variables, for the runtime to hand on where nothing is inherited."""
    runtime.replace("env", lambda: plan.spec.cluster.env, why="of every process of the trainer")


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


def proxy_port(plan: Plan) -> int:
    """Where other machines reach the proxy: a port that is known before it listens."""
    return plan.spec.proxy.port or PROXY_PORT


AGENT_LOOP_RESOURCE = "liverl_agent_loop"
"""Of Ray's nodes that several agent-loop workers shall run on, where the spec names no resource."""
AGENT_LOOP_PLACES = json.dumps({AGENT_LOOP_RESOURCE: 1024})
"""What such a node offers, for ``ray start``: as many as a spec may have workers. Their cpus bound how many it gets."""


def proxy_ports(plan: Plan) -> range:
    """Those of several agent-loop workers, one each, wherever they run."""
    return range(proxy_port(plan), proxy_port(plan) + plan.spec.rollout.agent_loop.workers)


HEAD_SLOTS = 16
"""Slots for actors of a head that computes nothing itself."""


def workers_slots(plan: Plan) -> int:
    """Of them, what several agent-loop workers reserve there."""
    loop = plan.spec.rollout.agent_loop
    return math.ceil(loop.workers * loop.cpus) if loop.workers > 1 else 0


def taken_ports(plan: Plan, taken: Collection[int]) -> list[int]:
    """Ports that the proxies would find taken, or beyond the last."""
    return [port for port in proxy_ports(plan) if port in taken or port > 65535]


def resource_problems(plan: Plan, *offered: str) -> list[Problem]:
    """Of the machines of a Ray that is ours nobody else names resources: workers would wait for them for ever."""
    loop = plan.spec.rollout.agent_loop
    if loop.workers == 1 or loop.resource in (None, *offered):
        return []
    what = f"{loop.resource}, which no machine of this target offers"
    fix = "on the target ray the cluster's nodes may offer it"
    return [Problem(("rollout", "agent_loop", "resource"), what, " or ".join(("null", *offered)), fix)]


def place_workers(plan: Plan, runtime: Facts, *, wanted: Callable[[], bool], why: str) -> None:
    """Several agent-loop workers take ``AGENT_LOOP_RESOURCE`` where it is ``wanted`` and the spec names no other."""

    def resource() -> str | None:
        loop = plan.spec.rollout.agent_loop
        return AGENT_LOOP_RESOURCE if loop.workers > 1 and loop.resource is None and wanted() else loop.resource

    runtime.split("rollout.agent_loop")
    runtime.replace("rollout.agent_loop.resource", resource, why=why)


def fake_gpus(plan: Plan) -> int:
    """verl places its ranks on GPUs; on machines without they are only tokens."""
    return plan.placed_ranks if plan.spec.trainer.device == "cpu" else 0


def open_proxy(plan: Plan, runtime: Facts) -> None:
    """Let the proxy listen where other machines reach it."""
    runtime.split("proxy")
    runtime.replace("proxy.host", lambda: "0.0.0.0", why="reached from other machines")
    runtime.replace("proxy.port", lambda: proxy_port(plan), why="known to other machines")


def lock_of(plan: Plan, files: Mapping[str, str], *, target: str) -> str:
    """The lock of the smallest bundle that runs, for targets that copy it somewhere. ``files``: its configuration."""
    return lock_text(
        files,
        entry=plan.spec.name,
        sources={},
        experiment=plan.spec.name,
        target=target,
        pins=pins.of(plan),
        version=VERSION,
    )
