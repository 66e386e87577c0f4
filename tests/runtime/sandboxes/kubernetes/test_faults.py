"""What goes wrong in clusters ends as its typed failure, or is not noticed at all; nothing is left behind."""

import asyncio

import pytest

from runtime.config import KubernetesCluster
from runtime.errors import MachineError, Termination, TrialError
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.fair_queue import FairQueue
from runtime.sandboxes.kubernetes import KubernetesProvider, api, provider, watch
from runtime.sandboxes.kubernetes.provider import PodSandbox
from runtime.sandboxes.pool import PooledProvider

from .cluster import Fault
from .conftest import Stage, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]

EAT = ["python3", "-c", "x = [bytearray(b'1' * (8 << 20)) for _ in range(60)]; import time; time.sleep(60)"]


async def failure(awaitable) -> TrialError:
    with pytest.raises(TrialError) as caught:
        await awaitable
    return caught.value


def test_out_of_memory_is_not_a_failed_command(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        small = SandboxRequest(name="small", lower=box_request.lower, memory_mib=192)
        box = await stage.provider.start(small)
        killed = await box.exec(["sh", "-c", "kill -9 $$"], timeout_sec=30)
        assert killed.exit_code == -9
        error = await failure(box.exec(EAT, timeout_sec=60))
        assert error.termination is Termination.OUT_OF_MEMORY and error.handling.retry and not error.handling.grade

    stage.play(body)


def test_eviction_during_a_command(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        box = await stage.provider.start(box_request)
        running = asyncio.ensure_future(box.exec(["sleep", "60"], timeout_sec=90))
        await asyncio.sleep(1)
        await stage.cluster.evict(box.pod)
        error = await failure(running)
        assert error.termination is Termination.SANDBOX_LOST and "evicted" in str(error)

    stage.play(body)


def test_a_pod_deleted_by_others_and_one_past_its_deadline(stage: Stage, box_request: SandboxRequest) -> None:
    stage.changes["active_deadline_sec"] = 30

    async def body() -> None:
        box, late = await asyncio.gather(stage.provider.start(box_request), stage.provider.start(box_request))
        api, _ = await stage.provider.connected()
        await api.delete(box.pod)
        error = await failure(box.exec(["true"], timeout_sec=20))
        assert error.termination is Termination.SANDBOX_LOST
        error = await failure(late.exec(["sleep", "90"], timeout_sec=100))
        assert error.termination is Termination.SANDBOX_LOST and "deadline" in str(error)

    stage.play(body)


def test_a_missing_image_fails_at_once_and_a_busy_registry_is_waited_for(
    stage: Stage, box_request: SandboxRequest
) -> None:
    stage.changes["image"] = "registry.example/other:1"

    async def body() -> None:
        error = await failure(stage.provider.start(box_request))
        assert error.termination is Termination.ENV_SETUP_FAILED and "not found" in str(error)
        answers = ["toomanyrequests: 429 Too Many Requests"] * 3
        stage.cluster.images.add("registry.example/other:1")
        stage.cluster.pull_error = lambda image: answers.pop() if answers else None
        box = await stage.provider.start(box_request)
        assert (await box.exec(["true"], timeout_sec=20)).exit_code == 0 and not answers

    stage.play(body)


def test_no_room_within_the_startup_deadline(stage: Stage, box_request: SandboxRequest) -> None:
    stage.changes["startup_deadline_sec"] = 1.0
    stage.cluster.pull_error = lambda image: "429 Too Many Requests"

    async def body() -> None:
        error = await failure(stage.provider.start(box_request))
        assert error.termination is Termination.ENV_SETUP_FAILED
        assert ("within 1 s" in str(error) and "429" in str(error)) or "Back-off" in str(error)

    stage.play(body)


def test_a_server_that_falters(stage: Stage, box_request: SandboxRequest) -> None:
    """500s, 429 with Retry-After, an answer lost after the pod was made, a cut watch, forgotten versions."""
    stage.cluster.faults = [
        Fault("POST", "/pods$", 429, headers={"Retry-After": "1"}),
        Fault("POST", "/pods$", 500),
        Fault("POST", "/pods$", 0, after=True),
        Fault("GET", "/pods$", 500, times=2, query="watch"),
        Fault("GET", "/exec$", 429, headers={"Retry-After": "0"}),
        Fault("GET", "/exec$", 500),
        Fault("DELETE", "/pods/", 503),
    ]

    async def body() -> None:
        box = await stage.provider.start(box_request)
        assert len(stage.cluster.pods) == 1, "the repeated creation made a second pod"
        assert (await box.exec(["echo", "1"], timeout_sec=30)).stdout == b"1\n"
        stage.cluster.forget()
        stage.cluster.cut_watches()
        other = await stage.provider.start(box_request)
        _, watch = await stage.provider.connected()
        assert (await other.exec(["echo", "2"], timeout_sec=30)).stdout == b"2\n"
        await stage.cluster.evict(other.pod)
        assert (await failure(other.exec(["true"], timeout_sec=30))).termination is Termination.SANDBOX_LOST
        assert watch.watches >= 2
        await box.stop()
        assert not [fault for fault in stage.cluster.faults if fault.times]

    stage.play(body)


def test_a_command_whose_end_is_lost_is_never_run_again(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        box = await stage.provider.start(box_request)
        stage.cluster.exec_cuts = 1
        error = await failure(box.exec(["sh", "-c", "echo x >> /app/count"], timeout_sec=30))
        assert error.termination is Termination.SANDBOX_LOST and error.handling.retry
        assert (await box.download(["/app/count"])) == {"/app/count": b"x\n"}

    stage.play(body)


def test_refusals_are_failures_of_the_setup(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        stage.cluster.faults = [Fault("POST", "/pods$", 403)]
        assert (await failure(stage.provider.start(box_request))).termination is Termination.ENV_SETUP_FAILED
        nowhere = SandboxRequest(name="x", lower=box_request.lower, forward=("127.0.0.1", 1))
        unset = KubernetesProvider(KubernetesCluster(image="x", kubeconfig="/nowhere"), run="r")
        assert "proxy_host" in str(await failure(unset.start(nowhere)))
        with pytest.raises(MachineError):
            await unset.start(box_request)

    stage.play(body)


def test_the_network_is_believed_off_only_after_a_probe(stage: Stage, box_request: SandboxRequest) -> None:
    """The test cluster enforces no NetworkPolicy: its own API server can be reached from inside a box."""

    async def body() -> None:
        box = await stage.provider.start(box_request)
        assert not stage.provider.capabilities.network_off
        await box.stop()
        place = stage.cluster.url.removeprefix("http://")
        changed = {"egress_probes": (place,), "require_isolation": True}
        probing = KubernetesProvider(KubernetesCluster(**{**vars(stage.settings), **changed}), run="run-2")
        with pytest.raises(MachineError, match=place):
            await probing.start(box_request)
        await probing.close()
        changed["egress_probes"] = ("127.0.0.1:1",)
        blocked = KubernetesProvider(KubernetesCluster(**{**vars(stage.settings), **changed}), run="run-2")
        await blocked.start(box_request)
        assert blocked.capabilities.network_off
        await blocked.close()

    stage.play(body)


def test_a_killed_trainers_pods_are_removed_when_its_run_goes_on(stage: Stage, box_request: SandboxRequest) -> None:
    """Running ones too: they would hold the quota for an hour. Another run's are left alone."""

    async def body() -> None:
        killed, other = (KubernetesProvider(stage.settings, run=run) for run in ("run-1", "run-2"))
        running, finished, foreign = await asyncio.gather(
            killed.start(box_request), killed.start(box_request), other.start(box_request)
        )
        await stage.cluster.evict(finished.pod)
        ours = await stage.provider.start(box_request)
        gone = {name for name, pod in stage.cluster.pods.items() if pod["metadata"].get("deletionTimestamp")}
        assert {running.pod, finished.pod} <= gone | ({running.pod, finished.pod} - set(stage.cluster.pods))
        for box in (ours, foreign):
            assert (await box.exec(["true"], timeout_sec=20)).exit_code == 0
        for empty in ("", "---"):
            with pytest.raises(ValueError):
                KubernetesProvider(stage.settings, run=empty)
        await other.close()
        await killed.close()

    stage.play(body)


def test_a_server_that_stays_away_is_a_typed_failure(
    stage: Stage, box_request: SandboxRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BUDGET_SEC", 0.2)
    monkeypatch.setattr(provider, "NEWS_SEC", 0.2)
    monkeypatch.setattr(watch, "LOOK_SEC", 0.1)

    async def body() -> None:
        box = await stage.provider.start(box_request)
        away = Fault("GET", "", 503, times=1 << 30)
        stage.cluster.faults.append(away)
        error = await failure(box.exec(["true"], timeout_sec=30))
        assert error.termination is Termination.SANDBOX_LOST and "503" in str(error)
        fresh = KubernetesProvider(stage.settings, run="run-3")
        error = await failure(fresh.start(box_request))
        assert error.termination is Termination.ENV_SETUP_FAILED and "503" in str(error)
        away.times = 0
        await fresh.close()

    stage.play(body)


def test_a_full_disk_is_told_as_what_it_is(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        box = await stage.provider.start(box_request)
        running = asyncio.ensure_future(box.exec(["sleep", "60"], timeout_sec=90))
        await asyncio.sleep(0.5)
        stage.cluster.evict_for_disk(box.pod)
        error = await failure(running)
        assert error.termination is Termination.SANDBOX_LOST
        assert "evicted" in str(error) and "ephemeral" in str(error) and "Completed" not in str(error)

    stage.play(body)


def test_a_pod_that_died_while_it_waited_is_not_handed_out(stage: Stage, box_request: SandboxRequest) -> None:
    async def body() -> None:
        pool = PooledProvider(stage.provider, warm=1, max_idle=1, queue=FairQueue(None), run="run-1")
        first = await pool.start(box_request)
        while not (idle := [one for waiting in pool._idle.values() for one in waiting]):
            await asyncio.sleep(0.05)
        waiting = idle[0].sandbox
        assert isinstance(waiting, PodSandbox) and waiting.alive
        client, _ = await stage.provider.connected()
        await client.delete(waiting.pod)
        while waiting.alive:
            await asyncio.sleep(0.05)
        second = await pool.start(box_request)
        assert (await second.exec(["true"], timeout_sec=20)).exit_code == 0 and pool.pool.hits == 0
        for box in (first, second):
            await box.stop()
        await pool.close()

    stage.play(body)


def test_nothing_of_a_command_outlives_its_timeout(stage: Stage, box_request: SandboxRequest) -> None:
    """Not even what has emptied its environment and left its session and its parents; other commands go on."""
    look = (
        "import pathlib\n"
        "print(sum(p.read_bytes() == b'sleep\\x007777\\0' for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')))"
    )

    async def body() -> None:
        box = await stage.provider.start(box_request)
        other = asyncio.ensure_future(box.exec(["sh", "-c", "sleep 6; echo lived"], timeout_sec=60))
        hide = "env -i setsid sleep 7777 & (env -i setsid sh -c 'sleep 7777; true' &) ; sleep 60"
        with pytest.raises(TimeoutError):
            await box.exec(["sh", "-c", hide], timeout_sec=2)
        assert (await box.exec(["python3", "-c", look], timeout_sec=20)).stdout == b"0\n"
        assert (await other).stdout == b"lived\n"

    stage.play(body)


def test_a_cancelled_start_leaves_no_pod(stage: Stage, box_request: SandboxRequest) -> None:
    stage.cluster.pull_error = lambda image: "429"

    async def body() -> None:
        starting = asyncio.ensure_future(stage.provider.start(box_request))
        while not stage.cluster.pods:
            await asyncio.sleep(0.05)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    stage.play(body)
