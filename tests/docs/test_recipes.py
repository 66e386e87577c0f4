"""The recipes work: the files of each page are written, its spec is compiled, and trials are played with what they
make, as the probe before a run plays them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from liverl.compiled import bundle_files
from runtime.config import PlainProcess, PretrainedPolicy, RuntimeConfig, TorchRollout
from runtime.errors import MachineError
from runtime.launch.probe import probe
from runtime.run_paths import RunPaths
from runtime.sandboxes import make_provider
from tests.docs import pages, shell
from tests.runtime.agent_loop.conftest import make_task
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.sandboxes.conftest import needs_bubblewrap


def write_files(page: str, folder: Path) -> None:
    for block in pages.blocks(pages.DOCS / "recipes" / page):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def contract(spec: Path) -> RuntimeConfig:
    """What the runtime reads of a page's spec, but for the engine: this machine's."""
    config = RuntimeConfig.model_validate_json(bundle_files(spec, target="local")["runtime.json"])
    rollout = TorchRollout(
        replicas=1,
        slots=4,
        prompt_length=2048,
        response_length=4096,
        max_tokens_per_turn=128,
        temperature=1.0,
        tool_parser=config.rollout.tool_parser,
        concurrency=2,
    )
    return config.model_copy(update={"rollout": rollout, "policy": PretrainedPolicy(path="policy")})


def play(config: RuntimeConfig, folder: Path) -> RunPaths:
    """The probe of a run, on a task of two lines."""
    paths = RunPaths(folder / "run")
    family = "compact" if config.rollout.tool_parser == "compact" else "chatml"
    paths.policy.parent.mkdir(parents=True)
    paths.policy.symlink_to(write_model(folder / "tiny", family=family))
    asyncio.run(probe(paths, config, make_task(folder / "tasks")))
    return paths


def test_a_scaffold_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("scaffold.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = contract(tmp_path / "mine.jsonnet")
    assert config.scaffold.type == "import" and config.scaffold.kwargs == {"max_turns": 20}
    paths = play(config.model_copy(update={"environment": PlainProcess()}), tmp_path)
    said = [json.loads(path.read_text()) for path in paths.probe.glob("0/*/agent/stdout.txt")]
    assert said == [{"termination": "agent_completed", "turns": 2}] * 2


@pytest.mark.sandbox
@needs_bubblewrap
def test_sandboxes_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("sandbox.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = contract(tmp_path / "mine.jsonnet")
    paths = play(config, tmp_path)
    records = [json.loads(path.read_text()) for path in paths.probe.glob("0/*/trial.json")]
    assert sorted(record["reward"] for record in records) == [0, 1]
    assert not list(tmp_path.rglob("box-*")), "boxes are removed"
    strict = contract(tmp_path / "strict.jsonnet")
    with pytest.raises(MachineError, match="network_off"):
        make_provider(strict.environment, state=tmp_path / "state")


CODE = "def area(width, height):\n    return width * height\n"
MORE = "\n\ndef add(a, b):\n    return a + b\n"
TEST = "from shop import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"
MORE_TEST = "\n\ndef test_add():\n    from shop import add\n\n    assert add(2, 3) == 5\n"


def write_repository(root: Path) -> None:
    """Two commits; of its two functions one is in the training split, the other in the held-out one."""
    for code, test in ((CODE, TEST), (CODE + MORE, TEST + MORE_TEST)):
        for name, text in (("shop/__init__.py", code), ("tests/test_shop.py", test)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Shop"]):
            who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
            subprocess.run(["git", *who, *words], cwd=root, check=True)


@pytest.mark.sandbox
@pytest.mark.network
@needs_bubblewrap
def test_a_repository_as_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = pages.DOCS / "recipes" / "repository.md"
    write_files(page.name, tmp_path)
    write_repository(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    commands = [command for block in pages.blocks(page) for command in shell.in_block(block)]
    followed = [one for one in commands if one.words[0] in ("tasks", "check") and "--trials" not in one.words]
    assert len(followed) == 6
    for command in followed:
        shell.tree().main(list(command.words), standalone_mode=False)
    said = capsys.readouterr().out
    made = {name: len(list((tmp_path / "tasks" / name).iterdir())) for name in ("train", "held-out", "history")}
    assert min(made.values()) > 0 and f"{sum(made.values())} of {sum(made.values())} tasks proven" in said
    assert f"{made['train']} tasks in tasks/train.parquet" in said


def test_a_model_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files("model.md", tmp_path)
    write_model(tmp_path / "model", family="chatml")
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):  # this machine may lack something else
        shell.tree().main(["doctor", "--model", "model"], standalone_mode=False)
    assert "append-only, tool_parser hermes" in capsys.readouterr().out
    config = contract(tmp_path / "my-model.jsonnet")
    assert config.rollout.tool_parser == "hermes"
    assert play(config.model_copy(update={"environment": PlainProcess()}), tmp_path).probe.is_dir()
