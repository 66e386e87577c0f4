"""Verdicts in pods by other reports than our own: of another language's runner, and of a published set's log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, Kubernetes, KubernetesCluster
from runtime.config.environment import Images
from runtime.errors import Termination, TrialError
from runtime.grading.base import Verifier
from runtime.grading.make import make_verifier
from runtime.grading.task_scripts import mounts_of
from runtime.sandboxes.base import SandboxRequest
from runtime.task import Task, load_task
from tests.runtime.oci.conftest import FaultyRegistry
from tests.runtime.sets.conftest import faulty, swebench, swebench_folder
from tests.runtime.sets.imported import FORGER, TOY, cache_in, imported, unpacked
from tests.runtime.sets.repositories import SECRET
from tests.runtime.suites.projects import NODE, RSPEC, Project
from tests.toolbox import SUITES, require_command, require_system_commands

from .cluster import IMAGE
from .conftest import Stage, needs_bubblewrap

__all__ = ["faulty", "swebench", "swebench_folder"]
pytestmark = [pytest.mark.sandbox, pytest.mark.consumers, needs_bubblewrap]
GIVEN = {"fresh_sandbox", "memory_limit", "agent_killed", "declared_artifacts", "host_verdict", "tests_restored"}
"""What every verdict in a pod has."""


async def refused(stage: Stage, task: Task, defence: str) -> None:
    """Before any pod is made for it."""
    before = stage.cluster.requests.copy()
    with pytest.raises(TrialError, match=f"required defences not to be had: {defence}$") as caught:
        await verifier(stage, *defence.split(", "), *sorted(GIVEN)).grade(task, {})
    assert caught.value.termination is Termination.TASK_INVALID
    assert "POST" not in {method for method, _ in stage.cluster.requests[len(before) :]}


def verifier(stage: Stage, *required: str) -> Verifier:
    limits = {"memory_mib": 1024, "agent_timeout_sec": 120.0, "verifier_timeout_sec": 120.0}
    return make_verifier(Bubblewrap(required_defences=required, **limits), stage.provider)


@pytest.mark.parametrize("project", [RSPEC, NODE], ids=lambda project: project.runner)
def test_of_another_language(stage: Stage, project: Project, tmp_path: Path) -> None:
    require_system_commands(SUITES)
    task = load_task(project.write(tmp_path / "calc"))
    (forged, *_) = project.forged.values()

    async def body() -> None:
        judge = verifier(stage)
        works = {"solved": project.text(*project.right), "unsolved": project.text(project.right[0], project.wrong[1])}
        for status, text in {**works, "tampered": forged.encode()}.items():
            verdict = await judge.grade(
                task, {f"/app/{project.source}": text, f"/app/{next(iter(project.tests))}": b""}
            )
            assert verdict.status == status, verdict.raw
            assert set(verdict.defences) == GIVEN | {"canary", "report_nonce", "kubernetes"}
        await refused(stage, task, "solution_user")

    stage.play(body)


@pytest.fixture
def images(faulty: FaultyRegistry, swebench: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    require_command("busybox", package="busybox-static")
    cache_in(tmp_path / "cache", monkeypatch)
    where = Images(plaintext_registries=(faulty.host,), mirrors={"docker.io": faulty.host})
    return Kubernetes(kubernetes=KubernetesCluster(image=IMAGE), images=where)


def imported_for(stage: Stage, kind: str, tmp_path: Path, registry: FaultyRegistry, images: Kubernetes) -> Task:
    task = imported((kind,), tmp_path, registry, images).tasks[kind]
    assert task.root is not None
    stage.cluster.trees[task.root.reference] = unpacked(task, tmp_path / "tree")
    return task


def test_of_a_published_set(stage: Stage, images: Kubernetes, faulty: FaultyRegistry, tmp_path: Path) -> None:
    """From its row, by the parser of package swebench, in pods of an ordinary user."""
    task = imported_for(stage, "swe-bench", tmp_path, faulty, images)

    async def body() -> None:
        judge = verifier(stage)
        for text, status, ends in (
            (TOY.right, "solved", ["passed"] * 2),
            (TOY.wrong, "unsolved", ["failed", "passed"]),
        ):
            verdict = await judge.grade(task, {f"/testbed/{TOY.module}": text.encode()})
            assert (verdict.status, sorted(verdict.outcomes.values())) == (status, ends), verdict.raw
            assert set(verdict.defences) == GIVEN | {"kubernetes"}
        await refused(stage, task, "canary")
        await refused(stage, task, "report_nonce, solution_user")

    stage.play(body)


def test_of_a_set_that_keeps_its_tests_in_its_images(
    stage: Stage,
    images: Kubernetes,
    faulty: FaultyRegistry,
    tmp_path: Path,
) -> None:
    """No pod shows them, nor what other repositories of the image hold; who writes the log meets look-alikes."""
    task = imported_for(stage, "r2e", tmp_path, faulty, images)
    stage.changes["user"] = None
    places = " ".join(task.work.hidden)
    assert set(places.split()) == {"/opt/mirror/objects.git", "/srv/tree", "/r2e_tests", "/root/run_tests.sh"}
    around = shutil.copytree(task.path, tmp_path / "around") / "task.toml"
    around.write_text(around.read_text().replace('"/root/r2e_tests"', '"/opt"'))
    with pytest.raises(TrialError, match="to hide /opt would hide what boxes need"):
        load_task(around.parent)
    request = SandboxRequest(
        name="look", lower=task.repository, workdir="/testbed", mounts=mounts_of(task), root=task.root
    )

    async def body() -> None:
        box = await stage.provider.start(request)
        look = f"rm -rf {places}; for f in $(find {places} -type f); do echo $f; cat $f; done"
        seen = await box.exec(["sh", "-c", f"{look}; grep -r {SECRET} .git"], timeout_sec=60)
        assert seen.stdout == b"/root/run_tests.sh\n", (seen.stdout, seen.stderr)
        verdict = await verifier(stage).grade(task, {f"/testbed/{TOY.module}": FORGER})
        assert verdict.status == "tampered", verdict.raw
        assert set(verdict.defences) == GIVEN | {"canary", "kubernetes"}

    stage.play(body)
