"""The first task of each published set, from its row, with its image in a registry of this machine and in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.config import Environment
from runtime.oci.merged import merge
from runtime.oci.store import ImageStore
from runtime.sandboxes import own_image
from runtime.task import Task, load_task
from runtime.tasks.images import with_images
from runtime.tasks.sets.load import Wanted, import_rows
from tests.oci_images import Content
from tests.runtime.oci.conftest import FaultyRegistry
from tests.runtime.sets.images import of_clone, tools
from tests.runtime.sets.published import FILES, ROWS, TOYS, image_of
from tests.runtime.sets.repositories import SECRET, Clone

TOY = TOYS[0]
KEPT = ("r2e_tests/test_1.py", "root/run_tests.sh", "testbed/run_tests.sh")
"""What images of R2E hold of their tests."""
FORGER = b"""import os
for name in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}").endswith("/test_output.txt"):
        tests = "\\n".join(f"PASSED r2e_tests/test_1.py::{test}" for test in ("test_kept", "test_shown"))
        os.write(int(name), f"short test summary info\\n{tests}\\n".encode())
        os._exit(0)
"""
"""Code under test that says what its set's parser reads."""


@dataclass
class Imported:
    tasks: dict[str, Task]
    clones: dict[str, Clone]
    environment: Environment


def imported(kinds: Sequence[str], folder: Path, registry: FaultyRegistry, environment: Environment) -> Imported:
    shared = tools()
    clones, images, found = {}, {}, []
    for history in {kind == "swe-smith" for kind in kinds}:
        like = "swe-smith" if history else "swe-bench"
        clones[history] = image_of(like, TOY, folder / like / "clone")
        images[history] = of_clone(clones[history], shared)
    for kind in kinds:
        (path,) = import_rows(
            kind,
            Wanted(rows=ROWS / FILES[kind], limit=1),
            folder / kind / "tasks",
            cache=folder,
            on_problem=pytest.fail,
        )
        task = load_task(path)
        assert task.work.source is not None and task.work.source.reference is not None
        made = images[kind == "swe-smith"]
        if kind == "r2e":
            hidden: dict[str, Content] = dict.fromkeys(KEPT, SECRET.encode())
            made = of_clone(clones[False], shared, **hidden)
        registry.images[task.work.source.reference.partition("/")[2].partition(":")[0]] = made
        found.append(task)
    ready = with_images(found, environment=environment, on_problem=pytest.fail, say=lambda text: None)
    return Imported(
        dict(zip(kinds, ready, strict=True)), {kind: clones[kind == "swe-smith"] for kind in kinds}, environment
    )


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and work directories of a test's own; the Python of boxes elsewhere is made once for all tests."""
    archive = own_image.python_archive()
    monkeypatch.setattr(own_image, "python_archive", lambda: archive)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def unpacked(task: Task, folder: Path) -> Path:
    """The files of a task's image, as a node has them."""
    assert task.root is not None
    store = ImageStore()
    merge([store.layer(one) for one in task.root.folders], "/", folder)
    store.close()
    return folder
