"""The target ``skypilot``: one task file for machines of a cloud, with Ray across them, for SkyPilot's managed jobs.

Knows SkyPilot's task format (checked against the version in ``pins``), never an account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler import readers
from compiler.errors import Path, Problem
from compiler.plan import Plan
from compiler.spec.volumes import BucketFolder
from targets import clouds, joining, pins, volumes
from targets.base import Artifact, Lowered
from targets.machines import gpu_problem, image_warnings

_IMAGE_GIB = 40
_OTHERS_PORTS = {
    6379: "the job's Ray",
    6380: "SkyPilot's own Ray",
    8266: "SkyPilot's own dashboard",
}


class SkyPilot:
    name = "skypilot"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return {**pins.of(plan), "skypilot": pins.SKYPILOT}

    def check(self, plan: Plan) -> Iterator[Problem]:
        """What these machines cannot hold, and what spot machines lose."""
        spec = plan.spec
        cluster, sky = spec.cluster, spec.cluster.skypilot
        if why := readers.skypilot(spec.name):
            yield Problem(("name",), f'"{spec.name}" {why}', "at most two in a row")
        if cluster.worker.gpus and sky.accelerator is None and sky.instance_type is None:
            yield Problem(
                ("cluster", "skypilot", "accelerator"),
                f"null, but each machine shall have {cluster.worker.gpus} GPUs",
                "the catalogue's name, for example H100",
            )
        if sky.nodes < spec.trainer.nodes:
            yield Problem(
                ("cluster", "skypilot", "nodes"),
                f"{sky.nodes}, but the trainer needs {spec.trainer.nodes} machines",
                f">= {spec.trainer.nodes}",
            )
        machines, place = [cluster.worker.gpus] * sky.nodes, ("cluster", "worker", "gpus")
        yield from gpu_problem(plan, machines=machines, place=place, holder="the machines hold")
        if sky.spot and cluster.storage.bucket is None:
            yield Problem(
                ("cluster", "storage", "bucket"),
                "null: an interrupted machine takes its checkpoints with it and the job begins again",
                "s3://BUCKET/PATH",
                severity="warn",
            )
        if taken := joining.taken_ports(plan, {*joining.RESERVED_PORTS, *_OTHERS_PORTS}):
            what = f"{taken[0]} is taken by {_OTHERS_PORTS.get(taken[0], 'Ray')}"
            yield Problem(("proxy", "port"), what, "any other")
        dashboard = spec.observability.dashboard
        others = {**_OTHERS_PORTS, **dict.fromkeys(joining.proxy_ports(plan), "the proxy")}
        if dashboard is not None and dashboard.port in others:
            what = f"{dashboard.port} is taken by {others[dashboard.port]}"
            yield Problem(("observability", "dashboard", "port"), what, "any other, for example 8265")
        if spec.rollout.agent_loop.workers > 1 and sky.nodes > 1:
            yield Problem(
                ("rollout", "agent_loop", "workers"),
                f"{spec.rollout.agent_loop.workers} on the head's machine alone: run directories reach the other "
                "machines too late for them",
                fix="take k8s or ray, whose machines share a volume, to spread them",
                severity="warn",
            )
        yield from joining.env_problems(plan)
        yield from joining.supervised_problems(plan)
        yield from joining.resource_problems(plan, joining.AGENT_LOOP_RESOURCE)
        yield from volumes.problems(plan, self.name)
        yield from _bucket_problems(plan)
        yield from _disk_problems(plan)
        yield from clouds.problems(plan)
        yield from joining.annotation_warning(plan)
        yield from image_warnings(cluster.image)

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """The task's script has started Ray; the proxy listens where the other machines reach it."""
        runtime = lowered.runtime.copy()
        joining.open_proxy(plan, runtime)
        joining.give_env(plan, runtime)
        joining.place_workers(plan, runtime, wanted=lambda: True, why="the head's machine alone has it")
        return Lowered(verl=joining.join_ray(lowered.verl), vllm=lowered.vllm, runtime=runtime)

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        from targets.render import Asked, render, render_text

        spec = plan.spec
        own = Asked(
            fake_gpus=lambda: joining.fake_gpus(plan),
            head_slots=lambda: joining.HEAD_SLOTS + joining.workers_slots(plan),
            agent_loop_resource=lambda: joining.AGENT_LOOP_PLACES,
            address_variable=lambda: joining.RAY_ADDRESS,
            weights=lambda: volumes.mounted_weights(plan, self.name),
            stops=lambda: clouds.of(plan).stops,
            labels=lambda: clouds.of(plan).label is not None,
            hub_cache=lambda: volumes.hub_cache(plan, self.name),
        )
        context = {"header": joining.HEADER, "spec": spec, "cluster": spec.cluster, "own": own}
        script = render_text("skypilot/run.sh.j2", context, plan.reads)
        task = render("skypilot/task.sky.yaml.j2", {**context, "script": script.text}, plan.reads)
        # Without an ignore file of its own SkyPilot takes that of the repository, which leaves build/ out.
        return {
            "task.sky.yaml": Artifact(task.text, {**task.origins, **script.within("run")}),
            ".skyignore": Artifact("# The whole bundle travels.\n", {}),
        }


def _bucket_problems(plan: Plan) -> Iterator[Problem]:
    """SkyPilot refuses to mount a folder of a bucket, of Azure's it forgets the folder; what it copies may be one."""
    cluster = plan.spec.cluster
    mounted: list[tuple[Path, str, str]] = []
    if cluster.storage.bucket is not None:
        fix = "leave the folder out: runs lie in one of their experiment's name"
        mounted.append((("cluster", "storage", "bucket"), cluster.storage.bucket, fix))
    for index, volume in enumerate(cluster.volumes):
        if isinstance(volume.source, BucketFolder):
            fix = "leave the folder out: it is found below mount_path"
            mounted.append((("cluster", "volumes", index, "source", "url"), volume.source.url, fix))
    for place, url, fix in mounted:
        scheme, _, rest = url.partition("://")
        parts = rest.strip("/").split("/")
        whole = 2 if scheme == "https" else 1
        if len(parts) > whole:
            allowed = f'"{scheme}://{"/".join(parts[:whole])}"'
            yield Problem(place, f"{url}: SkyPilot mounts whole buckets, no folder of one", allowed, fix)


def _disk_problems(plan: Plan) -> list[Problem]:
    """Weights of a bucket are copied to the machine's disk, beside the image and Ray's own files."""
    disk, size, weights = plan.spec.cluster.skypilot.disk_gib, volumes.weights_gib(plan), plan.spec.cluster.weights
    if volumes.mounted_weights(plan, "skypilot") is None or size is None or weights is None:
        return []
    # A hub's cache names each file by a link, for which object storage has another copy.
    size *= 2 if weights.layout == "hub" else 1
    if disk >= size + _IMAGE_GIB:
        return []
    what = f"{disk}, but the weights take {size} GiB of it, and image and logs some {_IMAGE_GIB}"
    return [Problem(("cluster", "skypilot", "disk_gib"), what, f">= {size + _IMAGE_GIB}")]


TARGET = SkyPilot()
