"""Bundles are written whole or not at all, never over foreign files, and their bytes depend on the spec alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compiler import SpecError, compile_in_memory, compile_spec
from compiler.bundle import read_lock, write_bundle
from tests.compiler.golden_cases import REPOSITORY, spec_path


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return dict(compile_in_memory(spec_path("quickstart")).files)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_replaces_a_bundle(tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "x" / "local"
    write_bundle(folder, files)
    write_bundle(folder, files)
    assert contents(folder) == files
    assert [path.name for path in folder.parent.iterdir()] == ["local"]
    assert read_lock(folder) is not None
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_taken(tmp_path: Path, files: dict[str, str]) -> None:
    write_bundle(tmp_path / "new", files)
    assert contents(tmp_path / "new") == files


@pytest.mark.parametrize("name", ["thesis.tex", "liverl.lock"])
def test_foreign_folders_are_refused(tmp_path: Path, files: dict[str, str], name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(SpecError, match="no bundle"):
        write_bundle(tmp_path, files)
    assert contents(tmp_path) == {name: "{}"}


def test_a_file_of_the_user_in_a_bundle_is_not_lost(tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "b"
    write_bundle(folder, files)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"notes\.txt"):
        write_bundle(folder, files)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_file_or_link_in_the_way_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(SpecError, match="no bundle"):
            write_bundle(tmp_path / name, files)
    with pytest.raises(SpecError, match="cannot write"):
        write_bundle(tmp_path / "file" / "below", files)


def test_a_failing_write_leaves_the_old_bundle(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b"
    write_bundle(folder, files)
    real = Path.write_bytes

    def full_disk(path: Path, data: bytes) -> int:
        if path.name == "vllm.yaml":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises((SpecError, OSError), match="No space left"):
        write_bundle(folder, {**files, "runtime.json": "new"})
    assert contents(folder) == files
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_concurrent_writers_leave_one_whole_bundle(tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "b"
    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(write_bundle, folder, files) for _ in range(40)]:
            result.result()
    assert contents(folder) == files
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_bytes_do_not_depend_on_where_and_how(tmp_path: Path) -> None:
    """Another working directory, locale, time zone, hash seed and place of the specs give the same bytes; nor do other
    targets that were compiled before."""
    targets = ["local", "docker", "k8s", "ray", "skypilot"]
    specs = tmp_path / "elsewhere" / "my specs"
    specs.mkdir(parents=True)
    shutil.copy(spec_path("quickstart"), specs)
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(REPOSITORY),
        "USER": "somebody",
    }
    code = (
        f"import compiler\nfor target in {targets}:\n"
        f"    compiler.compile_spec({str(specs / 'quickstart.jsonnet')!r}, target=target, out=target)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for target in targets:
        assert contents(tmp_path / target) == compile_in_memory(spec_path("quickstart"), target=target).files


def test_the_resolved_spec_is_a_spec(tmp_path: Path) -> None:
    """``resolved.json`` compiles to the same configuration as the spec it came from."""
    first = compile_spec(spec_path("quickstart"), out=tmp_path / "a").files
    second = compile_in_memory(tmp_path / "a" / "resolved.json").files
    assert {name: first[name] for name in ("resolved.json", "runtime.json")} == {
        name: second[name] for name in ("resolved.json", "runtime.json")
    }


def test_runtime_json_is_the_contract(files: dict[str, str]) -> None:
    from runtime.config import RuntimeConfig

    config = RuntimeConfig.model_validate_json(files["runtime.json"])
    assert [one.temperature for one in config.validation] == [0.0, 1.0]
