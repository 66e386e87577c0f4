"""The target ``ray``: a runtime environment and a script that submits the bundle to a Ray cluster that exists already.

Knows Ray's job interface, never a cluster.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from compiler.errors import Problem
from compiler.plan import Plan
from targets import joining, pins
from targets.base import Artifact, Lowered
from targets.machines import pods_address_warning, proxy_host_problem

PROXY_PORT = 8790


class RayJobs:
    name = "ray"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """The size of the cluster is its owner's matter; only what can never work is refused."""
        yield from proxy_host_problem(plan)
        yield from pods_address_warning(plan)
        yield from joining.dashboard_problems(plan)
        port = plan.spec.proxy.port
        if port in joining.RESERVED_PORTS:
            yield Problem(("proxy", "port"), f"{port} is one of Ray's own ports", "any other")

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """Ray is already running; the proxy listens where the other machines reach it."""
        return Lowered(
            verl=joining.join_ray(lowered.verl),
            vllm=lowered.vllm,
            runtime=joining.open_proxy(lowered.runtime, port=plan.spec.proxy.port or PROXY_PORT),
        )

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import render, render_text

        context = {
            "header": joining.HEADER,
            "metadata": json.dumps({"experiment": plan.spec.name}),
            # The job's driver is told the cluster's address by Ray and hands it on under LiveRL's name.
            "entrypoint": f"{joining.RAY_ADDRESS}=$RAY_ADDRESS exec python -m liverl run . "
            f"--runs-dir {shlex.quote(plan.spec.cluster.ray.runs_dir)} --resume auto",
            "ray": plan.spec.cluster.ray,
            "secrets": [secret.variable for secret in plan.spec.secrets],
        }
        environment = render("ray/runtime-env.yaml.j2", context)
        script = render_text("ray/submit.sh.j2", context)
        return {
            "runtime-env.yaml": Artifact(environment.text, environment.origins),
            "submit.sh": Artifact(script.text, script.origins),
        }


TARGET = RayJobs()
