"""The hook and the workflow in docs/reviews.md, run as their programs would run them; and what git marks as
generated."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def documents() -> list[Any]:
    text = (ROOT / "docs" / "reviews.md").read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository: one spec, changed since its commit, one new and wrong; ``liverl`` and ``gh`` on the path."""
    folder = tmp_path / "repo"
    (folder / "specs").mkdir(parents=True)
    spec = folder / "specs" / "a.jsonnet"
    spec.write_text((ROOT / "specs" / "quickstart.jsonnet").read_text())
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    spec.write_text(re.sub(r"(?m)^    steps: \d+", "    steps: 7", spec.read_text()))
    (folder / "specs" / "b.jsonnet").write_text("{ name: 'Bad' }")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("liverl", f'exec env PYTHONPATH={ROOT} PYTHONSAFEPATH= {sys.executable} -m liverl "$@"'),
        ("gh", 'printf "%s\\n" "$@" > "$OUT"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)
    return folder


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )


@pytest.mark.deep
def test_the_hook(repository: Path) -> None:
    (hook,) = documents()[0]["repos"][0]["hooks"]
    assert re.search(hook["files"], "specs/a.jsonnet") and re.search(hook["files"], "specs/lib/liverl.libsonnet")
    done = run(shlex.split(hook["entry"]), repository)
    assert done.returncode == 2
    assert "specs/a.jsonnet: sound" in done.stdout and "specs/b.jsonnet:1:3: name:" in done.stderr
    (repository / "specs" / "b.jsonnet").unlink()
    assert run(shlex.split(hook["entry"]), repository).returncode == 0


@pytest.mark.deep
def test_the_workflow(repository: Path) -> None:
    workflow = documents()[1]
    assert workflow[True]["pull_request"]["paths"] == ["specs/**"]  # YAML 1.1 reads "on" as true
    steps = {step["name"]: step for step in workflow["jobs"]["specs"]["steps"] if "name" in step}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    summary = repository.parent / "summary.md"
    assert run([*shell, steps["Check"]["run"]], repository).returncode == 2
    done = run([*shell, steps["What changes"]["run"]], repository, BASE="HEAD", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    text = (repository / "changes.md").read_text()
    assert re.search(r"\| `schedule.steps` \| `\d+` \| `7` \|", text) and "### `specs/b.jsonnet`\n\nnew" in text
    assert text == summary.read_text()
    comment = steps["Comment"]["run"].replace("${{ github.event.pull_request.number }}", "7")
    assert "${{" not in comment
    assert run([*shell, comment], repository, OUT=str(repository / "said")).returncode == 0
    assert (repository / "said").read_text().split()[:3] == ["pr", "comment", "7"]


def test_generated_files_are_marked_and_digests_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    files = ["golden/a/k8s/x.yaml", "golden/digests.json", "docs/spec.md", "specs/a.jsonnet", "docs/reviews.md"]
    asked = ["git", "check-attr", "linguist-generated", "diff", "--", *files]
    told = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    marked = [line.partition(":")[0] for line in told if line.endswith("linguist-generated: set")]
    assert marked == files[:3]
    assert [line for line in told if line.endswith(": unset")] == ["golden/digests.json: diff: unset"]
