"""The target ``docker``: one Compose service on one machine, and the Dockerfile of the image that every target runs.

Sandboxes live on another Docker host, reached with mutual TLS: this machine's own Docker socket is never mounted,
whoever holds it is root. Knows Compose's words, never a daemon.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from compiler import readers
from compiler.errors import Problem
from compiler.plan import Plan
from compiler.spec.cluster import Resources
from runtime.config.environment import Docker as Engine
from runtime.config.environment import Ecs, Harbor
from runtime.config.environment import Kubernetes as Pods
from targets import joining, pins, volumes
from targets.base import Artifact, Lowered
from targets.cuda_set import CUDA_COMPILER, FLASH_ATTENTION, OVERRIDES
from targets.docker_seccomp import profile
from targets.machines import gpu_problem, pods_address_warning, proxy_host_problem, shm_problems

SECCOMP = "seccomp.json"
SOURCE = (
    *("pyproject.toml", "README.md", "LICENSE"),
    *("compiler", "liverl", "runtime", "specs", "targets", "templates"),
)
"""What LiveRL is built of."""


class Docker:
    name = "docker"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """What one machine cannot hold, and which sandboxes a container cannot make."""
        spec = plan.spec
        machine, place = _machine(plan)
        yield from proxy_host_problem(plan)
        yield from pods_address_warning(plan)
        yield from shm_problems({place: machine})
        yield from gpu_problem(
            plan,
            machines=[machine.gpus],
            place=(*place, "gpus"),
            holder="the machine holds",
            fix="or use a target with several machines: skypilot, k8s or ray",
        )
        yield from _engine_problems(plan)
        yield from volumes.problems(plan, self.name)
        yield from joining.annotation_warning(plan)
        yield from joining.resource_problems(plan)
        if lacking := pins.not_in_image(plan):
            what = f'"{spec.trainer.type}", and the image of this bundle\'s Dockerfile has no {", ".join(lacking)}'
            fix = "build an image with them on it and name that in cluster.image"
            yield Problem(("trainer", "type"), what, fix=fix, severity="warn")
        if spec.trainer.nodes > 1:
            yield Problem(
                ("trainer", "nodes"),
                f"{spec.trainer.nodes} machines, but Compose starts one",
                "1",
                "use the target skypilot, k8s or ray",
            )
        dashboard = spec.observability.dashboard
        if dashboard is not None and _open(plan) and dashboard.port in joining.proxy_ports(plan):
            what = f"{dashboard.port} is the proxy's port"
            yield Problem(("observability", "dashboard", "port"), what, "any other")

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """As ``local``, but for where the dashboard listens, and the proxy when sandboxes are elsewhere."""
        verl, runtime = lowered.verl.copy(), lowered.runtime.copy()
        with verl.section():
            if plan.spec.observability.dashboard is not None:
                why = "inside the container; Compose publishes it where the spec says"
                verl.replace("ray_kwargs.ray_init.dashboard_host", lambda: "0.0.0.0", why=why)
        joining.give_env(plan, runtime)
        with runtime.section():
            if _open(plan):
                joining.open_proxy(plan, runtime)
        return replace(lowered, verl=verl, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import Asked, render, render_text

        spec = plan.spec
        own = Asked(
            machine=lambda: _machine(plan)[0],
            kubeconfig=lambda: _kubeconfig(plan),
            open=lambda: _open(plan),
            proxy_ports=lambda: _port_range(joining.proxy_ports(plan)),
            python=lambda: pins.python(plan),
            cuda=lambda: spec.trainer.device == "cuda",
            requirements=lambda: pins.requirements(pins.of(plan)),
            overrides=lambda: pins.requirements(OVERRIDES) if spec.trainer.device == "cuda" else [],
            flash_attention=lambda: FLASH_ATTENTION if pins.flash_attention(plan) else None,
            compiler=lambda: pins.requirements(CUDA_COMPILER),
            architectures=lambda: pins.architectures(plan),
            extras=lambda: pins.extras(plan),
            system=lambda: pins.system(plan),
            npm=lambda: pins.npm(plan),
            source=lambda: SOURCE,
            seccomp=lambda: SECCOMP if _makes_boxes(plan) else None,
            dockerfile=lambda: f"${{LIVERL_DOCKERFILE:-build/{spec.name}/{self.name}/Dockerfile}}",
            node=lambda: pins.NODE,
            weights=lambda: volumes.mounted_weights(plan, self.name),
            hub_cache=lambda: volumes.hub_cache(plan, self.name),
        )
        context = {"header": joining.HEADER, "spec": spec, "cluster": spec.cluster, "own": own}
        compose = render("docker/compose.yaml.j2", context, plan.reads)
        image = render_text("docker/Dockerfile.j2", context, plan.reads)
        made = {
            "compose.yaml": Artifact(compose.text, compose.origins),
            "Dockerfile": Artifact(image.text, image.origins),
        }
        if _makes_boxes(plan):
            text = profile()
            made[SECCOMP] = Artifact(text, dict.fromkeys(json.loads(text), ("environment.type",)))
        return made


def _port_range(ports: range) -> str:
    """As Compose writes one."""
    return f"{ports[0]}-{ports[-1]}" if len(ports) > 1 else str(ports[0])


def _machine(plan: Plan) -> tuple[Resources, tuple[str, ...]]:
    """What the container gets, and the field that says so."""
    cluster = plan.spec.cluster
    if cluster.docker.machine is not None:
        return cluster.docker.machine, ("cluster", "docker", "machine")
    return cluster.head, ("cluster", "head")


def _makes_boxes(plan: Plan) -> bool:
    """Whether sandboxes are made inside of the container, by bubblewrap."""
    return plan.spec.environment.type == "bubblewrap"


def _open(plan: Plan) -> bool:
    """Whether sandboxes reach the proxy from outside of this machine."""
    environment = plan.spec.environment
    return plan.spec.cluster.docker.sandbox_host is not None or isinstance(environment, Pods | Ecs | Harbor)


def _kubeconfig(plan: Plan) -> str | None:
    environment = plan.spec.environment
    kubeconfig = environment.kubernetes.kubeconfig if isinstance(environment, Pods) else None
    return kubeconfig and readers.compose(kubeconfig)


def _engine_problems(plan: Plan) -> list[Problem]:
    """Who makes the sandboxes, as seen from inside the container."""
    environment, docker = plan.spec.environment, plan.spec.cluster.docker
    problems = []
    if isinstance(environment, Pods) and not (environment.kubernetes.kubeconfig or "").startswith("/"):
        what = f"{environment.kubernetes.kubeconfig or 'null'}, but the container sees no file that is not mounted"
        place = ("environment", "kubernetes", "kubeconfig")
        problems.append(Problem(place, what, "the absolute path of a file on this machine; Compose mounts it"))
    if not isinstance(environment, Engine):
        return problems
    if docker.sandbox_host is None:
        problems.append(
            Problem(
                ("cluster", "docker", "sandbox_host"),
                "null, but sandboxes are containers, and this machine's socket is never mounted",
                "tcp://HOST:2376",
            )
        )
    if environment.docker_host not in (None, docker.sandbox_host):
        what = f"{environment.docker_host}, but the container is given cluster.docker.sandbox_host"
        problems.append(Problem(("environment", "docker_host"), what, "null"))
    if environment.docker_certificates is not None:
        what = f"{environment.docker_certificates} is no folder of the container, which is given cluster.docker's"
        problems.append(Problem(("environment", "docker_certificates"), what, "null"))
    return problems


TARGET = Docker()
