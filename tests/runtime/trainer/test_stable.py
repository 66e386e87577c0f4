"""Which checkpoint is whole, which one a resume takes, and which ones go."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from runtime.trainer import stable


def checkpoint(root: Path, step: int, *, marked: bool = True) -> Path:
    folder = stable.step_folder(root, step)
    (folder / "actor" / "huggingface").mkdir(parents=True)
    (folder / "actor" / "huggingface" / "vocabulary").write_bytes(b"w" * 100)
    (folder / "data.pt").write_bytes(b"d" * step)
    if marked:
        stable.mark_stable(folder)
    return folder


def test_a_truncated_or_pruned_checkpoint_is_not_whole(tmp_path: Path) -> None:
    first, second, third = (checkpoint(tmp_path, step) for step in (1, 2, 3))
    checkpoint(tmp_path, 4, marked=False)
    (second / "actor" / "huggingface" / "vocabulary").write_bytes(b"w" * 99)
    (third / "data.pt").unlink()
    assert stable.stable_steps(tmp_path) == [1] and stable.is_stable(first)
    (first / stable.MARKER).write_text("{")
    assert stable.stable_steps(tmp_path) == []


def test_resuming_never_loses_a_row_when_one_step_back_is_whole(tmp_path: Path) -> None:
    assert stable.choose(tmp_path, reported=[]) is None
    for step in (4, 5, 6):
        checkpoint(tmp_path, step)
    assert stable.choose(tmp_path, reported=[4, 5, 6]) == 6
    assert stable.choose(tmp_path, reported=[4, 5]) == 5
    assert stable.choose(tmp_path, reported=[1]) == 6


def test_preparing_a_resume_leaves_only_what_is_whole_and_points_verl_at_it(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 3, marked=False)
    (tmp_path / stable.LATEST).write_text("6")
    stable.prepare_resume(tmp_path, 4)
    assert (tmp_path / stable.LATEST).read_text() == "4" and stable.stable_steps(tmp_path) == [2, 4]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["global_step_2", "global_step_4"]
    stable.prepare_resume(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_saving_marks_the_new_checkpoint_and_keeps_the_newest_three(tmp_path: Path) -> None:
    marker = stable.StableMarker(config=None)
    for step in range(1, 6):
        folder = checkpoint(tmp_path, step, marked=False)
        marker.on_save(trainer=None, global_step=step, checkpoint_dir=str(folder), async_save=False, future=1)
    assert stable.stable_steps(tmp_path) == [3, 4, 5] and len(list(tmp_path.iterdir())) == 3
    with pytest.raises(RuntimeError, match="async_save"):
        marker.on_save(None, 6, str(tmp_path), async_save=True)


@pytest.mark.parametrize(("types", "dtype"), [(("F32", "F32"), "float32"), (("F32", "BF16"), "bfloat16")])
def test_a_saved_models_config_says_what_its_tensors_are(tmp_path: Path, types: tuple[str, str], dtype: str) -> None:
    header = {f"t{i}": {"dtype": one, "shape": [0], "data_offsets": [0, 0]} for i, one in enumerate(types)}
    content = orjson.dumps({**header, "__metadata__": {"format": "pt"}})
    (tmp_path / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "dtype": "bfloat16"}')
    stable.name_true_dtype(tmp_path)
    assert orjson.loads((tmp_path / "config.json").read_bytes()) == {"model_type": "qwen2", "dtype": dtype}


def test_a_checkpoint_has_the_modes_of_ordinary_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, marked=False)
    for path in (folder / "data.pt", folder / "actor" / "huggingface" / "vocabulary"):
        path.chmod(0o600)
    (plain := tmp_path / "plain").touch()
    stable.StableMarker().on_save(None, 1, str(folder))
    modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    assert modes == {plain.stat().st_mode}
