"""Every command that README.md and docs/ show is right: cheap ones are run, in this process, page by page in a folder;
the others are read by the real parser, and the specs that they name are there.

A page's files come from the page itself: a block with `title="path"` is written to that path first."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs import pages, shell

RUN = {"check", "compile", "plan", "explain", "diff", "schema", "init", "runs"}
"""Commands of ours that are run. They write files and start nothing."""

NOT_RUN = {
    "run": "it trains: tests/liverl/test_run.py, and the benchmarks of docs/measurements.md",
    "eval": "it needs a checkpoint: tests/liverl/test_run.py",
    "infer": "it needs a policy: tests/liverl/test_run.py",
    "proxy": "it serves until it is stopped: tests/liverl/test_proxy.py",
    "doctor": "what it says is this machine's: tests/liverl/test_cli.py",
    "status": "it needs a run: tests/liverl/test_cli.py",
    "logs": "it needs a run: tests/liverl/test_cli.py",
    "stop": "it needs a run: tests/liverl/test_operating.py",
    "pull": "it needs a bucket: tests/runtime/launch/test_upload.py",
    "dashboard": "it serves until it is stopped: tests/runtime/page",
    "models": "it fetches and converts: tests/runtime/models",
    "images": "it needs a registry: tests/runtime/oci/test_store.py",
    "trials": "it needs a run: tests/liverl/test_operating.py",
    "trial": "it needs a run: tests/liverl/test_operating.py",
    "compare": "it needs two runs: tests/liverl/test_operating.py",
    "export": "it needs a run: tests/liverl/test_operating.py, tests/runtime/page/test_static.py",
    "replay": "it needs a run: tests/liverl/test_replay.py",
    "shell": "it starts a sandbox: tests/liverl/test_replay.py",
    "gc": "it deletes: tests/liverl/test_operating.py",
    "tasks": "they start sandboxes: tests/docs/test_recipes.py, tests/runtime/tasks",
}
"""Commands of ours that are parsed only, and why."""

OTHERS = {
    "make": "installs, tests or trains; that the target exists is checked here",
    "vllm": "a server on a GPU: tests/compiler/test_real_vllm.py gives its parser what we write",
    "hf": "downloads a model",
    "claude": "a published agent: tests/liverl/test_run_claude_code.py drives it",
    "curl": "asks a proxy that is running: tests/liverl/test_proxy.py asks the same",
    "docker": "builds an image of gigabytes; tests/targets/test_docker.py reads the Dockerfile",
    "kubectl": "needs a cluster, or kustomize: tests/targets/test_consumers.py builds the bundle with it",
    "sky": "needs an account; tests/targets/test_sky_optimizer.py runs its planner",
    "export": "sets a variable of your shell",
    "python3": "a script of verl's, for comparison",
    "harbor": "needs Python 3.12 and minutes: tests/runtime/sandboxes/harbor has it",
}
"""Programs that are not `liverl`, and why they are not run here."""


def shown(page: Path) -> list[shell.Command]:
    return [command for block in pages.blocks(page) for command in shell.in_block(block)]


WITH_COMMANDS = [page for page in pages.PAGES if shown(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_commands_in_blocks_are_right(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pages.ROOT / "specs", tmp_path / "specs", ignore=shutil.ignore_patterns("__pycache__"))
    for block in pages.blocks(page):
        if block.title:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for command in shown(page):
        if command.program == "make":
            assert set(command.words) <= shell.targets(), command
        elif command.program == "cd":
            monkeypatch.chdir(command.words[0])
        elif command.program == "liverl":
            _liverl(command)
        else:
            assert command.program in OTHERS, f"{command}: not run; say why in OTHERS"


def _liverl(command: shell.Command) -> None:
    name, found, rest = shell.find(command.words)
    group = name.partition(" ")[0]
    assert group in RUN | NOT_RUN.keys(), f"{command}: not run; say why in NOT_RUN"
    for word in rest:
        if re.fullmatch(r"[\w./-]+\.jsonnet", word):
            assert Path(word).is_file(), f"{command}: no {word}; show it in a block with its title, or name another"
    try:
        if group in RUN:
            shell.tree().main(list(command.words), standalone_mode=False)
        else:
            out = found.make_context(name, rest).params.get("out")
            if out is not None and not out.suffix:
                out.mkdir(parents=True, exist_ok=True)  # what it would have made; later commands of the page name it
    except Exception as error:
        raise AssertionError(f"{command}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_commands_in_sentences_exist(page: Path) -> None:
    wrong = []
    for line, text in pages.code_words(page):
        if re.match(r"(\S*/)?(liverl|make|python) [\w-]", text):
            wrong += [f"{page.name}:{line}: `{text}`: {problem}" for problem in shell.problems_of_a_mention(text)]
    assert not wrong, "\n".join(wrong)


def test_the_reasons_are_those_of_what_pages_show() -> None:
    commands = [command for page in WITH_COMMANDS for command in shown(page)]
    programs = {command.program for command in commands}
    ours = {command.words[0] for command in commands if command.program == "liverl"}
    assert OTHERS.keys() <= programs, OTHERS.keys() - programs
    assert NOT_RUN.keys() <= ours, NOT_RUN.keys() - ours
    assert not RUN & NOT_RUN.keys() and set(shell.tree().commands) >= RUN
    for reason in (*NOT_RUN.values(), *OTHERS.values()):
        assert all((pages.ROOT / path).exists() for path in re.findall(r"tests/[\w/.]*\w", reason)), reason


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("liverl rum SPEC", "no command"),
        ("liverl run SPEC --hurry", "has no --hurry"),
        ("liverl tasks prove DIR", "no command tasks prove"),
        ("make quick", "no target"),
        ("python benchmarks/none.py", "no file"),
        ("liverl check specs/none.jsonnet", "no file"),
    ],
)
def test_a_wrong_mention_is_found(text: str, problem: str) -> None:
    (found,) = shell.problems_of_a_mention(text)
    assert problem in found


def test_a_wrong_command_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("liverl run a --target", "liverl check none.jsonnet", "liverl logs", "liverl compile quickstart -x"):
        (command,) = shell.split("here", text)
        with pytest.raises(AssertionError, match="here: liverl"):
            _liverl(command)
    (piped, two) = shell.split("here", "A=1 .venv/bin/liverl schema > x.json | wc -l  # so many")
    assert (piped.program, piped.words, two.program) == ("liverl", ("schema",), "wc")
