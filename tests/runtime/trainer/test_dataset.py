"""The parquet files, read back as verl reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runtime.errors import UserError
from runtime.trainer.dataset import mixed, write_dataset
from tests.runtime.agent_loop.conftest import make_config, make_task


def test_rows_point_at_tasks_and_carry_the_sets_name_and_temperature(tmp_path: Path) -> None:
    tasks = [make_task(tmp_path / "tasks", name) for name in ("one", "two")]
    write_dataset(tmp_path, make_config(), {"train": tasks}, {"held-out": tasks[:1], "other": tasks[1:]})
    train = pq.read_table(tmp_path / "data" / "train.parquet").to_pylist()
    assert [row["extra_info"]["task"] for row in train] == [str(task.path) for task in tasks]
    assert [row["extra_info"]["index"] for row in train] == [0, 1]
    assert [row["extra_info"]["image"] for row in train] == ["", ""], "their boxes are the machine's"
    assert train[0]["prompt"] == [{"role": "user", "content": tasks[0].instruction}]
    val = pq.read_table(tmp_path / "data" / "val.parquet").to_pylist()
    assert [(row["data_source"], row["extra_info"]["temperature"]) for row in val] == [("held-out", 0.0), ("other", -1)]
    assert not list((tmp_path / "data").glob(".*"))


def test_a_spec_without_validation_gets_the_file_that_verl_reads(tmp_path: Path) -> None:
    tasks = [make_task(tmp_path / "tasks", name) for name in ("one", "two")]
    write_dataset(tmp_path, make_config().model_copy(update={"validation": ()}), {"train": tasks}, {})
    val = pq.read_table(tmp_path / "data" / "val.parquet").to_pylist()
    assert [row["extra_info"]["task"] for row in val] == [str(tasks[0].path)]
    with pytest.raises(UserError, match="val: no usable task is left"):
        write_dataset(tmp_path, make_config(), {"train": tasks}, {"held-out": []})


def test_a_run_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train: no usable task is left"):
        write_dataset(tmp_path, make_config(), {"train": []}, {})


def test_sets_are_mixed_by_weight(tmp_path: Path) -> None:
    few, many = ([make_task(tmp_path / name, f"{name}-{i}") for i in range(n)] for name, n in (("few", 3), ("many", 8)))
    sets = {"few": few, "many": many, "none": []}
    assert mixed(sets, {}, 0) == sets
    found = mixed(sets, {"few": 1.0, "many": 2.0, "none": 5.0}, 0)
    assert [len(found[name]) for name in ("few", "many")] == [4, 8] and {task.id for task in found["few"]} == {
        task.id for task in few
    }
    assert found == mixed(sets, {"few": 1.0, "many": 2.0, "none": 5.0}, 0), "the seed alone draws"
    found = mixed(sets, {"few": 3.0, "many": 1.0, "none": 1.0}, 0)
    assert [len(found[name]) for name in ("few", "many")] == [24, 8]
    with pytest.raises(UserError, match="make the weights less unequal"):
        mixed(sets, {"few": 1e6, "many": 1e-3, "none": 1.0}, 0)
