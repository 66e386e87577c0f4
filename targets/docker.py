"""The target ``docker``: one Compose service on one machine, and the Dockerfile of the image that every target runs.

Sandboxes live on another Docker host, reached with mutual TLS: this machine's own Docker socket is never mounted,
whoever holds it is root. Knows Compose's words, never a daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compiler.errors import Problem
from compiler.plan import Plan
from targets import joining, pins
from targets.base import Artifact, Lowered
from targets.machines import gpu_problem, proxy_host_problem, shm_problems

PROXY_PORT = 8790


class Docker:
    name = "docker"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """What one machine cannot hold, and which sandboxes a container cannot make."""
        spec = plan.spec
        yield from proxy_host_problem(plan)
        yield from shm_problems({"head": spec.cluster.head})
        yield from gpu_problem(
            plan,
            there=spec.cluster.head.gpus,
            place=("cluster", "head", "gpus"),
            holder="the machine holds",
            fix="or use a target with several machines: skypilot, k8s or ray",
        )
        if spec.trainer.nodes > 1:
            yield Problem(
                ("trainer", "nodes"),
                f"{spec.trainer.nodes} machines, but Compose starts one",
                "1",
                "use the target skypilot, k8s or ray",
            )
        dashboard, elsewhere = spec.observability.dashboard, spec.cluster.docker.sandbox_host is not None
        if dashboard is not None and elsewhere and dashboard.port == _proxy_port(plan):
            what = f"{dashboard.port} is the proxy's port"
            yield Problem(("observability", "dashboard", "port"), what, "any other")
        kind = str(spec.environment.type)
        if kind == "bubblewrap":
            yield Problem(
                ("environment", "type"),
                '"bubblewrap" needs user namespaces, which Docker denies to containers; '
                "trials then run without isolation",
                fix="set require_isolation to refuse instead",
                severity="warn",
            )
        if kind == "docker" and spec.cluster.docker.sandbox_host is None:
            yield Problem(
                ("cluster", "docker", "sandbox_host"),
                "null, but sandboxes are containers, and this machine's socket is never mounted",
                "tcp://HOST:2376",
            )

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """As ``local``, but for where the dashboard listens, and the proxy when sandboxes are elsewhere."""
        verl, runtime = lowered.verl, lowered.runtime
        if plan.spec.observability.dashboard is not None:
            verl = verl.copy()
            why = "inside the container; Compose publishes it where the spec says"
            verl.replace("ray_kwargs.ray_init.dashboard_host", "0.0.0.0", why=why)
        if plan.spec.cluster.docker.sandbox_host is not None:
            runtime = joining.open_proxy(runtime, port=_proxy_port(plan))
        return Lowered(verl=verl, vllm=lowered.vllm, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import render, render_text

        context = self._context(plan)
        compose = render("docker/compose.yaml.j2", context)
        image = render_text("docker/Dockerfile.j2", context)
        return {
            "compose.yaml": Artifact(compose.text, compose.origins),
            "Dockerfile": Artifact(image.text, image.origins),
        }

    def _context(self, plan: Plan) -> dict[str, Any]:
        spec, pinned = plan.spec, self.pins(plan)
        return {
            "header": joining.HEADER,
            "experiment": spec.name,
            "cluster": spec.cluster,
            "secrets": spec.secrets,
            "image": spec.cluster.image,
            "machine": spec.cluster.head,
            "docker": spec.cluster.docker,
            "proxy_port": _proxy_port(plan),
            "dashboard": spec.observability.dashboard,
            "python": pinned["python"],
            "cuda": spec.trainer.device == "cuda",
            "requirements": pins.requirements(pinned),
        }


def _proxy_port(plan: Plan) -> int:
    return plan.spec.proxy.port or PROXY_PORT


TARGET = Docker()
