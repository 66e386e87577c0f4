"""The commands about specs, as a user types them: what they print, write and return."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import command
from tests.compiler.golden_cases import LAB, REPOSITORY

SPEC = str(LAB)


def liverl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command.liverl(*arguments, cwd=cwd, env={"PATH": "/usr/bin:/bin", "HOME": str(cwd)})


def test_compile_writes_the_bundle_and_prints_the_summary(tmp_path: Path) -> None:
    done = liverl("compile", SPEC, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "quickstart" / "local" / "verl.yaml").is_file()
    assert "trajectories per step" in done.stdout
    assert done.stderr == ""


def test_a_wrong_spec_ends_with_2_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonnet").write_text("(import 'liverl.libsonnet').mode.sync { type: 'x' }")
    done = liverl("compile", "bad.jsonnet", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(line.startswith("bad.jsonnet") for line in done.stderr.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonnet"]


def test_a_sweep_becomes_one_bundle_per_point(tmp_path: Path) -> None:
    sweep = str(REPOSITORY / "specs" / "sweep.jsonnet")
    done = liverl("compile", sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quickstart-sweep/local: 12 bundles" in done.stdout and "lr8e-4-g4-s1" in done.stdout
    assert len(list((tmp_path / "build" / "quickstart-sweep" / "local").glob("*/verl.yaml"))) == 12
    point = liverl("plan", sweep, "--point", "lr8e-4-g4-s1", "--json", cwd=tmp_path)
    assert json.loads(point.stdout)["experiment"] == "quickstart-sweep-lr8e-4-g4-s1"
    for arguments in (("run", "build/quickstart-sweep/local"), ("plan", sweep)):
        refused = liverl(*arguments, cwd=tmp_path)
        assert refused.returncode == 2 and "sweep of" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "nowhere.jsonnet"),
        ("compile", SPEC, "--target", "moon"),
        ("compile", SPEC, "--set", "seed"),
        ("compile", SPEC, "--tla", "9=1"),
        ("compile", SPEC, "--tla", "a=1"),
        ("compile", SPEC, "--point", "a"),
        ("explain", SPEC, "no.such.field"),
        ("explain", "build/verl.yaml:3"),
        ("diff", SPEC, "nowhere"),
        ("compile", SPEC, "--set", "algorithm.group_size=1"),
    ],
)
def test_wrong_arguments_end_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = liverl(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "internal" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_as_json(tmp_path: Path) -> None:
    sound = liverl("check", SPEC, "--json", cwd=tmp_path)
    assert sound.returncode == 0
    assert json.loads(sound.stdout) == {"ok": True, "problems": []}
    wrong = liverl("check", SPEC, "--json", "--set", "mode.type=synch", cwd=tmp_path)
    assert wrong.returncode == 2
    (problem,) = json.loads(wrong.stdout)["problems"]
    assert problem["path"] == "mode.type" and "did you mean sync" in problem["fix"]
    assert list(tmp_path.iterdir()) == []


def test_plan_schema_and_explain(tmp_path: Path) -> None:
    assert json.loads(liverl("plan", SPEC, "--json", cwd=tmp_path).stdout)["trajectories_per_step"] == 128
    assert json.loads(liverl("schema", cwd=tmp_path).stdout)["title"]
    assert "set at" in liverl("explain", SPEC, "seed", cwd=tmp_path).stdout


def test_diff_of_two_specs(tmp_path: Path) -> None:
    gspo = str(REPOSITORY / "specs" / "quickstart-gspo.jsonnet")
    done = liverl("diff", SPEC, gspo, "--markdown", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '| `actor_rollout_ref.actor.policy_loss.loss_mode` | `"vanilla"` | `"gspo"` |' in done.stdout
