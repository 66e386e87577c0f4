"""``--target skypilot``: a task that SkyPilot's own schemas accept, and a script that brings Ray up across machines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.errors import dotted
from tests.compiler.golden_cases import LAB
from tests.targets.schemas import skypilot_errors
from tests.targets.variants import AZURE, EIGHT, GPUS, SKIES, VARIANTS, cluster, compiled


def task(variant: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(compiled(variant, "skypilot")["task.sky.yaml"])
    return document


@pytest.mark.parametrize("variant", VARIANTS)
def test_skypilots_schemas_accept_it(variant: str) -> None:
    assert skypilot_errors(task(variant)) == []


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("resources", "acelerators", "H100:8"), ("resources", "cloud", "awz"), ("", "num_nodes", "two")],
)
def test_the_schemas_are_not_blind(part: str, key: str, value: Any) -> None:
    broken = task("gpus")
    (broken[part] if part else broken)[key] = value
    assert skypilot_errors(broken)


def test_a_spot_job_recovers_from_its_bucket() -> None:
    site = task("site")
    assert site["num_nodes"] == 2
    resources = site["resources"]
    assert resources["use_spot"] is True and resources["accelerators"] == {"H100": 8}
    assert resources["job_recovery"]["max_restarts_on_errors"] == 2
    assert resources["autostop"] == {"idle_minutes": 30, "down": True}
    assert site["file_mounts"]["~/liverl/runs"] == {"source": "s3://team-runs", "mode": "MOUNT_CACHED"}
    assert "--runs-dir ~/liverl/runs --resume auto" in site["run"]
    assert site["secrets"] == {"HF_TOKEN": None, "WANDB_API_KEY": None}


FOLDER = {"source": {"type": "bucket", "url": "gs://team-sets/one"}, "mount_path": "/mnt/sets"}


def run_script(folder: Path, *, rank: int) -> tuple[int, list[str]]:
    """The task's script with fake ``ray`` and ``python``; exit code and what was called."""
    programs = folder / "bin"
    programs.mkdir()
    record = f'echo "$(basename "$0") $*" LIVERL_RAY_ADDRESS=$LIVERL_RAY_ADDRESS >> {folder}/calls'
    ends = 'case "$*" in *--head*) trap "kill %1; exit 0" TERM; sleep 60 > /dev/null 2>&1 & wait;; *) exit 1;; esac'
    # As the real one does: wait until Ray is there.
    fails = f'until grep -q ^ray {folder}/calls; do sleep 0.05; done; case "$*" in *liverl*) exit 7;; esac'
    for name, end in (("ray", ends), ("python", fails)):
        (programs / name).write_text(f"#!/bin/bash\n{record}\n{end}\n")
        (programs / name).chmod(0o755)
    (programs / "sleep").write_text('#!/bin/bash\n[ "$1" = 2 ] && exit 0\nexec /bin/sleep "$1"\n')
    (programs / "sleep").chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(folder),
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_NODES": "2",
    }
    ended = subprocess.run(
        ["bash", "-c", task("site")["run"]], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    calls = folder / "calls"
    return ended.returncode, calls.read_text().splitlines() if calls.exists() else []


def test_the_head_starts_ray_waits_and_runs(tmp_path: Path) -> None:
    code, calls = run_script(tmp_path, rank=0)
    assert code == 7  # the run's own
    assert len(calls) == 3
    assert all(call.endswith("LIVERL_RAY_ADDRESS=127.0.0.1:6379") for call in calls)
    started, waited, ran = sorted(calls, key=lambda call: (not call.startswith("ray"), "liverl run" in call))
    assert started.startswith("ray start --head --port 6379")
    assert waited.startswith("python - 127.0.0.1:6379 2")
    assert ran.startswith("python -m liverl run")


def test_other_machines_join_and_end_well_when_the_head_ends(tmp_path: Path) -> None:
    code, calls = run_script(tmp_path, rank=1)
    assert code == 0
    (joined,) = calls
    assert joined.startswith("ray start --address 127.0.0.1:6379")
    assert "ray stop" not in "".join(calls)


def test_the_bundle_travels_whole() -> None:
    """SkyPilot leaves out what the repository ignores, ``build/`` among it, unless the folder says otherwise."""
    assert all(line.startswith("#") for line in compiled("site", "skypilot")[".skyignore"].splitlines())


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ([*GPUS, cluster(worker=EIGHT)], "cluster.skypilot.accelerator"),
        (GPUS, "cluster.worker.gpus"),
        (["trainer.nodes=2", "trainer.micro_batch_size=1"], "cluster.skypilot.nodes"),
        (['rollout.agent_loop={"workers": 2, "resource": "boxes"}'], "rollout.agent_loop.resource"),
        ([cluster(skypilot={"infra": "azur"})], "cluster.skypilot.infra"),
        ([cluster(skypilot={"infra": "gcp/a/b/c"})], "cluster.skypilot.infra"),
        ([cluster(skypilot={"infra": "lambda/us/a"})], "cluster.skypilot.infra"),
        ([cluster(skypilot={"infra": "lambda", "spot": True})], "cluster.skypilot.spot"),
        ([cluster(skypilot={"infra": "gcp"}, labels={"Team": "rl"})], "cluster.labels.Team"),
        ([cluster(skypilot={"jobs_bucket": "/tmp"})], "cluster.skypilot.jobs_bucket"),
        ([cluster(storage={"bucket": "https://example.com/x"})], "cluster.storage.bucket"),
        ([cluster(storage={"bucket": "my bucket"})], "cluster.storage.bucket"),
        ([cluster(storage={"bucket": "s3://team-runs/liverl"})], "cluster.storage.bucket"),
        ([cluster(storage={"bucket": f"{AZURE}/liverl"})], "cluster.storage.bucket"),
        ([cluster(volumes=[FOLDER])], "cluster.volumes[0].source.url"),
    ],
)
def test_what_machines_cannot_hold_is_refused(sets: list[str], path: str) -> None:
    fatal = [problem for problem in check_spec(LAB, target="skypilot", sets=sets) if problem.severity == "fatal"]
    assert path in [dotted(problem.path) for problem in fatal]


@pytest.mark.parametrize("name", SKIES)
def test_every_cloud_has_its_task(name: str) -> None:
    files = compile_in_memory(LAB, target="skypilot", sets=SKIES[name]).files
    document = yaml.safe_load(files["task.sky.yaml"])
    assert skypilot_errors(document) == []
    resources = document["resources"]
    assert resources["infra"].startswith(name)
    # SkyPilot ends no idle pods, and a managed job needs it nowhere.
    assert ("autostop" in resources) == (name != "kubernetes")
    assert ("labels" in resources) == (name != "lambda")
    bucket = document["file_mounts"]["~/liverl/runs"]["source"]
    assert f'--config "jobs.bucket={bucket}"' in files["task.sky.yaml"]
    assert document["file_mounts"]["/weights"] == f"{bucket}/hub"


def test_labels_that_a_cloud_passes_over_are_a_warning() -> None:
    found = check_spec(LAB, target="skypilot", sets=[cluster(skypilot={"infra": "lambda"}, labels={"team": "rl"})])
    assert ("cluster.labels.team", "warn") in {(dotted(one.path), one.severity) for one in found}


def test_spot_without_a_bucket_is_a_warning() -> None:
    problems = check_spec(LAB, target="skypilot", sets=[cluster(skypilot={"spot": True})])
    assert "cluster.storage.bucket" in [dotted(problem.path) for problem in problems]
    assert all(problem.severity == "warn" for problem in problems)
