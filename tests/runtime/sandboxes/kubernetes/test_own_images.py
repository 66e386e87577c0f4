"""Pods made of a task's own image, which has neither libc nor Python nor shell beyond one static program."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, KubernetesCluster
from runtime.errors import Termination, TrialError
from runtime.grading.make import make_verifier
from runtime.oci import store as stores
from runtime.oci.build import import_layout
from runtime.oci.merged import merge
from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.sandboxes import own_image
from runtime.sandboxes.ahead import Announced, Wanted
from runtime.sandboxes.base import Mount, SandboxRequest
from runtime.sandboxes.entries import Program, Same, mark
from runtime.sandboxes.kubernetes import KubernetesProvider, pods, prepull
from runtime.task import load_task
from tests.oci_images import busybox, image
from tests.toolbox import require_command

from .cluster import IMAGE
from .conftest import Stage, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]
NAME = "registry.example/tasks/alpine"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ImageStore, Image]]:
    """An image in this machine's store, as if it had been fetched from a registry."""
    require_command("busybox", package="busybox-static")
    monkeypatch.setattr(stores, "default_store", lambda: tmp_path / "store")
    store = ImageStore()
    layers = [
        busybox(),
        {"w/word": b"old\n", "w/gone": b"x", "opt/tool": b"#!/bin/sh\necho tool\n"},
        {"w/.wh.gone": b""},
    ]
    made = image(layers, layout=tmp_path / "layout", Env=["PATH=/bin:/opt", "MARK=of the image"], WorkingDir="/w")
    yield store, import_layout(tmp_path / "layout", store, reference=f"{NAME}@{made.digest}")
    store.close()


@pytest.fixture
def node(stage: Stage, own: tuple[ImageStore, Image], tmp_path: Path) -> Stage:
    """The nodes of the cluster can pull it too."""
    store, made = own
    merge([store.layer(one) for one in made.folders], "/", tmp_path / "tree")
    stage.cluster.trees[made.reference] = tmp_path / "tree"
    return stage


def request_of(own: tuple[ImageStore, Image], lower: Path | None = None) -> SandboxRequest:
    store, made = own
    return SandboxRequest(name="own", lower=lower or store.tree(made, "/w"), workdir="/w", root=made)


def test_a_box_of_an_image_without_libc_or_python(node: Stage, own: tuple[ImageStore, Image], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import json, ssl, sys\nprint(json.dumps([sys.prefix, sys.argv[1:]]))\n")

    async def body() -> None:
        request = replace(request_of(own), mounts=(Mount(tmp_path / "program.py", "/opt/liverl/own/program.py"),))
        box = await node.provider.start(request)
        pod = node.cluster.pods[box.pod]["spec"]
        assert pod["containers"][0]["image"] == own[1].reference and pod["initContainers"][0]["image"] == IMAGE

        async def said(script: str) -> str:
            result = await box.exec(["sh", "-c", script], stdin=b"in", timeout_sec=20)
            return (result.stdout + result.stderr).decode()

        assert node.provider.counts["image_misses"] == 1 and node.provider.counts["image_fetch_sec"] > 0
        assert (await said("cat; pwd; ls; tool; echo $MARK")).split() == ["in/w", "word", "tool", "of", "the", "image"]
        assert "new" in await said("echo new > word && cat word")
        assert "read-only" in (await said("echo x > /opt/python/bin/python3; echo x > /opt/liverl/guest/x")).lower()
        own_program = await box.exec(["python3", "/opt/liverl/own/program.py", "x"], timeout_sec=20)
        assert own_program.stdout == b'["/opt/python", ["x"]]\n', own_program.stderr
        assert (await box.exec(["no-such-program"], timeout_sec=20)).exit_code == 127
        assert (await box.exec(["sh", "-c", "kill -15 $$"], timeout_sec=20)).exit_code == -15
        with pytest.raises(TimeoutError):
            await box.exec(["sh", "-c", "env -i sleep 4711 & sleep 4712"], timeout_sec=1)
        assert "sleep" not in await said("cat /proc/[0-9]*/cmdline | grep -v grep")
        big = bytes(range(256)) * (24 << 10)
        await box.upload({"/w/a b/big": big, "/w/run": b"#!/bin/sh\necho ran\n"}, mode=0o755)
        assert await said("./run") == "ran\n"
        found = await box.download(["/w"], max_bytes=16 << 20)
        assert set(found) == {"/w/word", "/w/a b/big", "/w/run"} and found["/w/a b/big"] == big
        known = {f"/w/{name}": mark("f", text) for name, text in (("word", b"new\n"), ("run", b"x"), ("gone", b"x"))}
        tree = await box.tree(["/w/word", "/w/run"], max_bytes=100, known=known)
        assert tree == {"/w/word": Same(), "/w/run": Program(b"#!/bin/sh\necho ran\n")}, "only what changed travels"
        with pytest.raises(TrialError):
            await box.download(["/w"], max_bytes=20)

    node.play(body)


def test_a_task_with_an_image_is_graded_in_pods(node: Stage, own: tuple[ImageStore, Image], tmp_path: Path) -> None:
    """By its own script, as the image's root; files beside ``task.toml`` are in the work directory."""
    node.changes["user"] = None
    own[0].name(f"{NAME}:1", own[1])
    files = {
        "task.toml": f'environment.docker_image = "{NAME}:1"\nverifier.env = {{OUT = "/logs/verifier/reward.txt"}}\n',
        "instruction.md": "Write new into word.\n",
        "environment/extra.txt": "loose\n",
        "solution/solve.sh": "#!/bin/sh\necho new > word\n",
        "tests/test.sh": "#!/bin/sh\ngrep -q new word && grep -q loose extra.txt && echo 1 > $OUT || echo 0 > $OUT\n",
    }
    for name, text in files.items():
        (tmp_path / "task" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "task" / name).write_text(text)
    task = load_task(tmp_path / "task")
    assert task.root is not None

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(agent_timeout_sec=60.0, verifier_timeout_sec=60.0), node.provider)
        for word, reward in ((b"new\n", 1.0), (b"old\n", 0.0)):
            verdict = await verifier.grade(task, {"/w/word": word, "/w/extra.txt": b"loose\n"})
            assert verdict.reward == reward, verdict.raw
        await verifier.close()

    node.play(body)


def test_code_under_test_has_a_container_of_the_image_for_itself(
    node: Stage, own: tuple[ImageStore, Image], tmp_path: Path
) -> None:
    """Of an ordinary user; each of the two has a copy of its own of the image's work directory."""
    own[0].name(f"{NAME}:1", own[1])
    seen = "import os, sys\nassert open('/w/word').read() == 'old\\n' and os.getuid() == 10001\n"
    # Not in the further run in one process, which a test that reads files gets.
    seen += "if not any('test_calc' in name for name in sys.modules): open('/w/word', 'w')\n"
    files = {
        "task.toml": f'environment.docker_image = "{NAME}:1"\n[metadata.liverl]\n'
        'fail_to_pass = ["tests/test_calc.py::test_f"]\ntest_files = ["tests/test_calc.py"]\n',
        "instruction.md": "Write calc.\n",
        "solution/files/calc.py": "def f(): return 1\n",
        "tests/test.sh": "#!/bin/sh\n",
        "tests/files/tests/test_calc.py": "import calc\n\ndef test_f():\n    assert calc.f() == 1\n"
        "    assert open('/w/word').read() == 'old\\n'\n",
    }
    for name, text in files.items():
        (tmp_path / "task" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "task" / name).write_text(text)
    (tmp_path / "task" / "environment").mkdir()
    task = load_task(tmp_path / "task")

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(agent_timeout_sec=60.0, verifier_timeout_sec=60.0), node.provider)
        for text, reward in ((seen + "def f(): return 1\n", 1.0), (seen + "def f(): return 2\n", 0.0)):
            verdict = await verifier.grade(task, {"/w/calc.py": text.encode()})
            assert verdict.reward == reward and "solution_box" in verdict.defences, verdict.raw
        await verifier.close()

    node.play(body)


@pytest.mark.parametrize("user", [10001, None])
def test_a_work_directory_that_was_cleaned_hides_the_images(
    own: tuple[ImageStore, Image], tmp_path: Path, user: int | None
) -> None:
    """Whatever the image has there, later commits above all: only what the task shows comes into the volume."""
    (tmp_path / "cleaned").mkdir()
    request = request_of(own, tmp_path / "cleaned")
    assert own_image.is_changed(request) and not own_image.is_changed(request_of(own))
    settings = KubernetesCluster(image=IMAGE, user=user)
    spec = pods.manifest(request, settings, run="r", owner="o", changed=True)["spec"]
    assert "/w" in [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    assert [one["name"] for one in spec["initContainers"]] == ["guest"], "nothing copies the image's"
    assert "/.liverl-brought/w" in [mount["mountPath"] for mount in spec["initContainers"][0]["volumeMounts"]]


def test_of_a_repository_that_was_cut_a_pod_shows_nothing_later(
    node: Stage, own: tuple[ImageStore, Image], tmp_path: Path
) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "early").write_text("of the base commit\n")

    async def body() -> None:
        box = await node.provider.start(request_of(own, tmp_path / "cut"))
        seen = await box.exec(["sh", "-c", "ls -A; cat early"], timeout_sec=20)
        assert seen.stdout == b"early\nof the base commit\n", seen.stderr

    node.play(body)


def test_an_image_that_nodes_cannot_pull_is_said(stage: Stage, own: tuple[ImageStore, Image]) -> None:
    async def body() -> None:
        with pytest.raises(TrialError, match="not found") as caught:
            await stage.provider.start(request_of(own))
        assert caught.value.termination is Termination.ENV_SETUP_FAILED

    stage.play(body)


def test_the_pods_image_comes_from_the_mirror_that_the_spec_names(own: tuple[ImageStore, Image]) -> None:
    request, settings = request_of(own), KubernetesCluster(image=IMAGE, image_pull_secrets=("registry",))
    pod = pods.manifest(request, settings, run="r", owner="o", mirrors={"registry.example": "cache.example:5000"})
    assert pod["spec"]["containers"][0]["image"] == f"cache.example:5000/tasks/alpine@{own[1].digest}"
    assert [one["image"] for one in pod["spec"]["initContainers"]] == [IMAGE, pod["spec"]["containers"][0]["image"]]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    names = {volume["name"] for volume in pod["spec"]["volumes"]}
    for box in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        assert {mount["name"] for mount in box["volumeMounts"]} <= names


def test_nodes_pull_what_comes_ahead_of_its_boxes(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the announcement, each node that boxes have been on, and through the mirror."""
    monkeypatch.setattr(prepull, "LOOK_SEC", 0.05)
    cluster = stage.cluster
    first, *others = [Wanted(f"sha256:{n:064}", f"registry.example/tasks/{n}@sha256:{n:064}") for n in range(5)]
    names = [one.reference.replace("registry.example", "cache.example:5000") for one in others]
    cluster.images |= {names[0], names[2], names[3]}  # the one between is not to be had
    said = Announced((first,), tuple(others))

    async def body() -> None:
        stage.provider = KubernetesProvider(
            stage.settings,
            run="run-1",
            mirrors={"registry.example": "cache.example:5000"},
            announced=lambda: said,
            ahead=3,
        )
        ahead, (api, watch) = stage.provider._prepull, await stage.provider.connected()
        for node in ("node-1", "node-2"):
            ahead.started(node, first.reference, seconds=2.0)
        ahead.start(api, watch)
        while ahead.counts["images_ahead"] < 4 or len(caplog.records) < 2:
            await asyncio.sleep(0.05)
        for node in ("node-1", "node-2"):
            assert [image for of, image in cluster.pulls if of == node] == [names[0], names[2]], "no more than three"
        told = [one.getMessage() for one in caplog.records if "not pulled ahead" in one.getMessage()]
        assert len(told) == 2 and all("not found" in one and names[1] in one for one in told)
        ahead.started("node-1", others[2].reference, seconds=1.0)
        found = {"image_hits": 1, "image_misses": 2, "image_fetch_sec": 4, "images_ahead": 4}
        assert stage.provider.counts == found
        nonlocal said
        cluster.pull_error = lambda image: "429 too many requests" if image == names[3] else None
        said = Announced(coming=(others[3],))
        while not cluster.pods:
            await asyncio.sleep(0.05)
        (pod,) = [pod for pod in cluster.pods.values() if pod["spec"]["nodeName"] == "node-1"]
        assert pod["metadata"]["labels"][pods.PHASE] == "prepull"
        # The run ends: what is being pulled goes with it.

    stage.play(body)
