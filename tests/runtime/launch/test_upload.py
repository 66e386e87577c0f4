"""Runs that are copied to a bucket while they go on: by the real thread, to a folder and to S3's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liverl.cli_ledger import pull, runs
from runtime.config.upload import Upload
from runtime.errors import MachineError, UserError
from runtime.launch import bucket, rundir
from runtime.launch.bucket import Bucket
from runtime.launch.rundir import RunDirectory
from runtime.launch.upload import Uploader, worth_keeping
from runtime.telemetry.metrics import Row
from runtime.trainer.stable import MARKER, mark_stable, step_folder
from tests.runtime.sandboxes.ecs.test_ecs import server

__all__ = ["server"]


def _run(tmp_path: Path) -> RunDirectory:
    run = rundir.create(tmp_path / "runs", experiment="demo", target="local")
    (run.bundle / "runtime.json").parent.mkdir(parents=True, exist_ok=True)
    (run.bundle / "runtime.json").write_text("{}")
    return run


def _checkpoint(run: RunDirectory, step: int, *, score: float) -> None:
    folder = step_folder(run.checkpoints, step)
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "weights").write_bytes(bytes([step]) * 100)
    mark_stable(folder)
    row = {"step": step, "data": {"val-core/held-out/reward/mean@1": score}}
    with run.metrics.open("ab") as rows:
        rows.write(orjson.dumps(row) + b"\n")


@pytest.fixture
def local(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/team"


def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path: Path, local: str) -> None:
    run, there, said = _run(tmp_path), Bucket(local), list[str]()
    name = f"demo/{run.path.name}"
    uploader = Uploader(run, Upload(url=local, every_sec=1.0), said.append)
    kept = []
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.4), (4, 0.9)):
        _checkpoint(run, step, score=score)
        uploader.once()
        kept.append(sorted(there.checkpoints(name)))
    assert kept == [[1], [2], [2, 3], [4]]
    # Another start of the run knows what is there; what was pruned here stays.
    (step_folder(run.checkpoints, 4) / MARKER).unlink()
    _checkpoint(run, 5, score=0.1)
    again = Uploader(run, Upload(url=local, every_sec=1.0), said.append)
    again.start()
    run.finish("succeeded", exit_code=0, cause="")
    again.finish()
    assert sorted(there.checkpoints(name)) == [4, 5] and said == []
    (found,) = bucket.runs(there)
    assert (found.name, found.record.state) == (name, "succeeded")


def test_a_half_copied_checkpoint_does_not_count(tmp_path: Path, local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, there = _run(tmp_path), Bucket(local)
    _checkpoint(run, 1, score=0.5)
    (step_folder(run.checkpoints, 1) / "actor" / "zz").write_bytes(b"z")
    uploader = Uploader(run, Upload(url=local), lambda text: None)
    real = Bucket.put

    def pruned(self: Bucket, path: Path, place: str) -> None:
        if path.name == "zz":
            raise FileNotFoundError(path)
        real(self, path, place)

    monkeypatch.setattr(Bucket, "put", pruned)
    uploader.once()
    assert there.checkpoints(f"demo/{run.path.name}") == {}
    assert any(place.endswith("actor/weights") for place in there.files("demo"))
    monkeypatch.undo()
    uploader.once()
    assert list(there.checkpoints(f"demo/{run.path.name}")) == [1]


def test_a_bucket_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    run, said = _run(tmp_path), list[str]()
    (tmp_path / "file").write_text("")
    uploader = Uploader(run, Upload(url=f"file://{tmp_path}/file/x", every_sec=1.0), said.append)
    uploader.start()
    uploader.finish()
    assert len(said) == 1 and said[0].startswith("upload: file://")


def test_a_run_is_listed_and_pulled(tmp_path: Path, local: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path)
    _checkpoint(run, 7, score=0.5)
    Uploader(run, Upload(url=local), lambda text: None).once()
    runs(source=local, as_json=True)
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["run"], line["checkpoints"]) == (run.path.name, [7])
    with pytest.raises(UserError, match="is there already"):
        pull(local, "last", tmp_path / "runs")
    pull(local, run.path.name[:-1], tmp_path / "other")
    brought = RunDirectory(Path(capsys.readouterr().out.strip()))
    assert brought.read() == run.read() and brought.metrics.read_bytes() == run.metrics.read_bytes()
    weights = "checkpoints/global_step_7/actor/weights"
    assert (brought.path / weights).read_bytes() == (run.path / weights).read_bytes()
    pull(local, "demo/", tmp_path / "bare", checkpoints=False)
    assert not list((tmp_path / "bare").rglob("weights"))
    with pytest.raises(UserError, match="matches 0 runs"):
        pull(local, "nothing", tmp_path / "other")
    with pytest.raises(UserError, match="no runs here"):
        pull(f"file://{tmp_path}/nowhere", "last", tmp_path / "other")
    (tmp_path / "bucket" / "team" / "demo" / "-x").mkdir()
    (tmp_path / "bucket" / "team" / "demo" / "-x" / "run.json").write_bytes(run.record_file.read_bytes())
    with pytest.raises(UserError, match="is no name of a run"):
        bucket.pull(there := Bucket(local), bucket.Found("demo/-x", run.read()), tmp_path / "other", checkpoints=False)
    with pytest.raises(UserError, match="is no name of a run"):
        bucket.pull(there, bucket.Found("demo/../x", run.read()), tmp_path / "other", checkpoints=False)
    assert not list((tmp_path / "other").rglob(".*.partial"))
    with pytest.raises(MachineError, match="file:///dev/null: "):
        runs(source="file:///dev/null")
    with pytest.raises(UserError, match="what://x/y: not of the form s3://BUCKET/PATH"):
        runs(source="what://x/y")


@given(st.dictionaries(st.integers(0, 30), st.none() | st.floats(0, 1), max_size=8))
def test_what_is_worth_keeping(scores: dict[int, float | None]) -> None:
    name = "val-core/held-out/reward/mean@1"
    rows = [Row(step, {} if score is None else {name: score}) for step, score in scores.items()]
    kept = worth_keeping(set(scores), rows)
    assert len(kept) <= 2 and kept <= set(scores) and (not scores or max(scores) in kept)
    known = {step: score for step, score in scores.items() if score is not None}
    if known:
        assert any(known.get(step) == max(known.values()) for step in kept)


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for variable, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", server)):
        monkeypatch.setenv(f"AWS_{variable}", value)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    client.create_bucket(Bucket="team-runs")
    yield "s3://team-runs/nightly"
    client.close()


@pytest.mark.network
def test_s3s_protocol(tmp_path: Path, s3: str) -> None:
    run = _run(tmp_path)
    _checkpoint(run, 1, score=0.5)
    uploader = Uploader(run, Upload(url=s3), lambda text: None)
    uploader.once()
    _checkpoint(run, 2, score=0.6)
    uploader.once()
    there = Bucket(s3)
    (found,) = bucket.runs(there)
    assert list(there.checkpoints(found.place)) == [2]
    brought = bucket.pull(there, found, tmp_path / "other", checkpoints=True)
    assert (brought / "checkpoints/global_step_2/actor/weights").read_bytes() == bytes([2]) * 100
    with pytest.raises(bucket.BucketError, match="nobody-has-this"):
        Bucket("s3://nobody-has-this/x").write("y", b"z")
