"""Real agents in boxes of images that have no libc, no Python and no bash, or libraries that are no libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.config import AgentScaffold, ClaudeCodeScaffold, MiniSweAgentScaffold
from runtime.errors import Termination
from runtime.oci import store as stores
from runtime.oci.build import import_layout
from runtime.oci.store import ImageStore
from runtime.task import Task, load_task
from tests.oci_images import Content, busybox, image
from tests.runtime.sandboxes.conftest import needs_bubblewrap
from tests.runtime.scaffolds.real_agents import call, check_tokens, play, replies
from tests.toolbox import require_command

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox, needs_bubblewrap]
TOML = 'environment.docker_image = "registry.example/own:1"\nverifier.env = {OUT = "/logs/verifier/reward.txt"}\n'
WRITE = "cat word; echo new > word; echo $SHELL; echo ${LD_LIBRARY_PATH:-none}"

BARE: dict[str, Content] = {}
OTHER_LIBC: dict[str, Content] = {
    f"{folder}/{name}": b"\x7fELF of another libc"
    for folder in ("lib", "usr/lib", "lib/x86_64-linux-gnu", "lib64")
    for name in ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-musl-x86_64.so.1")
} | {"etc/ld.so.cache": b"no cache", "etc/alpine-release": b"3.22.0\n"}


def claude(prompt: str) -> str:
    return [call("Bash", command=WRITE, description="Write"), "The word is new."][min(replies(prompt), 1)]


def mini(prompt: str) -> str:
    done = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
    return call("bash", command=[WRITE, done][min(replies(prompt), 1)])


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Content]], Task]:
    """A task whose image is busybox and some files."""
    require_command("busybox", package="busybox-static")
    monkeypatch.setattr(stores, "default_store", lambda: tmp_path / "store")

    def make(files: dict[str, Content]) -> Task:
        store = ImageStore()
        layers = [busybox(), {"w/word": b"old\n", **files}]
        made = image(layers, layout=tmp_path / "layout", Env=["PATH=/bin"], WorkingDir="/w")
        reference = f"registry.example/own@{made.digest}"
        store.name("registry.example/own:1", import_layout(tmp_path / "layout", store, reference=reference))
        written = {
            "task.toml": TOML,
            "instruction.md": "Write new into word.\n",
            "tests/test.sh": "#!/bin/sh\ngrep -q new word && echo 1 > $OUT || echo 0 > $OUT\n",
            "environment/Dockerfile": "FROM scratch\n",
        }
        for name, text in written.items():
            (tmp_path / "task" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "task" / name).write_text(text)
        return load_task(tmp_path / "task")

    return make


@pytest.mark.parametrize("files", [BARE, OTHER_LIBC], ids=["busybox", "other-libc"])
@pytest.mark.parametrize(
    ("settings", "script"),
    [
        (ClaudeCodeScaffold(version="2.1.197", max_turns=20), claude),
        (MiniSweAgentScaffold(version="2.4.6", max_turns=20, max_replies_without_tool=3, command_timeout_sec=20), mini),
    ],
    ids=["claude-code", "mini-swe-agent"],
)
def test_an_agent_works_in_an_image_that_has_nothing_for_it(
    settings: AgentScaffold,
    script: Callable[[str], str],
    files: dict[str, Content],
    own_task: Callable[[dict[str, Content]], Task],
    tokenizer: Path,
    tmp_path: Path,
) -> None:
    it = play(settings, script, task=own_task(files), tokenizer=tokenizer, folder=tmp_path)
    assert (it.result.reward, it.result.termination) == (1.0, Termination.COMPLETED), it.result.error or it.log
    check_tokens(it)
    assert "old" in it.prompts[1] and "none" in it.prompts[1], "its commands inherit no libraries of ours"
