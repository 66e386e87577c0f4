"""Boxes as pods that really run, through the official client over HTTP and websockets."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config import KubernetesCluster
from runtime.errors import MachineError, Termination, TrialError
from runtime.sandboxes.base import Mount, Sandbox, SandboxRequest
from runtime.sandboxes.kubernetes import pods, status

from .conftest import Stage, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]


def test_a_box_from_start_to_stop(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        box = await stage.provider.start(box_request)
        assert isinstance(box, Sandbox) and isinstance(box, Sandbox)
        pod = stage.cluster.pods[box.pod]
        labels = pod["metadata"]["labels"]
        assert labels["liverl/run"] == "run-1" and labels["liverl/owner"] and labels["liverl/ttl"] == "3600"
        result = await box.exec(
            ["sh", "-c", 'cat; pwd; echo "$A"; echo no >&2; exit 7'],
            env={"A": "x y'\n$B"},
            stdin=b"in\0",
            timeout_sec=20,
        )
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"in\0/app\nx y'\n$B\n", b"no\n")
        assert (
            await box.exec(["python3", "-c", "import calc; print(calc.double(3))"], timeout_sec=20)
        ).stdout == b"0\n"
        assert (await box.exec(["no-such-program"], timeout_sec=20)).exit_code == 127
        assert (await box.exec(["true"], cwd="/nowhere", timeout_sec=20)).exit_code in (2, 126)
        assert (await box.exec(["sh", "-c", "kill -15 $$"], timeout_sec=20)).exit_code == -15
        assert (
            len((await box.exec(["head", "-c", "9999999", "/dev/zero"], timeout_sec=20, max_output=1000)).stdout)
            == 1000
        )
        assert (await box.exec(["touch", "/usr/x"], timeout_sec=20)).exit_code != 0
        await box.stop()
        await box.stop()
        with pytest.raises(TrialError) as caught:
            await box.exec(["true"], timeout_sec=20)
        assert caught.value.termination is Termination.SANDBOX_LOST

    stage.play(body)


def test_pods_say_which_phase_they_are_and_how_images_are_cached(box_request: SandboxRequest) -> None:
    """The namespace's NetworkPolicies go by the phase: only agents reach the model."""
    settings = KubernetesCluster(image="box:1", image_pull_policy="Never")
    for forward, phase in ((("127.0.0.1", 1), "agent"), (None, "verifier")):
        pod = pods.manifest(replace(box_request, forward=forward), settings, run="run-1", owner="me")
        assert pod["metadata"]["labels"]["liverl/phase"] == phase
        assert pod["spec"]["containers"][0]["imagePullPolicy"] == "Never"


def test_an_image_brings_the_agent(stage: Stage, box_request: SandboxRequest, tmp_path: Path) -> None:
    """It is not uploaded, it can be run and not be written to, and an image with another agent is told of."""
    (tmp_path / "agent").write_text("echo agent\n")
    (tmp_path / "image").mkdir()
    shown = (Mount(tmp_path / "agent", "/opt/agent/run.sh", image="agents:1"), Mount(tmp_path / "agent", "/opt/own/x"))

    async def body() -> None:
        stage.cluster.agents["agents:1"] = tmp_path / "image"
        request = replace(box_request, mounts=shown)
        with pytest.raises(MachineError, match=r"agents:1 does not hold this run's agent: /opt/agent/run\.sh"):
            await stage.provider.start(request)
        (tmp_path / "image" / "run.sh").write_text("echo agent\n")
        box = await stage.provider.start(request)
        assert (await box.exec(["sh", "/opt/agent/run.sh"], timeout_sec=20)).stdout == b"agent\n"
        assert (await box.exec(["sh", "/opt/own/x"], timeout_sec=20)).stdout == b"agent\n"
        assert (await box.exec(["touch", "/opt/agent/x"], timeout_sec=20)).exit_code != 0
        (carrier,) = stage.cluster.pods[box.pod]["spec"]["initContainers"]
        assert carrier["image"] == "agents:1"
        assert carrier["securityContext"]["readOnlyRootFilesystem"] is True
        verifier = await stage.provider.start(replace(box_request, forward=None))
        assert "initContainers" not in stage.cluster.pods[verifier.pod]["spec"]

    stage.play(body)


def test_an_agent_image_that_cannot_be_pulled_is_said() -> None:
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "agents:1: not found"}}
    pod = {"status": {"phase": "Pending", "initContainerStatuses": [{"name": "agent", "state": waiting}]}}
    assert "agents:1: not found" in str(status.never_starts(pod))


def test_a_long_environment_is_no_address(stage: Stage, box_request: SandboxRequest) -> None:
    """Commands are part of the request's address, which servers and proxies limit; a scaffold's settings are long."""

    async def body() -> None:
        box = await stage.provider.start(box_request)
        result = await box.exec(["sh", "-c", 'printf %s "$A" | wc -c'], env={"A": "x" * 100_000}, timeout_sec=20)
        assert result.stdout.strip() == b"100000"
        assert max(len(path) for _, path in stage.cluster.requests) < 4096

    stage.play(body)


def test_a_timeout_kills_the_command_with_its_daemons(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        box = await stage.provider.start(box_request)
        with pytest.raises(TimeoutError):
            await box.exec(["sh", "-c", "setsid sleep 4711 & sleep 4712"], timeout_sec=1)
        listed = await box.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], timeout_sec=20)
        assert b"sleep 471" not in listed.stdout.replace(b"cat /proc", b"")

    stage.play(body)


def test_a_daemon_that_holds_the_pipes_does_not_hang_a_command(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> float:
        box = await stage.provider.start(box_request)
        began = time.monotonic()
        assert (await box.exec(["sh", "-c", "sleep 60 & echo done"], timeout_sec=30)).stdout == b"done\n"
        return time.monotonic() - began

    assert stage.play(body) < 20


def test_files_both_ways(stage: Stage, box_request: SandboxRequest, tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "run.sh").write_text("echo tool\n")

    async def body() -> None:
        mounts = (Mount(tmp_path / "tool", "/opt/liverl/tool"),)
        box = await stage.provider.start(SandboxRequest(name="files", lower=box_request.lower, mounts=mounts))
        assert (await box.exec(["sh", "/opt/liverl/tool/run.sh"], timeout_sec=20)).stdout == b"tool\n"
        await box.upload({"/app/a b/c": b"1", "/app/run": b"#!/bin/sh\necho ran\n", "/app/empty": b""}, mode=0o755)
        assert (await box.exec(["./run"], timeout_sec=20)).stdout == b"ran\n"
        script = "ln -s /etc/passwd link; mkfifo pipe; ln calc.py hard; ln -s /etc dir; echo x > '-n'"
        assert (await box.exec(["sh", "-c", script], timeout_sec=20)).exit_code == 0
        found = await box.download(["/app", "/nowhere"])
        assert {"/app/a b/c", "/app/run", "/app/empty", "/app/calc.py", "/app/hard", "/app/-n"} <= set(found)
        assert found["/app/a b/c"] == b"1" and found["/app/hard"] == found["/app/calc.py"]
        assert not {name for name in found if "link" in name or "pipe" in name or name.startswith("/app/dir")}
        assert await box.download(["/nowhere"]) == {}
        with pytest.raises(TrialError):
            await box.download(["/app"], max_bytes=20)
        with pytest.raises(TrialError):
            await box.upload({"/app/../../x": b""})

    stage.play(body)


@pytest.mark.parametrize("cuts", [0, 3])
def test_a_hundred_megabytes_survive(stage: Stage, box_request: SandboxRequest, cuts: int) -> None:
    """Also when connections break on the way: a part that was cut is sent again."""
    size = 100 << 20 if cuts == 0 else 20 << 20
    big = os.urandom(1 << 20) * (size >> 20)

    async def body() -> None:
        box = await stage.provider.start(box_request)
        stage.cluster.exec_cuts = cuts
        await box.upload({"/app/big": big, "/app/small": b"s"})
        stage.cluster.exec_cuts = cuts
        found = await box.download(["/app/big"], max_bytes=200 << 20)
        assert found == {"/app/big": big}
        assert (await box.exec(["sh", "-c", "ls -A /tmp | grep liverl-"], timeout_sec=20)).stdout == b""

    stage.play(body)


def test_many_boxes_share_one_watch(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        async def one(number: int) -> bytes:
            request = SandboxRequest(name=f"box {number}", lower=box_request.lower)
            box = await stage.provider.start(request)
            out = (await box.exec(["sh", "-c", f"echo {number}"], timeout_sec=60)).stdout
            await box.stop()
            return out

        assert await asyncio.gather(*(one(n) for n in range(8))) == [f"{n}\n".encode() for n in range(8)]
        watches = [path for method, path in stage.cluster.requests if "watch=" in path]
        assert len(watches) == 1

    stage.play(body)


def test_the_manifest(box_request: SandboxRequest) -> None:
    from runtime.config import KubernetesCluster

    settings = KubernetesCluster(
        image="x:1",
        namespace="boxes",
        image_pull_secrets=("registry",),
        runtime_class="gvisor",
        node_selector={"pool": "cpu"},
        active_deadline_sec=60,
    )
    pod = pods.manifest(box_request, settings, run="r", owner="o")
    spec, box = pod["spec"], pod["spec"]["containers"][0]
    assert spec["imagePullSecrets"] == [{"name": "registry"}] and spec["runtimeClassName"] == "gvisor"
    assert spec["activeDeadlineSeconds"] == 60 and spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and box["securityContext"]["readOnlyRootFilesystem"]
    assert box["resources"]["limits"]["memory"] == "1024Mi"
    # Asked for nothing, a scheduler sets the whole limit aside, and a node's disk is spoken for by a few boxes.
    assert set(box["resources"]["requests"]) == set(box["resources"]["limits"])
    assert box["resources"]["requests"]["ephemeral-storage"] == "256Mi"
    paths = [mount["mountPath"] for mount in box["volumeMounts"]]
    assert "/app" in paths and len(paths) == len(set(paths))
    whole = pods.manifest(box_request, KubernetesCluster(image="x:1", user=None), run="r", owner="o")
    assert whole["spec"]["volumes"] == [] and "runAsUser" not in whole["spec"]["securityContext"]


@pytest.mark.parametrize("name", ["1/a-b/0", "-" * 80, "ÄÖÜ", "x" * 300, "a__b..c"])
def test_names_and_labels_are_admissible(name: str) -> None:
    import re

    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", pods.pod_name(name))
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?", pods.label(name))
