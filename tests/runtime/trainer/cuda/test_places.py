"""Where the processes of a run on GPUs meet, apart from those of other runs and closed to other users."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from runtime.run_paths import RAY_DIR, RunPaths
from runtime.trainer import engine_key
from runtime.trainer.cuda import places
from runtime.trainer.cuda.cards import Card
from runtime.trainer.cuda.platform import CUDA
from runtime.trainer.environment import OWNER


def run(folder: Path) -> RunPaths:
    paths = RunPaths(folder)
    paths.bundle.mkdir(parents=True)
    paths.verl_yaml.write_text("{trainer: {n_gpus_per_node: 2}, actor_rollout_ref: {rollout: {}}}")
    return paths


def test_every_start_has_a_word_of_its_own_that_others_cannot_read(tmp_path: Path) -> None:
    paths = run(tmp_path)
    words = set()
    for _ in range(2):
        CUDA.prepare(paths)
        key = paths.engines / engine_key.KEY
        words.add(key.read_text())
        assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(paths.engines.stat().st_mode) == 0o700
    assert len(words) == 2 and all(len(word) > 30 for word in words)


def test_two_runs_of_one_machine_take_two_pairs_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before either uses any memory; a run whose launcher is dead keeps nothing."""
    cards = [Card(str(number), "A", 80, 80) for number in range(4)]
    monkeypatch.setattr("runtime.trainer.cuda.cards.visible", lambda: cards)
    monkeypatch.setattr("runtime.trainer.environment._RAY_DIRS", tmp_path)
    for number, (alive, found) in enumerate([([], "0,1"), ([0], "2,3"), ([1], "0,1")]):
        monkeypatch.setattr("runtime.trainer.environment.is_same_process", lambda pid, _, alive=alive: pid in alive)
        paths = run(tmp_path / str(number))
        CUDA.prepare(paths)
        assert CUDA.environment(paths)["CUDA_VISIBLE_DEVICES"] == found
        folder = tmp_path / f"lr-0000000{number}"
        folder.mkdir()
        (folder / OWNER).write_text(json.dumps({"run": str(paths.path), "pid": number, "start": 0}))


def test_addresses_are_what_has_been_written_whole(tmp_path: Path) -> None:
    engine_key.make_key(tmp_path)
    assert places.addresses(tmp_path) == {}
    (tmp_path / f"replica-1{places.ADDRESS}").write_text("http://127.0.0.1:2")
    (tmp_path / f"replica-0{places.ADDRESS}").write_text("http://127.0.0.1:1")
    (tmp_path / ".replica-2.url.abc.tmp").write_text("http://half")
    assert places.addresses(tmp_path) == {"replica-0": "http://127.0.0.1:1", "replica-1": "http://127.0.0.1:2"}


def test_two_runs_of_one_machine_hand_weights_over_in_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"
    found = set()
    for run in ("/tmp/lr-00000001", "/tmp/lr-00000002"):
        monkeypatch.setenv(RAY_DIR, run)
        found.add(places.in_run(handle))
    assert found == {f"ipc:///tmp/lr-0000000{n}/rl-colocate-zmq-01000000-replica-0-rank-0.sock" for n in (1, 2)}
    assert all(len(place.removeprefix("ipc://")) < 107 for place in found)
