"""The target ``ray``: a runtime environment and a script that submits the bundle to a Ray cluster that exists already.

Knows Ray's job interface, never a cluster.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from compiler.errors import Problem
from compiler.plan import Plan
from targets import joining, pins, volumes
from targets.base import Artifact, Lowered
from targets.machines import pods_address_warning, proxy_host_problem


class RayJobs:
    name = "ray"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """The size of the cluster is its owner's matter; only what can never work is refused."""
        yield from proxy_host_problem(plan)
        yield from pods_address_warning(plan)
        yield from joining.dashboard_problems(plan)
        yield from joining.env_problems(plan)
        yield from joining.supervised_problems(plan)
        yield from volumes.problems(plan, self.name)
        yield from joining.annotation_warning(plan)
        if plan.spec.cluster.labels:
            what = "nothing carries them on this target: its nodes are someone else's"
            yield Problem(("cluster", "labels"), what, severity="warn")
        if taken := joining.taken_ports(plan, joining.RESERVED_PORTS):
            yield Problem(("proxy", "port"), f"{taken[0]} is one of Ray's own ports", "any other")

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """Ray is already running; the proxy listens where the other machines reach it."""
        runtime = lowered.runtime.copy()
        joining.open_proxy(plan, runtime)
        joining.give_env(plan, runtime)
        return Lowered(verl=joining.join_ray(lowered.verl), vllm=lowered.vllm, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import Asked, render, render_text

        spec = plan.spec
        own = Asked(
            metadata=lambda: json.dumps({"experiment": spec.name}),
            # The job's driver is told the cluster's address by Ray and hands it on under LiveRL's name.
            entrypoint=lambda: (
                f"{joining.RAY_ADDRESS}=$RAY_ADDRESS exec python -m liverl run . "
                f"--runs-dir {shlex.quote(spec.cluster.ray.runs_dir)} --resume auto"
            ),
            hub_cache=lambda: volumes.hub_cache(plan, self.name),
            secrets=lambda: " ".join(secret.variable for secret in spec.secrets),
        )
        context = {"header": joining.HEADER, "spec": spec, "cluster": spec.cluster, "own": own}
        environment = render("ray/runtime-env.yaml.j2", context, plan.reads)
        script = render_text("ray/submit.sh.j2", context, plan.reads)
        return {
            "runtime-env.yaml": Artifact(environment.text, environment.origins),
            "submit.sh": Artifact(script.text, script.origins),
        }


TARGET = RayJobs()
