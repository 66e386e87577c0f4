"""A RayJob's pods, as KubeRay and a kubelet start them, but as processes: the bundle's commands, variables, mounts and
users carry a run to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler import compile_in_memory
from runtime.files import write_folder
from runtime.launch.rundir import RunDirectory
from runtime.telemetry.metrics import read_rows
from tests import rayjob
from tests.liverl.test_run import SMALL

ROOT = Path(__file__).parents[2]
USER = 10001

pytestmark = [pytest.mark.sandbox, pytest.mark.torch, pytest.mark.verl, pytest.mark.timeout(900)]


def test_the_pods_of_a_rayjob_train(tmp_path: Path) -> None:
    rayjob.require()
    sets = [f"{path}={value}" for path, value in SMALL.items()]
    sets += ["schedule.steps=2", "schedule.validate_every=2", "schedule.save_every=2"]
    bundle = compile_in_memory(ROOT / "specs" / "quickstart.jsonnet", target="k8s", sets=sets)
    write_folder(tmp_path / "bundle", bundle.files)
    with rayjob.RayJob.running(tmp_path / "bundle", tmp_path) as job:
        submitter = job.submit()
        assert submitter.wait() == 0, submitter.log.read_text()[-4000:] + job.pods[0].log.read_text()[-2000:]
    (record,) = (tmp_path / "volumes" / "claim" / "runs").glob("*/*/run.json")
    run = RunDirectory(record.parent)
    assert run.read().state == "succeeded" and run.read().host == "head"
    assert {row.step for row in read_rows(run.metrics)} >= {0, 1, 2}
    assert {path.lstat().st_uid for path in run.path.rglob("*")} == {USER}
