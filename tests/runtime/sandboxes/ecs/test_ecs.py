"""ECS tasks against moto's server for the API; what a task would run runs here, in a bubblewrap box."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.config import Bubblewrap, Ecs, EcsCluster, Images
from runtime.errors import Termination, TrialError
from runtime.grading.make import make_verifier
from runtime.oci import store as stores
from runtime.oci.build import import_layout
from runtime.oci.merged import merge
from runtime.oci.store import ImageStore
from runtime.sandboxes import bwrap, make_provider
from runtime.sandboxes.base import Capabilities, SandboxRequest
from runtime.sandboxes.ecs import EcsProvider
from runtime.sandboxes.ecs.definition import definition, size
from runtime.sandboxes.ecs.provider import death
from runtime.task import Task, load_task
from tests.oci_images import busybox, image
from tests.runtime.oci.conftest import FaultyRegistry, faulty
from tests.runtime.scaffolds.shell_trials import both_tool_sets_are_paid
from tests.runtime.sets.imported import TOY, cache_in, imported, unpacked
from tests.runtime.suites.projects import NODE, UNITTEST, Project
from tests.toolbox import python_tools, require_command

from ..conftest import CALC, needs_bubblewrap

pytest.importorskip("boto3", reason="pip install boto3")
__all__ = ["faulty"]

SETTINGS = EcsCluster(
    cluster="boxes",
    image="registry.example/box:1",
    region="eu-central-1",
    subnets=("subnet-1",),
    security_groups=("sg-1",),
    proxy_host="127.0.0.1",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Moto:
    """moto's server, and the containers of its tasks."""

    def __init__(self, url: str, settings: EcsCluster, volumes: Path) -> None:
        import boto3

        self.volumes = volumes

        self.url = url
        self.settings = settings
        self.ecs = boto3.client("ecs", region_name=settings.region, endpoint_url=url)
        self.boxes: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self.tree: Path | None = None
        """The files of the image that a task brings; ECS starts its container once the receiver has ended well."""

    def post(self, path: str, body: dict[str, Any] | None = None) -> None:
        data = json.dumps(body or {}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=30).close()

    def network(self) -> None:
        """Every account has a default network."""
        import boto3

        ec2 = boto3.client("ec2", region_name=self.settings.region, endpoint_url=self.url)
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.settings = self.settings.model_copy(update={"subnets": (subnet,), "security_groups": (group,)})

    def pin(self) -> None:
        """Without this, every look at a task moves it on towards its end."""
        transition = {"progression": "manual", "times": 100_000}
        self.post("/moto-api/state-manager/set-transition", {"model_name": "ecs::task", "transition": transition})

    async def address(self, task: Any) -> tuple[str, int]:
        """Runs the container of a task, once, the way its definition says."""
        arn = task["taskArn"]
        described = self.ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
        containers = described["containerDefinitions"]
        given = {one["name"]: one["environment"] for one in task["overrides"]["containerOverrides"]}
        if arn not in self.boxes:
            self.boxes[arn] = self.run(containers[0], given, arn)
        elif len(containers) > 1 and (ended := self.boxes[arn][0].poll()) is not None:
            (condition,) = containers[1]["dependsOn"]
            assert (condition, ended) == ({"containerName": containers[0]["name"], "condition": "SUCCESS"}, 0)
            del containers[0]
            self.boxes[arn + "/0"] = self.boxes[arn]
            self.boxes[arn] = self.run(containers[0], given, arn)
        return "127.0.0.1", self.boxes[arn][1]

    def run(self, container: Any, given: Any, arn: str) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        own = self.tree if container["name"] == "sandbox" and container.get("dependsOn") else None
        env = {"PATH": bwrap.PATH, **({} if own else bwrap._interpreter())}
        for one in (*container.get("environment", ()), *given[container["name"]]):
            env[one["name"]] = one["value"]
        env |= {"LIVERL_AGENT_PORT": str(port), "LIVERL_AGENT_HOST": "127.0.0.1"}
        arguments = ["bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent"]
        if own is not None:
            own = shutil.copytree(own, self.volumes / arn.rpartition("/")[2] / "root", symlinks=True)
        arguments += bwrap.root_arguments() if own is None else ["--bind", str(own), "/"]
        for folder in ("/tmp", "/app", "/logs", "/opt/liverl", "/tests") if own is None else ():
            arguments += ["--tmpfs", folder]
        for mount in container.get("mountPoints", ()):
            volume = self.volumes / arn.rpartition("/")[2] / mount["sourceVolume"]
            volume.mkdir(parents=True, exist_ok=True)
            arguments += ["--ro-bind" if mount.get("readOnly") else "--bind", str(volume), mount["containerPath"]]
        arguments += ["--proc", "/proc", "--dev", "/dev", "--chdir", "/", *container["command"]]
        return subprocess.Popen(arguments, env=env), port

    def close(self) -> None:
        for process, _ in self.boxes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    tools = python_tools("moto")
    port = free_port()
    command = [str(tools / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def moto(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Moto]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    made = Moto(server, SETTINGS.model_copy(update={"endpoint_url": server}), tmp_path / "volumes")
    made.post("/moto-api/reset")
    made.network()
    made.pin()
    made.ecs.create_cluster(clusterName="boxes")
    yield made
    made.close()


def play(moto: Moto, body: Callable[[EcsProvider], Coroutine[Any, Any, Any]]) -> None:
    async def main() -> None:
        provider = EcsProvider(moto.settings, run="run-1", address=moto.address)
        try:
            await body(provider)
        finally:
            await provider.close()

    asyncio.run(main())
    running = moto.ecs.list_tasks(cluster="boxes", desiredStatus="RUNNING")["taskArns"]
    assert running == [], "tasks that nobody stopped"


@pytest.mark.consumers
@pytest.mark.sandbox
@needs_bubblewrap
class TestTasks:
    def test_a_box_from_start_to_stop(self, moto: Moto, box_request: SandboxRequest) -> None:
        async def body(provider: EcsProvider) -> None:
            box = await provider.start(box_request)
            described = moto.ecs.describe_tasks(cluster="boxes", tasks=[box.arn], include=["TAGS"])["tasks"][0]
            tags = {tag["key"]: tag["value"] for tag in described.get("tags", ())}
            assert tags["liverl/run"] == "run-1" and tags["liverl/owner"] and tags["liverl/ttl"] == "3600"
            result = await box.exec(["sh", "-c", "cat; pwd; exit 3"], stdin=b"in\0", timeout_sec=30)
            assert (result.exit_code, result.stdout) == (3, b"in\0/app\n")
            with pytest.raises(TimeoutError):
                await box.exec(["sleep", "60"], timeout_sec=1)
            big = os.urandom(9 << 20)
            await box.upload({"/app/big": big})
            assert (await box.download(["/app/big"]))["/app/big"] == big
            second = await provider.start(box_request)
            await second.stop()
            assert len(moto.ecs.list_task_definitions()["taskDefinitionArns"]) == 1

        play(moto, body)

    def test_a_box_of_an_image_without_libc_or_python(
        self, moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        require_command("busybox", package="busybox-static")
        monkeypatch.setattr(stores, "default_store", lambda: tmp_path / "store")
        store = ImageStore()
        made = image(
            [busybox(), {"w/later": b"a commit\n"}], layout=tmp_path / "layout", Env=["PATH=/bin"], WorkingDir="/w"
        )
        own = import_layout(tmp_path / "layout", store, reference=f"registry.example/own@{made.digest}")
        moto.tree = tmp_path / "tree"
        merge([store.layer(one) for one in own.folders], "/", moto.tree)
        (tmp_path / "cleaned").mkdir()
        (tmp_path / "cleaned" / "word").write_text("old\n")  # what the image has there is not to be seen
        request = SandboxRequest(name="own", lower=tmp_path / "cleaned", workdir="/w", root=own)

        async def body(provider: EcsProvider) -> None:
            box = await provider.start(request)
            listed = moto.ecs.describe_tasks(cluster="boxes", tasks=[box.arn])["tasks"][0]["taskDefinitionArn"]
            definition = moto.ecs.describe_task_definition(taskDefinition=listed)["taskDefinition"]
            images = [one["image"] for one in definition["containerDefinitions"]]
            assert images == [moto.settings.image, own.reference]
            result = await box.exec(["sh", "-c", "cat; pwd; cat word; echo new >word"], stdin=b"in\0", timeout_sec=30)
            assert (result.exit_code, result.stdout) == (0, b"in\0/w\nold\n"), result.stderr
            with pytest.raises(TimeoutError):
                await box.exec(["sleep", "60"], timeout_sec=1)
            assert await box.download(["/w"]) == {"/w/word": b"new\n"}

        play(moto, body)

    def test_a_verdict(self, moto: Moto, task: Task) -> None:
        async def body(provider: EcsProvider) -> None:
            settings = Bubblewrap(verifier_timeout_sec=60, agent_timeout_sec=60)
            verifier = make_verifier(settings, provider)
            for sign, reward in (("+", 1.0), ("-", 0.0)):
                verdict = await verifier.grade(task, {"/app/calc.py": CALC.format(sign).encode()})
                assert verdict.reward == reward

        play(moto, body)

    @pytest.mark.parametrize("project", [UNITTEST, NODE], ids=lambda project: project.runner)
    def test_a_verdict_by_another_runner(self, moto: Moto, project: Project, tmp_path: Path) -> None:
        """What each trial's record would say of it, and what a run may not require."""
        task = load_task(project.write(tmp_path / "calc"))
        forged = project.forged["makes every assertion pass"]
        given = {"fresh_sandbox", "memory_limit", "agent_killed", "declared_artifacts", "host_verdict", "canary"}

        async def body(provider: EcsProvider) -> None:
            verifier = make_verifier(Bubblewrap(verifier_timeout_sec=60), provider)
            for text, status in ((project.text(*project.right), "solved"), (forged.encode(), "tampered")):
                verdict = await verifier.grade(task, {f"/app/{project.source}": text})
                assert verdict.status == status, verdict.raw
                assert set(verdict.defences) == given | {"tests_restored", "report_nonce", "ecs+fargate"}
            strict = make_verifier(Bubblewrap(required_defences=("solution_user",)), provider)
            with pytest.raises(TrialError, match="required defences not to be had: solution_user"):
                await strict.grade(task, {})

        play(moto, body)

    def test_a_verdict_by_the_log_of_a_set(
        self,
        moto: Moto,
        faulty: FaultyRegistry,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """R2E's, whose images hold the tests: they are taken out of the box, and other repositories with them."""
        require_command("busybox", package="busybox-static")
        cache_in(tmp_path / "cache", monkeypatch)
        where = Images(plaintext_registries=(faulty.host,), mirrors={"docker.io": faulty.host})
        task = imported(("r2e",), tmp_path, faulty, Ecs(ecs=moto.settings, images=where)).tasks["r2e"]
        moto.tree = unpacked(task, tmp_path / "tree")
        assert len(task.work.hidden) == 4 and all((moto.tree / place[1:]).exists() for place in task.work.hidden)
        looks = f"{TOY.right}\nimport os\nassert not any(map(os.path.lexists, {task.work.hidden}))\n"

        async def body(provider: EcsProvider) -> None:
            verifier = make_verifier(Bubblewrap(verifier_timeout_sec=120), provider)
            verdict = await verifier.grade(task, {f"/testbed/{TOY.module}": looks.encode()})
            assert (verdict.status, set(verdict.outcomes.values())) == ("solved", {"passed"}), verdict.raw
            assert {"canary", "host_verdict", "tests_restored"} < set(verdict.defences)

        play(moto, body)

    def test_the_built_in_agent_runs_tests_in_its_box(self, moto: Moto, tmp_path: Path) -> None:
        async def body(provider: EcsProvider) -> None:
            environment = Ecs(ecs=moto.settings, verifier_timeout_sec=60, agent_timeout_sec=60)
            await both_tool_sets_are_paid(tmp_path, environment, provider=provider)

        play(moto, body)

    def test_a_box_that_ended_and_a_token_that_is_wrong(self, moto: Moto, box_request: SandboxRequest) -> None:
        async def body(provider: EcsProvider) -> None:
            box = await provider.start(box_request)
            box._token = "guessed"
            with pytest.raises(TrialError, match="403"):
                await box.exec(["true"], timeout_sec=10)
            moto.ecs.stop_task(cluster="boxes", task=box.arn, reason="spot interruption")
            moto.boxes[box.arn][0].kill()
            moto.boxes[box.arn][0].wait()
            with pytest.raises(TrialError, match="spot interruption") as caught:
                await box.exec(["true"], timeout_sec=10)
            assert caught.value.termination is Termination.SANDBOX_LOST

        play(moto, body)

    def test_an_answer_that_was_lost_makes_no_second_task(
        self, moto: Moto, box_request: SandboxRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def body(provider: EcsProvider) -> None:
            real = provider._aws

            async def lossy(operation: str, **arguments: Any) -> dict[str, Any]:
                answer = await real(operation, **arguments)
                if operation == "run_task":
                    raise TrialError(Termination.ENV_SETUP_FAILED, "ECS run_task: read timeout")
                return answer

            monkeypatch.setattr(provider, "_aws", lossy)
            box = await provider.start(box_request)
            assert moto.ecs.list_tasks(cluster="boxes")["taskArns"] == [box.arn]

        play(moto, body)


@pytest.mark.parametrize(
    ("task", "termination"),
    [
        ({"lastStatus": "RUNNING"}, None),
        (None, Termination.SANDBOX_LOST),
        (
            {
                "lastStatus": "STOPPED",
                "containers": [{"reason": "OutOfMemoryError: Container killed", "exitCode": 137}],
            },
            Termination.OUT_OF_MEMORY,
        ),
        ({"lastStatus": "STOPPED", "stoppedReason": "CannotPullContainerError: not found"}, Termination.SANDBOX_LOST),
        ({"lastStatus": "DEPROVISIONING", "stopCode": "SpotInterruption"}, Termination.SANDBOX_LOST),
    ],
)
def test_why_a_task_ended(task: dict[str, Any] | None, termination: Termination | None) -> None:
    error = death(task, "x")
    assert (error.termination if error else None) == termination


def test_sizes_that_fargate_offers() -> None:
    small = SETTINGS.model_copy(update={"cpus": 0.25})
    assert size(small, 300) == (256, 512)
    assert size(small, 1500) == (256, 2048)
    assert size(small, 3000) == (512, 3072)
    assert size(SETTINGS, 512) == (1024, 2048)
    assert size(SETTINGS.model_copy(update={"launch_type": "EC2"}), 300) == (1024, 300)
    with pytest.raises(ValueError, match="no task of"):
        size(SETTINGS, 1 << 20)


def test_a_definition_is_named_by_what_it_holds() -> None:
    first, same = definition(SETTINGS, 1024), definition(SETTINGS, 1025)
    other = definition(SETTINGS.model_copy(update={"image": "registry.example/box:2"}), 1024)
    assert first["family"] == same["family"] != other["family"]


def test_capabilities_and_the_front_door(tmp_path: Path) -> None:
    provider = make_provider(Ecs(ecs=SETTINGS), state=tmp_path)
    assert provider.capabilities == Capabilities(
        isolation="ecs",
        task_images=True,
        network_off=False,
        fresh_filesystem=True,
        memory_limit=True,
        cpu_limit=True,
        second_user=True,
        made_by="ecs+fargate",
    )
    asyncio.run(provider.close())
