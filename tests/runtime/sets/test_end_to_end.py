"""Rows of five sets, from their file to a graded trial: images by their published names, boxes of bubblewrap."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.types import TrialKey
from runtime.config import Bubblewrap
from runtime.config.environment import Images
from runtime.grading.make import make_verifier
from runtime.proxy.codec import load_codec
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.task import Task
from runtime.tasks.sets.load import SETS
from runtime.tasks.verify import verify
from tests.runtime.oci.conftest import FaultyRegistry
from tests.runtime.proxy.scripted_engine import ScriptedEngine
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.sandboxes.conftest import needs_bubblewrap
from tests.runtime.scaffolds.shell_trials import config, hermes
from tests.runtime.sets.imported import FORGER, TOY, Imported
from tests.runtime.sets.imported import imported as import_sets
from tests.runtime.sets.repositories import SECRET
from tests.toolbox import require_command

pytestmark = [pytest.mark.sandbox, pytest.mark.consumers, needs_bubblewrap]


@pytest.fixture
def imported(tmp_path: Path, faulty: FaultyRegistry, swebench: None, monkeypatch: pytest.MonkeyPatch) -> Imported:
    """The first task of each set, with its image here."""
    require_command("busybox", package="busybox-static")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mirrors = {"docker.io": faulty.host}
    environment = Bubblewrap(images=Images(plaintext_registries=(faulty.host,), mirrors=mirrors))
    return import_sets(SETS, tmp_path, faulty, environment)


def test_from_rows_to_trials(imported: Imported, tmp_path: Path) -> None:
    asyncio.run(_proven(imported, tmp_path))
    asyncio.run(_tried(imported, tmp_path))


async def _proven(imported: Imported, folder: Path) -> None:
    """Solutions score 1 twice, nothing 0, and who writes the log himself meets look-alikes where tests are files."""
    provider = BubblewrapProvider(state=folder / "state", nested=True)
    verifier = make_verifier(imported.environment, provider)
    try:
        forged = await verifier.grade(imported.tasks["r2e"], {f"/testbed/{TOY.module}": FORGER})
        report = await verify(
            list(imported.tasks.values()), provider=provider, verifier=verifier, concurrency=2, memory_mib=1024
        )
    finally:
        await verifier.close()
        await provider.close()
    assert (forged.status, "canary" in forged.defences) == ("tampered", True), forged.raw
    assert report.ok, json.dumps(report.to_json(), indent=1)
    for task in report.tasks:
        assert {check.name: check.reward for check in task.checks} == {"oracle": 1, "no-op": 0, "oracle again": 1}


async def _tried(imported: Imported, folder: Path) -> None:
    """A scripted policy looks for the repair everywhere and finds none, repairs by itself, and is paid."""
    for kind in ("swe-bench", "swe-smith", "r2e"):
        task, clone = imported.tasks[kind], imported.clones[kind]
        look = " ".join(f"git cat-file -e {one} && echo FOUND;" for one in clone.later)
        spy = f"{look} git log --all --reflog --format=%s; git stash list; git tag; cat /r2e_tests/* run_tests.sh;"
        spy += f" cat /root/run_tests.sh; ls /opt/mirror /srv/tree; grep -rc {SECRET} .git | grep -v :0"
        wrong, right = (text.splitlines()[-1] for text in (TOY.wrong, TOY.right))
        replies = [
            hermes("run_command", command=spy),
            hermes("edit_file", path=TOY.module, old=wrong, new=right),
            hermes("submit"),
        ]
        result, said = await _trial(folder / f"{kind}-trial", imported, task, replies)
        assert (result.reward, result.error) == (1.0, None), (kind, said)
        assert "FOUND" not in said and SECRET not in said and "Repair" not in said, (kind, said)
        assert ("Base" in said) == (kind != "swe-smith"), (kind, said)


async def _trial(folder: Path, imported: Imported, task: Task, replies: list[str]) -> tuple[Any, str]:
    settings = config("free", imported.environment)
    model = write_model(folder / "model", family="chatml")
    engine = ScriptedEngine(load_codec(model, settings.rollout.tool_parser), replies)
    key = TrialKey(task=task.id, task_set="train", step=1, group="g", index=0)
    async with open_services(settings, engine=engine, model_folder=model, state=folder / "state") as services:
        result = await TrialRunner(services, settings, trials=folder / "trials").run(task, key=key, temperature=1.0)
    (record,) = folder.glob("trials/1/*/trajectory.json")
    return result, "\n".join(str(turn) for turn in json.loads(record.read_bytes())["turns"][1:])
