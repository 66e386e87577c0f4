"""Where a command is to write (``-o``) is looked at before it works, and nothing is left behind."""

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from liverl.cli import build_app
from liverl.options import folder_to_write, to_write
from runtime.errors import UserError

COMMANDS = (
    ("tasks", "generate", "gone"),
    ("tasks", "prepare", "quickstart"),
    ("tasks", "import", "swe-bench"),
    ("tasks", "synth", "--seed", "1", "-n", "2"),
    ("tasks", "index", "gone"),
    ("tasks", "demonstrate", "quickstart"),
    ("export", "page", "gone"),
    ("export", "trajectories", "gone"),
    ("export", "model", "gone", "1"),
    ("proxy", "http://127.0.0.1:1"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
@pytest.mark.parametrize("place", ["file/new.parquet", "/proc/new.parquet"])
def test_a_command_that_could_not_write_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    done = CliRunner().invoke(build_app(), [*command, "-o", place])
    assert isinstance(done.exception, UserError), (done.exception, done.output)
    assert str(done.exception).startswith(f"-o {place}: ") and "name another file or folder" in str(done.exception)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_no_device_or_pipe_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Root's ``-o /dev/null`` would leave a file there, which all programs of the machine then fill."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "link").symlink_to("pipe")
    for place in ("pipe", "link"):
        done = CliRunner().invoke(build_app(), [*command, "-o", place])
        assert isinstance(done.exception, UserError), (done.exception, done.output)
        assert str(done.exception).startswith(f"-o {place}: is ") and "name " in str(done.exception)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    for one in (tmp_path / "there", tmp_path / "new" / "deep", tmp_path / "file"):
        assert to_write(one) == one
    assert folder_to_write(tmp_path / "new") == tmp_path / "new" and folder_to_write(None) is None
    with pytest.raises(UserError, match="file: is no folder"):
        folder_to_write(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is no folder"):
        to_write(tmp_path / "nowhere" / "x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "nowhere", "there"]


def test_an_index_that_could_not_be_written_is_said_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    done = CliRunner().invoke(build_app(), ["infer", "quickstart", "--index", "file/new.parquet"])
    assert isinstance(done.exception, UserError) and str(done.exception).startswith("--index file/new.parquet: ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
