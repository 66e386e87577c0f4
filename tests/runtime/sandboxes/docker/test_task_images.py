"""Containers made of a task's own image, which has neither Python nor bash, pulled by digest with a password."""

import asyncio
from pathlib import Path

import pytest

from runtime.config import Docker, Images
from runtime.grading.make import make_verifier
from runtime.oci.build import import_layout
from runtime.oci.store import ImageStore
from runtime.sandboxes.ahead import Announced, Wanted
from runtime.sandboxes.base import Mount, SandboxRequest
from runtime.task import load_task
from runtime.tasks.images import with_images
from runtime.tasks.verify import verify
from tests.docker_engine import Engine
from tests.oci_images import busybox, image
from tests.runtime.oci.conftest import RealRegistry, _registry, registry
from tests.runtime.oci.test_boxes import SUITE
from tests.runtime.sandboxes.docker.conftest import provider
from tests.toolbox import require_command

__all__ = ["_registry", "registry"]
pytestmark = pytest.mark.consumers
SCORE = "#!/bin/sh\ngrep -q new word && grep -q here /marker && echo 1 > $OUT || echo 0 > $OUT\n"


def test_a_task_with_an_image_is_proven(
    engine: Engine, registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: asyncio.Runner
) -> None:
    require_command("busybox", package="busybox-static")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What an image would have started, or done in builds that stand on it, is nothing of a box.
    unheeded = {
        "Entrypoint": ["/no"],
        "OnBuild": ["RUN no", "COPY . /w"],
        "Shell": ["/no"],
        "Volumes": {"/vol": {}, "/w/d/": {}},
    }
    unheeded["Healthcheck"] = {"Test": ["CMD", "/bin/sh", "-c", "echo x > /w/word"], "Interval": 1_000_000}
    layers = [busybox(), {"marker": b"here", "w/word": b"old\n", "w/d/x": b"x"}]
    made = image(layers, Env=["PATH=/bin"], WorkingDir="/w", **unheeded)
    registry.push("task", made)
    name = "hub.example/task:latest"  # which nobody can reach but through the mirror
    images = Images(mirrors={"hub.example": registry.host}, disk_gib=64)
    files = {
        "task.toml": f'environment.docker_image = "{name}"\nverifier.env = {{OUT = "/logs/verifier/reward.txt"}}\n',
        "instruction.md": "Write new into word.\n",
        "solution/solve.sh": "#!/bin/sh\necho new > word && echo more > /etc/more\n",
        "tests/test.sh": SCORE,
        "environment/Dockerfile": "FROM scratch\n",
    }
    # The same, judged by the report of a runner of its own.
    suite = {**files, "task.toml": f'environment.docker_image = "{name}"\n{SUITE}'}
    for folder, all_of_it in (("task", files), ("suite", suite)):
        for path, text in all_of_it.items():
            (tmp_path / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / path).write_text(text)
    settings = Docker(base_image="liverl/base:bookworm", images=images)
    later = ImageStore.of(images).pull(registry.push("later", image([{"f": b"1"}])))
    larger = Wanted("sha256:" + "1" * 64, "hub.example/larger@sha256:" + "1" * 64, bytes=64 << 30)
    coming = Announced(coming=(Wanted(later.digest, later.reference, later.bytes), larger))
    problems: list[str] = []
    loaded = [load_task(tmp_path / folder) for folder in ("task", "suite")]
    tasks = with_images(loaded, environment=settings, on_problem=problems.append, say=lambda text: None)
    assert [task.work.image.digest for task in tasks if task.work.image] == 2 * [made.digest], problems

    async def work() -> object:
        containers = provider(engine, tmp_path / "state", images=images, announced=lambda: coming)
        verifier = make_verifier(settings, containers)
        try:
            report = await verify(tasks, provider=containers, verifier=verifier, concurrency=2, memory_mib=512)
            while not containers.counts["images_ahead"]:
                await asyncio.sleep(0.1)
            assert containers.counts["image_misses"] >= 1 and containers.counts["image_hits"] >= 1
            assert later.digest in engine.docker("images", "--digests"), "pulled ahead of any box"
            assert not containers._ahead.one() and not containers._ahead._failed, "the budget has no room for the other"
        finally:
            await verifier.close()
            await containers.close()
        assert report.ok, report.to_json()

    loop.run(work())
    assert ImageStore().images()[0].image.reference.endswith(made.digest)


def test_an_image_that_was_built_here_is_brought_to_the_engine(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: asyncio.Runner
) -> None:
    require_command("busybox", package="busybox-static")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    layers = [busybox(), {"w/word": b"old\n", "w/gone": b"x", "kept/test": b"x", "kept.sh": b"x"}, {"w/.wh.gone": b""}]
    image(layers, layout=tmp_path / "layout", Env=["PATH=/bin", "MARK=of the image"], WorkingDir="/w")
    store = ImageStore()
    made = import_layout(tmp_path / "layout", store, reference="built:for-a-test")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    mounts = tuple(
        Mount(tmp_path / what, place, hides=True) for what, place in (("folder", "/kept"), ("file", "/kept.sh"))
    )
    request = SandboxRequest(name="built", lower=store.tree(made, "/w"), workdir="/w", root=made, mounts=mounts)

    async def work() -> None:
        containers = provider(engine, tmp_path / "state")
        try:
            for _ in range(2):
                box = await containers.start(request)
                said = await box.exec(["sh", "-c", "ls; cat word; echo $MARK; echo new >word; id -u"], timeout_sec=60)
                assert said.stdout.split() == b"word old of the image 0".split(), said.stderr
                seen = await box.exec(["sh", "-c", "rm -rf /kept /kept.sh; ls /kept; cat /kept.sh"], timeout_sec=60)
                assert seen.stdout == b"" and seen.exit_code == 0, seen.stderr
                await box.stop()
        finally:
            await containers.close()

    loop.run(work())
    assert len(engine.docker("images", "-q", "liverl/built").split()) == 1
