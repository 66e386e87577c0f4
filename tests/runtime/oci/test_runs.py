"""Which image a run's tasks get, and keep, beside other runs that share the machine's store."""

from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.config.environment import Images
from runtime.oci.build import import_layout
from runtime.oci.store import ImageStore
from runtime.task import load_task
from runtime.task_format.task_image import built
from runtime.tasks.images import with_images
from tests.oci_images import image
from tests.runtime.oci.conftest import FaultyRegistry


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def task(folder: Path, **files: str) -> Path:
    for name in ("task.toml", "instruction.md", "tests/test.sh", "environment/.keep", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(files.get(name, ""))
    return folder


def test_a_pin_is_the_tasks_and_not_the_machines(tmp_path: Path, faulty: FaultyRegistry) -> None:
    old, new = (image([{"w/version": text}], WorkingDir="/w") for text in (b"old", b"new"))
    name = faulty.push("tag", old)
    environment = Bubblewrap(images=Images(plaintext_registries=(faulty.host,)))
    toml = f'environment.docker_image = "{name}"\n'
    folder = task(tmp_path / "task", **{"task.toml": toml, "environment/Dockerfile": "FROM x\n"})
    problems: list[str] = []

    def found(**pins: str) -> tuple[str, bytes]:
        known = {folder.resolve(): pin for pin in pins.values()}
        (one,) = with_images(
            [load_task(folder)], environment=environment, on_problem=problems.append, say=str, pins=known
        )
        assert one.work.image is not None, problems
        return one.work.image.digest, (one.repository / "version").read_bytes()

    assert found() == (old.digest, b"old")
    pin = f"{faulty.host}/tag@{new.digest}"
    faulty.images["tag"] = new
    assert found(pin=pin) == (new.digest, b"new")
    assert found() == (old.digest, b"old"), "another run's pin has moved the tag"
    again = load_task(folder, image=new.digest)
    assert again.work.image is not None and again.work.image.digest == new.digest, "as in the trainer's own process"


def test_what_was_built_stays_while_its_run_is_prepared_or_goes_on(tmp_path: Path) -> None:
    folder = task(tmp_path / "task", **{"environment/Dockerfile": "FROM x\nRUN y\n"})
    store, key = ImageStore(), built(folder / "environment/Dockerfile", folder / "environment").key
    image([{"w/file": b""}], WorkingDir="/w", layout=tmp_path / "layout")
    made = import_layout(tmp_path / "layout", store, reference=f"built:{key}")
    store.name(key, made)
    tasks = with_images([load_task(folder)], environment=Bubblewrap(), on_problem=print, say=str)
    assert [one.work.image for one in tasks] == [made], "what is here needs no leave to be built"
    assert ImageStore().prune(0) == [] and ImageStore().image(made.digest) == made


def test_boxes_fetch_again_as_the_spec_says(tmp_path: Path, faulty: FaultyRegistry) -> None:
    """What was removed meanwhile comes from the mirror, without TLS where that is said."""
    store = ImageStore.of(Images(plaintext_registries=(faulty.host,), mirrors={"docker.io": faulty.host}, disk_gib=1))
    faulty.push("library/some", image([{"x": b"x"}]))
    made = store.pull("some")
    store.prune(0)
    store.hold(made)
    assert store.image(made.digest) == made and store.budget == 1 << 30
    store.close()
