"""What this version of the runtime refuses is said when a spec is compiled: each entry of ``runtime.config.LIMITS``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from compiler import check_spec, compile_in_memory
from compiler.bundle import write_bundle
from compiler.errors import dotted
from compiler.overview import overview
from liverl.launchers import launch
from runtime.config import LACKING, LIMITS, Environment, Limit, RuntimeConfig
from runtime.errors import MachineError
from runtime.launch import local
from runtime.launch.machine import check_limits
from tests.compiler.golden_cases import LAB

IMPORTED = 'scaffold={"type": "import", "import_path": "package.module:Class"}'
PROCESS = 'environment={"type": "process", "required_defences": ["canary", "seccomp"]}'
EXAMPLES: dict[str, tuple[Path, list[str]]] = {
    "scaffold.type": (LAB, [IMPORTED]),
    "environment.required_defences": (LAB, [PROCESS]),
}
"""Field of a limit -> a spec that meets it."""


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.field)
def test_compile_check_and_plan_warn_of_what_a_run_refuses(limit: Limit, tmp_path: Path) -> None:
    spec, sets = EXAMPLES[limit.field]
    bundle = compile_in_memory(spec, sets=sets)
    (warning,) = [one for one in bundle.warnings if dotted(one.path) == limit.field]
    assert warning.severity == "warn" and "`liverl run` refuses it" in warning.what and warning.fix == limit.fix
    assert warning.position.startswith("--set " if sets else str(spec))
    assert warning in check_spec(spec, sets=sets)
    assert warning.text in bundle.files["SUMMARY.md"] and warning.text in overview(spec, sets=sets).page

    with pytest.raises(MachineError) as refused:
        local.prepare(bundle.files, runs_dir=tmp_path / "runs")
    assert f"{limit.field}: {warning.what.partition(', so `liverl run`')[0]}" in str(refused.value)
    assert limit.fix in refused.value.fix and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.field)
def test_no_cluster_is_asked_for_what_its_run_would_refuse(
    limit: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubectl").write_text("#!/bin/sh\ntouch called\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    spec, sets = EXAMPLES[limit.field]
    folder = tmp_path / "bundle"
    write_bundle(folder, compile_in_memory(spec, target="k8s", sets=sets).files)
    with pytest.raises(MachineError, match=limit.field):
        launch("k8s", folder, runs_dir=tmp_path)
    assert not (folder / "called").exists()


def test_all_limits_are_told_at_once_and_sound_specs_meet_none() -> None:
    sound = RuntimeConfig.model_validate_json(compile_in_memory(LAB).files["runtime.json"])
    check_limits(sound)
    changes = {"environment": {"type": "process", "required_defences": ["seccomp", "memory_limit"]}}
    wrong = json.loads(compile_in_memory(LAB, sets=[IMPORTED]).files["runtime.json"]) | changes
    with pytest.raises(MachineError) as refused:
        check_limits(RuntimeConfig.model_validate_json(json.dumps(wrong)))
    assert len(str(refused.value).splitlines()) == 2 and "never have memory_limit, seccomp" in str(refused.value)


@pytest.mark.parametrize("kind", sorted(LACKING))
def test_kinds_of_sandboxes_exist(kind: str) -> None:
    assert kind in {model.model_fields["type"].default for model in get_args(get_args(Environment)[0])}
